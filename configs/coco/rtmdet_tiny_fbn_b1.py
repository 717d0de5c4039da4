# RTMDet-tiny, frozen batch norm, one image a step. Not trained here.
#   python tools/train.py configs/coco/rtmdet_tiny_fbn_b1.py --data DIR
# Nearest published: AP 40.9, SyncBN, 256 images a step
# (MMDetection, rtmdet_tiny_8xb32-300e_coco).
_base_ = './rtmdet_tiny_fbn_b2.py'
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.004 / 256))
auto_scale_lr = dict(base_batch_size=1)
