"""Accumulated micro-batches are one batch: gradients, averages, schedules, resumed runs."""

import copy
import random
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from small_detectors import CONFIGS, batch, build, split
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from sbzoo.detection import normalizers
from sbzoo.engine import loss_normalizers
from sbzoo.engine.loops import accumulated, mean
from sbzoo.engine.loss_normalizers import AVERAGES, NORMALIZERS
from sbzoo.errors import UserError

OBJECTS = [3, 0, 6, 1]  # of a picture each


class Recording(OptimWrapper):
    """Keeps the gradient that it would step with."""

    def step(self) -> None:
        (group,) = self.optimizer.param_groups
        self.gradient = torch.cat([p.grad.flatten() for p in group['params'] if p.grad is not None])


def gradient(model: nn.Module, window: list[dict], normalizer: str) -> tuple[Tensor, dict]:
    """As the loop takes it, and what it logs."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    wrapper = Recording(optimizer, accumulative_counts=len(window))
    window = copy.deepcopy(window)
    inner = model.module if is_model_wrapper(model) else model
    with NORMALIZERS[normalizer](inner).over(window, wrapper):
        log = mean([model.train_step(data, wrapper) for data in window])
    return wrapper.gradient, log


@pytest.mark.parametrize('name', ['lean retinanet', *CONFIGS])
def test_micro_batches_are_one_batch(name):
    """Of MMDetection's own losses of the whole; with its normaliser for each they are not."""
    model, whole = build(name), batch(OBJECTS, masks=name == 'mask')
    expected, log = gradient(model, [whole], 'batch')
    found, found_log = gradient(model, split(whole, 1), 'window')
    each, _ = gradient(model, split(whole, 1), 'batch')
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert (each - expected).norm() > 1e-3 * expected.norm()
    losses = [key for key in log if 'loss' in key]
    assert [found_log[key].item() for key in losses] == pytest.approx(
        [log[key].item() for key in losses], rel=1e-4
    )


@pytest.mark.parametrize('name', ['lean retinanet', 'retinanet', 'fcos', 'atss', 'detr'])
def test_what_objects_decide_is_counted_without_the_network(name):
    """After the first batch of a size, of other objects than that."""
    model, whole = build(name), batch(OBJECTS, seed=1)
    normalizer = NORMALIZERS['window'](model)
    with patch.dict(NORMALIZERS, known=lambda _: normalizer):
        gradient(model, split(batch([1] * 4), 1), 'known')
        with patch.object(model.backbone, 'forward', wraps=model.backbone.forward) as forward:
            found, _ = gradient(model, split(whole, 1), 'known')
    assert forward.call_count == len(OBJECTS)
    expected, _ = gradient(model, [whole], 'batch')
    assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize('name', ['gfl', 'rtmdet', 'faster', 'mask', 'cascade'])
def test_what_predictions_decide_is_not(name):
    assert not normalizers.ignores_predictions(build(name))


def test_the_last_window_is_smaller():
    """Of micro-batches of 2, 2 and 1 pictures."""
    model, whole = build('lean retinanet'), batch([*OBJECTS, 2])
    expected, _ = gradient(model, [whole], 'batch')
    found, _ = gradient(model, split(whole, 2), 'window')
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_counting_leaves_no_trace():
    """Running statistics and random numbers are those of a run that does not count."""
    norm = {'backbone.norm_cfg.spec': 'bn'}
    drawn = {'train_cfg.rpn.sampler.num': 8, 'train_cfg.rcnn.sampler.num': 8}
    states = []
    for normalizer in ('batch', 'window'):
        model = build('faster', **norm, **drawn)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        torch.manual_seed(1)
        gradient(model, split(batch(OBJECTS), 2), normalizer)
        states.append((model.state_dict(), torch.rand(3)))
        assert not torch.equal(
            before['backbone.bn1.running_mean'], states[-1][0]['backbone.bn1.running_mean']
        )
        assert not model._forward_hooks
        assert not model._forward_pre_hooks
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_sampled_rois_are_counted_as_they_are_drawn():
    model = build('mask', **{'train_cfg.rcnn.sampler.num': 4})
    counted = counted_twice(model, split(batch(OBJECTS, masks=True), 1))
    assert {name for name, _ in counted} == {
        'rpn_head',
        'roi_head.bbox_head',
        'roi_head.mask_head',
    }


def test_resized_batches_are_counted_as_they_are_resized():
    """By a size that the data preprocessor keeps for the batches to come."""
    resize = dict(type='BatchSyncRandomResize', random_size_range=(64, 192), size_divisor=32)
    model = build('fcos', **{'data_preprocessor.batch_augments': [dict(resize, interval=1)]})
    MessageHub.get_current_instance().update_info('iter', 0)
    random.seed(0)
    counted_twice(model, split(batch([4] * 3), 1))
    assert model.data_preprocessor.batch_augments[0]._input_size not in (None, (96, 96))


def counted_twice(model: nn.Module, window: list[dict]) -> list[tuple[str, float]]:
    """The normalisers of the counting pass, which have to be those of the training."""
    counted = []
    replaced = loss_normalizers.replaced

    def spied(model, replace, *options):
        def spy(name, value):
            counted.append((name, value))
            return replace(name, value)

        return replaced(model, spy, *options)

    with patch.object(loss_normalizers, 'replaced', spied):
        gradient(model, window, 'window')
    half = len(counted) // 2
    assert counted[:half] == counted[half:]
    return counted[:half]


def test_what_is_not_known_to_be_exact_is_named_once():
    model = build('retinanet')
    model.bbox_head.loss_cls = nn.Module()
    assert normalizers.unsupported(model) == ['Module']
    assert normalizers.unsupported(build('fcos')) == []
    normalizer = NORMALIZERS['window'](Line())
    with patch.object(loss_normalizers, 'print_log') as log:
        for _ in range(2):
            with normalizer.over([1, 2], None):
                pass
    assert 'the normaliser of Line is not known' in log.call_args.args[0]
    assert log.call_count == 1


def test_a_moving_average_is_its_formula():
    """Of the positives of each image, whatever is in a batch; at first detectron2's 100 of two."""
    hub = MessageHub.get_current_instance()
    hub.update_info(AVERAGES, {})
    model, average = build('lean retinanet'), 50.0
    for objects in ([3], [0, 6], [1]):
        whole = batch(objects)
        own, positives = gradient_and_positives(model, whole)
        found, _ = gradient(model, [whole], 'moving-average')
        average += (1 - 0.9 ** (len(objects) / 2)) * (positives / len(objects) - average)
        expected = own * positives / (average * len(objects))
        assert (found - expected).norm() < 1e-5 * expected.norm()
        assert hub.get_info(AVERAGES) == dict(bbox_head=pytest.approx(average))


def gradient_and_positives(model: nn.Module, whole: dict) -> tuple[Tensor, float]:
    counted = []

    def count(name: str, value: float) -> float:
        counted.append(value)
        return value

    with normalizers.replaced(model, count):
        own, _ = gradient(model, [whole], 'batch')
    return own, *counted


def test_two_stage_detectors_have_no_use_for_a_moving_average():
    model, whole = build('faster'), batch(OBJECTS)
    own, _ = gradient(model, [whole], 'batch')
    with patch.object(loss_normalizers, 'print_log') as log:
        found, _ = gradient(model, [whole], 'moving-average')
    assert torch.equal(found, own)
    assert 'FasterRCNN samples as many RoIs' in log.call_args.args[0]


class Line(BaseModel):
    """w * x, whose loss is its square."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, x, mode='loss'):
        return dict(loss=(self.w * x).square().mean())


def train(work_dir, steps: dict, size: int, together: int, resume: bool = False) -> Runner:
    """With a moving average, and a schedule that counts iterations."""
    numbers = torch.linspace(0.1, 1, 10)
    infinite = 'Infinite' if 'max_iters' in steps else 'Default'
    kind = 'Iter' if 'max_iters' in steps else 'Epoch'
    runner = Runner(
        Line(),
        str(work_dir),
        train_dataloader=dict(
            dataset=TensorDataset(numbers),
            batch_size=size,
            sampler=dict(type=f'{infinite}Sampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(type=f'Accumulating{kind}Loop', **steps),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=together),
        param_scheduler=dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=6),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch='max_epochs' in steps)
        ),
        custom_hooks=[dict(type='EMAHook', momentum=0.1), dict(type='ExactResumeHook')],
        randomness=dict(seed=0),
        experiment_name=f'{work_dir}{steps}{resume}'.replace('/', '_'),
        log_level='ERROR',
        resume=resume,
    )
    runner.train()
    return runner


def state(runner: Runner) -> dict[str, float]:
    average = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
    return dict(
        w=runner.model.w.item(),
        average=average.module.w.item(),
        lr=runner.optim_wrapper.get_lr()['lr'][0],
        iterations=runner.iter,
    )


@pytest.mark.parametrize('steps', [dict(max_epochs=2), dict(max_iters=8)], ids=['epochs', 'steps'])
def test_averages_schedules_and_iterations_count_updates(steps, tmp_path):
    """Two batches of 2 are one of 4; in the last update of an epoch, one of 2 is one of 2."""
    expected = state(train(tmp_path / 'whole', steps, 4, 1))
    assert state(train(tmp_path / 'split', steps, 2, 2)) == pytest.approx(expected, rel=1e-6)
    assert expected['iterations'] == steps.get('max_iters', 2 * 3)
    assert not np.isclose(expected['average'], expected['w'], rtol=1e-3)


@pytest.mark.parametrize('steps', ['max_epochs', 'max_iters'])
def test_a_resumed_run_ends_as_the_unbroken_one(steps, tmp_path):
    unbroken = state(train(tmp_path / 'unbroken', {steps: 4}, 2, 2))
    train(tmp_path / 'broken', {steps: 2}, 2, 2)
    assert state(train(tmp_path / 'broken', {steps: 4}, 2, 2, resume=True)) == unbroken


def test_networks_that_accumulate_over_different_numbers_are_refused():
    with pytest.raises(UserError, match=r'one number for all networks, not \[2, 4\]'):
        accumulated(dict(a=dict(accumulative_counts=2), b=dict(accumulative_counts=4)))
