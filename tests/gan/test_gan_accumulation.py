"""Micro-batches of a GAN give the gradients of one batch of them all, and the same averages."""

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from sbzoo.engine.options.config import load_config
from sbzoo.gan.networks import stylegan2

CONFIGS = {
    'dcgan_gn_b2': 32,
    'sngan_gn_b2': 32,
    'stylegan2_b8': 32,
    'r3gan_b8': 32,
    'cyclegan_in_b1': 32,
    'pix2pix_ln_b1': 64,
}
IMAGES = 4
EQUAL, LAST_IS_SMALLER = (2, 2), (3, 1)


class Recording(OptimWrapper):
    """Keeps the gradient that it steps with."""

    def step(self, **options) -> None:
        groups = self.optimizer.param_groups
        gradients = [p.grad.flatten() for g in groups for p in g['params'] if p.grad is not None]
        self.gradient = torch.cat(gradients)
        super().step(**options)


@pytest.fixture(autouse=True)
def _first_step(monkeypatch):
    """In float64, and without the one layer that looks at the other images of a batch."""
    monkeypatch.setattr(stylegan2, 'minibatch_stddev', lambda x: x[:, :1])
    MessageHub.get_current_instance().update_info('iter', 0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(config: str, **changes) -> nn.Module:
    """Without what is drawn for each micro-batch."""
    cfg = load_config(f'configs/{config}.py')
    cfg.model.update(changes)
    if 'image_size' in cfg.model:
        cfg.model.image_size = CONFIGS[config]
    if 'augment' in cfg.model:
        cfg.model.augment = ''
    if 'path_length' in cfg.model:
        cfg.model.path_length = None
        cfg.model.generator.style_mixing = 0
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout | stylegan2.SynthesisLayer):
            module.training = False
    return model


def batch(config: str) -> dict:
    generator = torch.Generator().manual_seed(1)
    shape = IMAGES, 3, CONFIGS[config], CONFIGS[config]

    def images() -> list[Tensor]:
        return list(torch.randint(256, shape, generator=generator, dtype=torch.uint8))

    if config.startswith(('cyclegan', 'pix2pix')):
        return dict(inputs=dict(source=images(), target=images()))
    labels = [BaseDataElement(gt_label=i % 10) for i in range(IMAGES)]
    return dict(inputs=images(), data_samples=labels)


def split(data: dict, sizes: tuple[int, ...]) -> list[dict]:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [_part(data, slice(end - n, end)) for n, end in zip(sizes, ends, strict=True)]


def _part(data: dict | list, chosen: slice) -> dict | list:
    if isinstance(data, dict):
        return {key: _part(value, chosen) for key, value in data.items()}
    return data[chosen]


def step(model: nn.Module, window: list[dict], interleaved: bool = False) -> dict[str, Tensor]:
    """The gradient of each network."""
    wrappers = OptimWrapperDict(
        **{
            name: Recording(torch.optim.SGD(network.parameters(), lr=1e-3), len(window))
            for name, network in model.networks().items()
        }
    )
    torch.manual_seed(3)
    for data in window if interleaved else [window]:
        model.train_step(data, wrappers)
    return {name: wrapper.gradient for name, wrapper in wrappers.items()}


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[float]:
    return [((other[k] - g).norm() / g.norm()).item() for k, g in one.items()]


@pytest.mark.parametrize('sizes', [EQUAL, LAST_IS_SMALLER], ids=['equal', 'last is smaller'])
@pytest.mark.parametrize('config', CONFIGS)
def test_micro_batches_are_one_batch(config, sizes):
    whole, parts, data = build(config), build(config), batch(config)
    found = differences(step(whole, [data]), step(parts, split(data, sizes)))
    assert max(found) < 1e-9
    one, other = (getattr(model, 'generator_ema', nn.Identity()) for model in (whole, parts))
    torch.testing.assert_close(list(other.parameters()), list(one.parameters()))
    assert [b for b in other.buffers() if not b.is_floating_point()] == [
        b for b in one.buffers() if not b.is_floating_point()
    ]  # images and updates of the average


def test_the_generator_meets_the_discriminator_after_its_step():
    """Where each micro-batch is for both networks in turn, all but the last meet the older one."""
    whole, parts, data = (*(build('r3gan_b8') for _ in range(2)), batch('r3gan_b8'))
    found = differences(step(whole, [data]), step(parts, split(data, EQUAL), interleaved=True))
    assert found[0] > 1e-3


def test_pools_are_given_images_in_the_same_order():
    """Also where they are full and draw what they give back."""
    whole, parts = (build('cyclegan_in_b1', pool_size=3) for _ in range(2))
    data = batch('cyclegan_in_b1')
    assert max(differences(step(whole, [data]), step(parts, split(data, EQUAL)))) < 1e-9
    torch.testing.assert_close(parts.pool.images, whole.pool.images)
    assert whole.pool.filled == 3
