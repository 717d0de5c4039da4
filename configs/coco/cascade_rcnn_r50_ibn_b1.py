# Cascade R-CNN, IBN-a, one image a step. Not trained here.
#   python tools/train.py configs/coco/cascade_rcnn_r50_ibn_b1.py --data DIR
# Nearest published: AP 40.3, frozen BN, 16 images a step
# (MMDetection, cascade-rcnn_r50_fpn_1x_coco).
_base_ = './cascade_rcnn_r50_ibn_b2.py'
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.02 / 16))
auto_scale_lr = dict(base_batch_size=1)
