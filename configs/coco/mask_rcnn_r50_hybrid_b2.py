# Mask R-CNN, hybrid norm, batch size 2. Not trained here.
#   python tools/train.py configs/coco/mask_rcnn_r50_hybrid_b2.py --data DIR
# Nearest published: AP 38.2 (mask 34.7), frozen BN, batch size 16
# (MMDetection, mask-rcnn_r50_fpn_1x_coco).
_base_ = ['./_base_/mask_rcnn.py', './_base_/hybrid.py']
model = _base_.trunk
