# Faster R-CNN, frozen batch norm, batch size 2. Not trained here.
#   python tools/train.py configs/coco/faster_rcnn_r50_fbn_b2.py --data DIR
# Nearest published: AP 37.4, frozen BN, batch size 16
# (MMDetection, faster-rcnn_r50_fpn_1x_coco).
_base_ = ['./_base_/faster_rcnn.py', './_base_/fbn.py']
model = _base_.trunk
