# Cascade R-CNN, group norm and weight standardisation, batch size 2. Not trained here.
#   python tools/train.py configs/coco/cascade_rcnn_r50_gn_ws_b2.py --data DIR
# Nearest published: AP 40.3, frozen BN, batch size 16
# (MMDetection, cascade-rcnn_r50_fpn_1x_coco).
_base_ = ['./_base_/cascade_rcnn.py', './_base_/gn_ws.py']
stages = _base_.model.roi_head.bbox_head
model = dict(
    **_base_.trunk,
    roi_head=dict(bbox_head=[dict(stage, conv_cfg=dict(type='ConvWS')) for stage in stages]),
)
