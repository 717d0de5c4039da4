_base_ = './dcgan_ln_b2.py'
train_dataloader = dict(batch_size=1)
