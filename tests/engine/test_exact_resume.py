"""A run that was stopped between two epochs and resumed is the unbroken run."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from sbzoo.engine.hooks.resume import ExactResumeHook
from sbzoo.engine.options.config import load_config, use_sbzoo

LR, BATCHES, TOGETHER = 0.1, 5, 2


@pytest.mark.parametrize(('seed', 'epoch'), [(2**31 - 1, 0), (0, 4294), (0, 4295), (2**32 - 1, 7)])
def test_every_epoch_of_every_seed_has_numbers_of_its_own(seed, epoch):
    drawn = set()
    for later in range(2):
        ExactResumeHook().before_train_epoch(SimpleNamespace(seed=seed, epoch=epoch + later))
        drawn.add((random.random(), np.random.rand(), torch.rand(()).item()))
    assert all(len(set(numbers)) == 2 for numbers in zip(*drawn, strict=True))


class Noisy(Dataset):
    """Numbers that a worker draws anew whenever it is asked."""

    metainfo: dict = {}  # noqa: RUF012

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: int) -> dict:
        return dict(x=np.float32(np.random.rand()), index=index)


class Line(BaseModel):
    """w * x, whose loss is its square; keeps what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, x, index, mode='loss'):
        self.seen += x.tolist()
        return dict(loss=(self.w * x).square().mean())


def train(work_dir, epochs: int, workers: int = 0, accumulate: int = 1, resume: bool = False):
    runner = Runner(
        Line(),
        str(work_dir),
        train_dataloader=dict(
            dataset=Noisy(),
            batch_size=1,
            num_workers=workers,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(type='AccumulatingEpochLoop', max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=LR), accumulative_counts=accumulate),
        custom_hooks=[dict(type='ExactResumeHook')],
        randomness=dict(seed=0),
        experiment_name=f'{work_dir}{epochs}{resume}'.replace('/', '_'),
        log_level='ERROR',
        resume=resume,
    )
    runner.train()
    return runner.model


@pytest.mark.parametrize('workers', [0, 2])
def test_workers_draw_other_numbers_in_each_epoch_and_the_same_after_a_resume(tmp_path, workers):
    unbroken = train(tmp_path / 'unbroken', 2, workers).seen
    assert len(set(unbroken)) == 2 * BATCHES
    assert train(tmp_path / 'broken', 1, workers).seen == unbroken[:BATCHES]
    assert train(tmp_path / 'broken', 2, workers, resume=True).seen == unbroken[BATCHES:]


def test_accumulation_leaves_nothing_for_the_next_epoch(tmp_path):
    """By hand: the mean gradient of two batches, and in the end of the one that is left."""
    unbroken = train(tmp_path / 'unbroken', 2, accumulate=TOGETHER)
    train(tmp_path / 'broken', 1, accumulate=TOGETHER)
    resumed = train(tmp_path / 'broken', 2, accumulate=TOGETHER, resume=True)
    assert unbroken.w.item() == resumed.w.item()
    w = 1.0
    for epoch in np.reshape(unbroken.seen, (2, BATCHES)):
        for start in range(0, BATCHES, TOGETHER):
            x = epoch[start : start + TOGETHER]
            w -= LR * 2 * w * np.square(x).mean()
    assert unbroken.w.item() == pytest.approx(w, rel=1e-6)


def test_workers_that_outlive_an_epoch_are_not_used():
    cfg = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    assert cfg.train_dataloader.persistent_workers
    use_sbzoo(cfg)
    assert not cfg.train_dataloader.persistent_workers
