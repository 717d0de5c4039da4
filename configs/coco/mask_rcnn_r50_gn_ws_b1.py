# Mask R-CNN, group norm and weight standardisation, one image a step. Not trained here.
#   python tools/train.py configs/coco/mask_rcnn_r50_gn_ws_b1.py --data DIR
# Nearest published: AP 40.6 (mask 36.6), GN+WS, 24 epochs, 16 images a step
# (MMDetection, mask-rcnn_r50_fpn_gn-ws-all_2x_coco).
_base_ = './mask_rcnn_r50_gn_ws_b2.py'
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.02 / 16))
auto_scale_lr = dict(base_batch_size=1)
