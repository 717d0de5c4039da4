_base_ = './dcgan_hybrid_b2.py'
train_dataloader = dict(batch_size=8)
