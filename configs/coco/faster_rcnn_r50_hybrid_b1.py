# Faster R-CNN, hybrid norm, one image a step. Not trained here.
#   python tools/train.py configs/coco/faster_rcnn_r50_hybrid_b1.py --data DIR
# Nearest published: AP 37.4, frozen BN, 16 images a step
# (MMDetection, faster-rcnn_r50_fpn_1x_coco).
_base_ = './faster_rcnn_r50_hybrid_b2.py'
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.02 / 16))
auto_scale_lr = dict(base_batch_size=1)
