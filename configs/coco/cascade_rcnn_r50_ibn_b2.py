# Cascade R-CNN, IBN-a, batch size 2. Not trained here.
#   python tools/train.py configs/coco/cascade_rcnn_r50_ibn_b2.py --data DIR
# Nearest published: AP 40.3, frozen BN, batch size 16
# (MMDetection, cascade-rcnn_r50_fpn_1x_coco).
_base_ = ['./_base_/cascade_rcnn.py', './_base_/ibn.py']
model = _base_.trunk
