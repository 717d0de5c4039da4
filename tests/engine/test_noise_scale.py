"""The gradient noise scale against closed forms, and what the hooks log of a run."""

import itertools
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import TensorDataset

from sbzoo.engine.hooks.alpha import alphas
from sbzoo.engine.hooks.noise_scale import INFO, NoiseScale, explain, signal_and_noise, summary
from sbzoo.engine.visualize import draw_curves, read_curves
from sbzoo.errors import UserError
from sbzoo.norm import Norm

FEATURES = 6


def test_estimates_are_unbiased():
    """Over every batch that can be drawn from five gradients, |G|^2 and tr(Sigma) come out."""
    gradients = torch.randn(5, 3, dtype=torch.float64) + 0.5

    def mean_square(batch: int) -> float:
        means = [gradients[list(b)].mean(0) for b in itertools.product(range(5), repeat=batch)]
        return torch.stack(means).square().sum(1).mean().item()

    signal, noise = signal_and_noise(mean_square(2), mean_square(4), 2, 4)
    assert signal == pytest.approx(gradients.mean(0).square().sum().item(), rel=1e-12)
    assert noise == pytest.approx(gradients.var(0, correction=0).sum().item(), rel=1e-12)


def test_averages_start_at_the_first_value_and_forget():
    scale = NoiseScale(decay=0.5)
    assert scale.images is None
    scale.update(signal=2.0, noise=12.0)
    assert (scale.signal, scale.noise, scale.images) == (2.0, 12.0, 6.0)
    scale.update(signal=5.0, noise=6.0)  # weights 1/3 and 2/3 after the correction
    assert (scale.signal, scale.noise) == (pytest.approx(4.0), pytest.approx(8.0))
    scale.update(signal=-100.0, noise=6.0)  # one estimate may well be negative
    assert scale.images is None


class Regression(BaseModel):
    """A batch mean of squared errors, with all that training may disturb: noise, statistics."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(FEATURES))
        self.hybrid = Norm(2, 'hybrid')  # its running statistics move
        nn.init.constant_(self.hybrid.alpha_logit, 0.7)
        self.dropout = dropout

    def forward(self, x, y):
        self.hybrid(torch.randn(2, 2, 3, 3))
        kept = 1.0 if not self.dropout else (torch.rand_like(x) > self.dropout) + np.random.rand()
        return ((kept * x @ self.weight - y) ** 2).mean()

    def train_step(self, data, optim_wrapper):
        if self.dropout:
            data[0].add_(0.1)  # some preprocessors change a batch in place
        with optim_wrapper.optim_context(self):
            loss = self(*data)
        optim_wrapper.update_params(loss)
        return dict(loss=loss.detach())


def dataset(samples):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, FEATURES, generator=generator) * torch.arange(1, FEATURES + 1)
    y = x @ torch.ones(FEATURES) + 3 * torch.randn(samples, generator=generator)
    return TensorDataset(x, y)


def train(work_dir, *hooks, model=None, samples=200, batch=2, lr=1e-3, epochs=1, resume=False):
    runner = Runner(
        model or Regression(),
        str(work_dir),
        train_dataloader=dict(
            dataset=dataset(samples),
            batch_size=batch,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=20)),
        custom_hooks=[dict(type='ExactResumeHook'), *hooks],
        visualizer=dict(
            type='Visualizer',
            vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
        ),
        randomness=dict(seed=0),
        experiment_name=f'{work_dir}{epochs}{resume}'.replace('/', '_'),
        default_scope='mmdet',
        log_level='ERROR',
        resume=resume,
    )
    runner.train()
    return runner


MEASURE = dict(type='GradientNoiseScaleHook', interval=10, batches=5)


@pytest.mark.parametrize('batch', [1, 4])
def test_hook_measures_the_closed_form(tmp_path, batch):
    """At fixed weights, |G|^2 and tr(Sigma) of single samples, whatever the batch is."""
    x, y = dataset(1000).tensors
    gradients = -2 * y[:, None] * x
    signal = gradients.mean(0).square().sum().item()
    noise = gradients.var(0).sum().item()
    steady = dict(MEASURE, batches=10, decay=0.999)
    runner = train(tmp_path, steady, samples=1000, batch=batch, lr=0.0, epochs=batch)
    found = summary(runner.message_hub)
    assert found['measurements'] == 1000 // 10 - 1
    assert found['signal'] == pytest.approx(signal, rel=0.1)
    assert found['noise'] == pytest.approx(noise, rel=0.1)
    assert found['images'] == pytest.approx(noise / signal, rel=0.15)


def trajectory(runner):
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    return list(losses), {k: v.clone() for k, v in runner.model.state_dict().items()}


def test_hooks_leave_the_training_as_it_is(tmp_path):
    alone = train(tmp_path / 'a', model=seeded_model())
    watched = train(tmp_path / 'b', MEASURE, dict(type='AlphaHook'), model=seeded_model())
    assert summary(watched.message_hub)['measurements'] == 9
    (losses, state), (watched_losses, watched_state) = trajectory(alone), trajectory(watched)
    assert losses == watched_losses
    assert all(torch.equal(state[k], watched_state[k]) for k in state)


def seeded_model():
    torch.manual_seed(0)
    return Regression(dropout=0.3)


def test_resumed_run_goes_on_with_its_averages(tmp_path):
    longer = dict(MEASURE, interval=49)  # the end of an epoch cuts a third short
    unbroken = train(tmp_path / 'a', longer, model=seeded_model(), epochs=2)
    train(tmp_path / 'b', longer, model=seeded_model(), epochs=1)
    resumed = train(tmp_path / 'b', longer, model=seeded_model(), epochs=2, resume=True)
    assert resumed.message_hub.get_info(INFO)['measured'] == 3 - 1
    assert resumed.message_hub.get_info(INFO) == unbroken.message_hub.get_info(INFO)
    assert trajectory(resumed)[0] == trajectory(unbroken)[0]


def test_log_tensorboard_and_picture_have_every_curve(tmp_path):
    runner = train(tmp_path, MEASURE, dict(type='AlphaHook'))
    names = {'loss', 'noise_scale', 'alpha', 'alpha_min', 'alpha_max', 'alpha/hybrid'}
    events = EventAccumulator(str(next(tmp_path.glob('*/vis_data/events.*')))).Reload()
    curves = read_curves(tmp_path)
    for name in names:
        assert set(curves[name]) <= set(range(20, 101, 20)), name
        assert 100 in curves[name], name
        logged = {e.step: e.value for e in events.Scalars(name)}
        assert logged == pytest.approx(curves[name], rel=1e-5), name
    assert curves['alpha/hybrid'][100] == pytest.approx(alphas(runner.model)['hybrid'], abs=1e-4)
    assert draw_curves(tmp_path).read_bytes().startswith(b'\x89PNG')


def test_console_shows_the_range_of_alphas_only(tmp_path):
    runner = train(tmp_path, dict(type='AlphaHook'))
    _, line = runner.log_processor.get_log_after_iter(runner, 99, 'train')
    assert 'alpha_min: 0.6682  alpha_max: 0.6682' in line
    assert 'alpha/' not in line


def test_alphas_of_channels_are_averaged():
    model = Regression()
    model.hybrid.alpha_logit = nn.Parameter(torch.tensor([0.2, 0.6]).logit())
    assert alphas(model) == dict(hybrid=pytest.approx(0.4))
    assert alphas(nn.Linear(1, 1)) == {}


def test_model_without_hybrids_logs_no_alpha(tmp_path):
    model = Regression()
    model.hybrid = nn.Identity()
    train(tmp_path, dict(type='AlphaHook'), model=model)
    assert not [name for name in read_curves(tmp_path) if 'alpha' in name]


def test_words_for_what_was_found():
    hub = MessageHub.get_instance('words')
    assert explain(hub) is None
    hub.update_info(INFO, dict(decay=0.9, measured=3, signal_sum=2.0, noise_sum=6.2))
    assert explain(hub).startswith(
        'larger batches stop paying at about batch size 3.1 (measurements: 3)'
    )
    hub.update_info(INFO, dict(decay=0.9, measured=3, signal_sum=0.05, noise_sum=6.2))
    assert explain(hub).startswith('larger batches stop paying at about batch size 120 (')
    hub.update_info(INFO, dict(decay=0.9, measured=3, signal_sum=-2.0, noise_sum=6.2))
    assert explain(hub).startswith('no limit found')


def test_too_short_a_run_says_so(tmp_path):
    with patch.object(MMLogger, 'warning') as warning:
        runner = train(tmp_path, dict(MEASURE, interval=5000))
    assert summary(runner.message_hub) is None
    assert 'noise scale: not measured' in warning.call_args.args[0]
    with pytest.raises(UserError, match='give 2 or more'):
        train(tmp_path, dict(MEASURE, batches=1))
