# Faster R-CNN, group norm and weight standardisation, batch size 2. Not trained here.
#   python tools/train.py configs/coco/faster_rcnn_r50_gn_ws_b2.py --data DIR
# Nearest published: AP 39.7, GN+WS, batch size 16
# (MMDetection, faster-rcnn_r50_fpn_gn-ws-all_1x_coco).
_base_ = ['./_base_/faster_rcnn.py', './_base_/gn_ws.py']
model = dict(**_base_.trunk, roi_head=dict(bbox_head=dict(conv_cfg=dict(type='ConvWS'))))
