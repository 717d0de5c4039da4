# FCOS, group norm, one image a step. Not trained here.
#   python tools/train.py configs/coco/fcos_r50_gn_b1.py --data DIR
# Nearest published: AP 36.6, frozen BN, GN head, 16 images a step
# (MMDetection, fcos_r50-caffe_fpn_gn-head_1x_coco).
_base_ = './fcos_r50_gn_b2.py'
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.01 / 16))
auto_scale_lr = dict(base_batch_size=1)
