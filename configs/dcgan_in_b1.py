_base_ = './dcgan_in_b2.py'
train_dataloader = dict(batch_size=1)
