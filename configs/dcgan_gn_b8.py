_base_ = './dcgan_gn_b2.py'
train_dataloader = dict(batch_size=8)
