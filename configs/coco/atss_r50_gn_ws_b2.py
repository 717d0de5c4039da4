# ATSS, group norm and weight standardisation, batch size 2. Not trained here.
#   python tools/train.py configs/coco/atss_r50_gn_ws_b2.py --data DIR
# Nearest published: AP 39.4, frozen BN, GN head, batch size 16
# (MMDetection, atss_r50_fpn_1x_coco).
_base_ = ['./_base_/atss.py', './_base_/gn_ws.py']
model = dict(**_base_.trunk, bbox_head=dict(conv_cfg=dict(type='ConvWS')))
