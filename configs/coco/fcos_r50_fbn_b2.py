# FCOS, frozen batch norm, batch size 2. Not trained here.
#   python tools/train.py configs/coco/fcos_r50_fbn_b2.py --data DIR
# Nearest published: AP 36.6, frozen BN, GN head, batch size 16
# (MMDetection, fcos_r50-caffe_fpn_gn-head_1x_coco).
_base_ = ['./_base_/fcos.py', './_base_/fbn.py']
model = _base_.trunk
