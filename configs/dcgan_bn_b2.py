_base_ = [
    './_base_/dcgan.py',
    './_base_/evaluation_digits32.py',
    './_base_/gan_runtime.py',
]
model = dict(generator=dict(norm='bn'))
