# Mask R-CNN, IBN-a, batch size 2. Not trained here.
#   python tools/train.py configs/coco/mask_rcnn_r50_ibn_b2.py --data DIR
# Nearest published: AP 38.2 (mask 34.7), frozen BN, batch size 16
# (MMDetection, mask-rcnn_r50_fpn_1x_coco).
_base_ = ['./_base_/mask_rcnn.py', './_base_/ibn.py']
model = _base_.trunk
