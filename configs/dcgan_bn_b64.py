_base_ = './dcgan_bn_b2.py'
train_dataloader = dict(batch_size=64)
