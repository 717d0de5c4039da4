# RTMDet-tiny, frozen batch norm, batch size 2. Not trained here.
#   python tools/train.py configs/coco/rtmdet_tiny_fbn_b2.py --data DIR
# Nearest published: AP 40.9, SyncBN, batch size 256
# (MMDetection, rtmdet_tiny_8xb32-300e_coco).
_base_ = './_base_/rtmdet_tiny.py'
model = dict(backbone=dict(norm_cfg=dict(type='Norm', spec='fbn')))  # the rest has group norm
