# Mask R-CNN, group norm and weight standardisation, batch size 2. Not trained here.
#   python tools/train.py configs/coco/mask_rcnn_r50_gn_ws_b2.py --data DIR
# Nearest published: AP 40.6 (mask 36.6), GN+WS, 24 epochs, batch size 16
# (MMDetection, mask-rcnn_r50_fpn_gn-ws-all_2x_coco).
_base_ = ['./_base_/mask_rcnn.py', './_base_/gn_ws.py']
model = dict(
    **_base_.trunk,
    roi_head=dict(
        bbox_head=dict(conv_cfg=dict(type='ConvWS')), mask_head=dict(conv_cfg=dict(type='ConvWS'))
    ),
)
