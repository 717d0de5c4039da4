# Mask R-CNN, group norm, batch size 2. Not trained here.
#   python tools/train.py configs/coco/mask_rcnn_r50_gn_b2.py --data DIR
# Nearest published: AP 40.2 (mask 36.4), GN, 24 epochs, batch size 16
# (MMDetection, mask-rcnn_r50_fpn_gn-all_2x_coco).
_base_ = ['./_base_/mask_rcnn.py', './_base_/gn.py']
model = _base_.trunk
