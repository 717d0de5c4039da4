# RetinaNet, IBN-a, batch size 2. Not trained here.
#   python tools/train.py configs/coco/retinanet_r50_ibn_b2.py --data DIR
# Nearest published: AP 36.5, frozen BN, batch size 16
# (MMDetection, retinanet_r50_fpn_1x_coco).
_base_ = ['./_base_/retinanet.py', './_base_/ibn.py']
model = _base_.trunk
