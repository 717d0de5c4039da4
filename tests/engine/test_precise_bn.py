"""The hook that re-estimates batch statistics does that and nothing else."""

from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from sbzoo.checkpoint.resolve import latest_checkpoint
from sbzoo.engine.convert_checkpoint import run_every_head
from sbzoo.engine.options.config import load_config

LOOPS = dict(
    epochs=dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1),
    iterations=dict(type='IterBasedTrainLoop', max_iters=8, val_interval=4),
)


def trained(loop: str, work_dir: Path, *hooks: dict) -> Runner:
    """Two epochs of eight images at batch 2, validated after each."""
    cfg = load_config('configs/retinanet_bn_b2.py')
    cfg.train_dataloader.dataset.indices = 8
    for dataloader in (cfg.val_dataloader, cfg.test_dataloader):
        dataloader.dataset.indices = 2
    cfg.work_dir, cfg.train_cfg, cfg.param_scheduler = str(work_dir), LOOPS[loop], None
    cfg.custom_hooks += hooks
    if loop == 'iterations':
        cfg.train_dataloader.sampler.type = 'InfiniteSampler'
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=4)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


@pytest.mark.parametrize('loop', LOOPS)
def test_only_running_statistics_differ_and_they_are_those_of_the_images(digits, tmp_path, loop):
    hook = dict(type='PreciseBNHook', num_images=8)
    with_hook, without = (trained(loop, tmp_path / str(len(h)), *h) for h in ([hook], []))
    theirs = without.model.state_dict()
    for key, value in with_hook.model.state_dict().items():
        assert torch.equal(value, theirs[key]) != ('running_' in key), key
    norm, inputs = with_hook.model.backbone.bn1, []
    handle = norm.register_forward_pre_hook(lambda m, args: inputs.append(args[0]))
    dataset = with_hook.train_dataloader.dataset
    with torch.no_grad():
        run_every_head(with_hook.model, pseudo_collate([dataset[i] for i in range(len(dataset))]))
    handle.remove()
    (x,) = inputs
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, x.var((0, 2, 3)))
    saved = torch.load(latest_checkpoint(tmp_path / '1'), weights_only=False)['state_dict']
    assert torch.equal(saved['backbone.bn1.running_mean'], norm.running_mean)
