# ATSS, group norm and weight standardisation, one image a step. Not trained here.
#   python tools/train.py configs/coco/atss_r50_gn_ws_b1.py --data DIR
# Nearest published: AP 39.4, frozen BN, GN head, 16 images a step
# (MMDetection, atss_r50_fpn_1x_coco).
_base_ = './atss_r50_gn_ws_b2.py'
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.01 / 16))
auto_scale_lr = dict(base_batch_size=1)
