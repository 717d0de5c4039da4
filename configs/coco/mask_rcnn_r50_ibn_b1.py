# Mask R-CNN, IBN-a, one image a step. Not trained here.
#   python tools/train.py configs/coco/mask_rcnn_r50_ibn_b1.py --data DIR
# Nearest published: AP 38.2 (mask 34.7), frozen BN, 16 images a step
# (MMDetection, mask-rcnn_r50_fpn_1x_coco).
_base_ = './mask_rcnn_r50_ibn_b2.py'
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.02 / 16))
auto_scale_lr = dict(base_batch_size=1)
