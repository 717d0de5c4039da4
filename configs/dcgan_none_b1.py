_base_ = './dcgan_none_b2.py'
train_dataloader = dict(batch_size=1)
