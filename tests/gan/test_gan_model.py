"""Adversarial models: who is updated by what, averages, samples, translations."""

import copy

import pytest
import torch
import torch.distributed as dist
from mmengine.logging import MessageHub
from mmengine.model import MMSeparateDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import nn
from torch.multiprocessing import start_processes
from torch.nn.functional import l1_loss

from sbzoo.data.datasets import LatentDataset
from sbzoo.engine.optim import PlayersOptimWrapperConstructor
from sbzoo.errors import UserError
from sbzoo.gan.ema import RampUpEMA
from sbzoo.gan.models.gan import GAN
from sbzoo.gan.models.image_to_image import CycleGAN, ImagePool, Pix2Pix
from sbzoo.gan.networks.image_to_image import UnetGenerator
from sbzoo.gan.path_length import PathLengthPenalty
from sbzoo.gan.preprocessor import ImagePreprocessor
from sbzoo.images import to_uint8

SIZE = 8


class TinyGenerator(nn.Module):
    noise_size, image_size = 4, SIZE

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.net = nn.Linear(4 + num_classes, 3 * SIZE * SIZE)

    def forward(self, noise, labels=None):
        if self.num_classes:
            noise = torch.cat([noise, nn.functional.one_hot(labels, self.num_classes)], dim=1)
        return self.net(noise).tanh().view(-1, 3, SIZE, SIZE)


class TinyDiscriminator(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.net = nn.Conv2d(channels, 1, SIZE)

    def forward(self, images, labels=None):
        return self.net(images).flatten()


class TinyTranslator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return self.net(images)


@pytest.fixture(autouse=True)
def registered():
    for module in (TinyGenerator, TinyDiscriminator, TinyTranslator):
        MODELS.register_module(module=module, force=True)
    MessageHub.get_current_instance().update_info('iter', 0)
    torch.manual_seed(0)


def gan(num_classes: int = 0, **options) -> GAN:
    generator = dict(type='TinyGenerator', num_classes=num_classes)
    return GAN(generator, dict(type='TinyDiscriminator'), **options)


def optimizers(model, lr=0.1, **options):
    wrapper = dict(optimizer=dict(type='SGD', lr=lr), **options)
    constructor = PlayersOptimWrapperConstructor(dict(generator=wrapper, discriminator=wrapper))
    return constructor(model)


def images(num: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(256, (num, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8))


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_the_discriminators_step_gives_the_generator_no_gradient():
    model = gan(penalties=[dict(type='r1', weight=1.0), dict(type='r2', weight=1.0)])
    wrappers = optimizers(model)
    before = weights(model.generator), weights(model.discriminator)
    real = model.data_preprocessor(dict(inputs=images(2)))['inputs']
    model._train_discriminator([(real, None)], wrappers['discriminator'], step=0)
    assert all(p.grad is None for p in model.generator.parameters())
    assert torch.equal(weights(model.generator), before[0])
    assert not torch.equal(weights(model.discriminator), before[1])


def test_the_generators_step_leaves_the_discriminator_alone():
    model = gan(loss='relativistic')
    wrappers = optimizers(model)
    before = weights(model.generator), weights(model.discriminator)
    real = model.data_preprocessor(dict(inputs=images(2)))['inputs']
    model._train_generator([(real, None)], wrappers['generator'], step=0)
    assert all(p.grad is None for p in model.discriminator.parameters())
    assert all(p.requires_grad for p in model.discriminator.parameters())
    assert torch.equal(weights(model.discriminator), before[1])
    assert not torch.equal(weights(model.generator), before[0])


def test_the_generator_takes_its_turn():
    model = gan(discriminator_steps=3)
    wrappers = optimizers(model)
    changed = []
    for step in range(6):
        MessageHub.get_current_instance().update_info('iter', step)
        before = weights(model.generator)
        log = model.train_step(dict(inputs=images(2)), wrappers)
        changed.append(not torch.equal(before, weights(model.generator)))
        assert ('loss_g' in log) == changed[-1]
    assert changed == [False, False, True] * 2


def test_lazy_penalties_are_as_strong_on_average():
    always, lazy = (gan(penalties=[dict(type='r1', weight=2.0, interval=i)]) for i in (1, 4))
    lazy.load_state_dict(always.state_dict())
    real = always.data_preprocessor(dict(inputs=images(2)))['inputs']
    values = [always._penalise(real, real, None, step)['loss_r1'].item() for step in range(4)]
    lazily = [lazy._penalise(real, real, None, step) for step in range(4)]
    assert [list(losses) for losses in lazily] == [['loss_r1'], [], [], []]
    assert lazily[0]['loss_r1'].item() == pytest.approx(sum(values))


def test_path_length_is_computed_at_every_interval_th_step_of_the_generator():
    small = dict(image_size=32, base_channels=2, max_channels=4)
    generator = dict(type='StyleGAN2Generator', noise_size=4, mapping_layers=1, **small)
    discriminator = dict(type='StyleGAN2Discriminator', **small)
    model = GAN(
        generator, discriminator, path_length=dict(weight=2.0, interval=2), discriminator_steps=3
    )
    wrappers, real = optimizers(model, lr=1e-4), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    has_penalty = []
    for step in range(12):
        MessageHub.get_current_instance().update_info('iter', step)
        log = model.train_step(dict(inputs=list(real)), wrappers)
        has_penalty.append('loss_path_length' in log)
    assert [step for step, found in enumerate(has_penalty) if found] == [2, 8]
    assert model.state_dict()['path_length.mean'] > 0


def test_ema_is_the_sum_of_its_definition():
    source = nn.BatchNorm2d(2)
    ema = RampUpEMA(source, half_life=40, ramp_up=0.5)
    expected = None
    for step in range(1, 30):
        nn.init.normal_(source.weight)
        source.running_mean.normal_()
        source.num_batches_tracked.fill_(step)
        ema.update(source, images=4)
        beta = 0.5 ** (4 / min(40, 0.5 * 4 * step))
        now = torch.stack([source.weight.detach(), source.running_mean])
        expected = now if expected is None else beta * expected + (1 - beta) * now
    found = torch.stack([ema.module.weight, ema.module.running_mean])
    assert torch.allclose(found, expected, atol=1e-6)
    assert ema.module.num_batches_tracked == 29
    assert not any(p.requires_grad for p in ema.parameters())


def test_ema_without_a_half_life_is_a_copy():
    source = nn.Linear(2, 2)
    ema = RampUpEMA(source, half_life=40)
    ema.half_life = 0
    for _ in range(2):
        nn.init.normal_(source.weight)
        ema.update(source, images=4)
        assert torch.equal(ema.module.weight, source.weight)


def test_ema_goes_on_from_a_checkpoint():
    source = nn.Linear(2, 2)
    ema = RampUpEMA(source, half_life=40)
    for _ in range(3):
        nn.init.normal_(source.weight)
        ema.update(source, images=4)
    other = RampUpEMA(nn.Linear(2, 2), half_life=40)
    other.load_state_dict(ema.state_dict())
    nn.init.normal_(source.weight)
    for average in (ema, other, copy.deepcopy(ema)):
        average.update(source, images=4)
        assert torch.equal(average.module.weight, ema.module.weight)


def test_a_sample_depends_on_its_seed_alone():
    model = gan(ema=dict(half_life=10))
    together = model.sample([3, 4, 5])
    alone = model.sample([4])
    assert torch.allclose(together[1:2], alone, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_samples_are_of_the_average():
    model = gan(ema=dict(half_life=1000))
    model.train_step(dict(inputs=images(2)), optimizers(model))
    before = model.sample([0])
    nn.init.zeros_(model.generator.net.weight)
    assert torch.equal(model.sample([0]), before)


def test_conditional_samples_follow_their_labels():
    model = gan(num_classes=3)
    dataset = LatentDataset(num=6, seed=1, num_classes=3)
    items = [dataset[i] for i in range(6)]
    assert [item['data_samples'].gt_label for item in items] == [0, 1, 2] * 2
    data = dict(
        inputs=dict(seed=[item['inputs']['seed'] for item in items]),
        data_samples=[item['data_samples'] for item in items],
    )
    found = torch.stack([sample.fake_img for sample in model.val_step(data)])
    expected = model.generator(model.noise(range(1, 7)), torch.arange(6) % 3)
    assert torch.equal(found, to_uint8(expected))
    labels = [BaseDataElement(gt_label=2) for _ in range(2)]
    log = model.train_step(dict(inputs=images(2), data_samples=labels), optimizers(model))
    assert {'loss_d', 'loss_g', 'D_real', 'D_fake'} <= log.keys()


def test_labels_follow_the_model_to_its_device():
    model = gan(num_classes=3).to('meta')
    assert model.data_preprocessor.device == torch.device('meta')
    images = model.sample([5, 6], labels=torch.tensor([1, 2]))
    assert images.shape == (2, 3, SIZE, SIZE)
    assert images.device == torch.device('meta')


def test_pixels_come_back_as_they_went_in():
    batch = images(2)
    inputs = ImagePreprocessor()(dict(inputs=dict(source=batch)))['inputs']['source']
    assert inputs.min() >= -1
    assert inputs.max() <= 1
    assert torch.equal(to_uint8(inputs), torch.stack(batch))


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match=r'(?s)wgan.*hinge'):
        gan(loss='wgan')
    with pytest.raises(UserError, match=r'(?s)r3.*r1'):
        gan(penalties=[dict(type='r3', weight=1.0)])
    with pytest.raises(TypeError, match='gp_norm_mode'):
        gan(penalties=[dict(type='r1', weight=1.0, gp_norm_mode='HWC')])
    with pytest.raises(UserError, match='networks generator, discriminator'):
        PlayersOptimWrapperConstructor(dict(generator=dict(optimizer=dict(type='SGD', lr=1))))(
            gan()
        )


def test_both_networks_have_mmengines_optimizers():
    model = gan()
    built = build_optim_wrapper(
        model,
        dict(
            constructor='PlayersOptimWrapperConstructor',
            generator=dict(optimizer=dict(type='SGD', lr=0.1)),
            discriminator=dict(optimizer=dict(type='Adam', lr=0.2)),
        ),
    )
    assert built.get_lr() == {'generator.lr': [0.1], 'discriminator.lr': [0.2]}
    for name in ('generator', 'discriminator'):
        owned = {p for g in built[name].optimizer.param_groups for p in g['params']}
        assert owned == set(getattr(model, name).parameters())


def pair(num: int) -> dict:
    return dict(inputs=dict(source=images(num, 1), target=images(num, 2)))


def test_pix2pix_adds_the_distance_to_the_target():
    model = Pix2Pix(
        dict(type='TinyTranslator'), dict(type='TinyDiscriminator', channels=6), l1_weight=7.0
    )
    inputs = model.data_preprocessor(pair(2))['inputs']
    expected = 7 * l1_loss(model.translate(inputs['source']), inputs['target'])
    before = weights(model.discriminator)
    log = model.train_step(pair(2), optimizers(model))
    assert log['loss_l1'].item() == pytest.approx(expected.item(), rel=1e-5)
    assert log.keys() == {'loss_d', 'loss_g', 'loss_l1'}
    assert not torch.equal(weights(model.discriminator), before)


def cyclegan(**options) -> CycleGAN:
    parts = dict(type='TinyTranslator'), dict(type='TinyDiscriminator')
    return CycleGAN(*parts, image_size=SIZE, **options)


def test_cyclegan_is_its_formula():
    model = cyclegan(cycle_weight=3.0, identity_weight=2.0)
    inputs = model.data_preprocessor(pair(2))['inputs']
    x, y = inputs['source'], inputs['target']
    forth, back = model.generator, model.inverse
    with torch.no_grad():
        cycle = (back(forth(x)) - x).abs().mean() + (forth(back(y)) - y).abs().mean()
        same = (forth(y) - y).abs().mean() + (back(x) - x).abs().mean()
        fooled = ((model.discriminator(forth(x)) - 1) ** 2).mean()
        fooled += ((model.inverse_discriminator(back(y)) - 1) ** 2).mean()
    log = model.train_step(pair(2), optimizers(model))
    assert log['loss_cycle'].item() == pytest.approx(3 * cycle.item(), rel=1e-5)
    assert log['loss_identity'].item() == pytest.approx(2 * same.item(), rel=1e-5)
    assert log['loss_g'].item() == pytest.approx(fooled.item(), rel=1e-5)


def test_cyclegan_trains_all_four_nets():
    model = cyclegan()
    nets = model.generator, model.inverse, model.discriminator, model.inverse_discriminator
    before = [weights(net) for net in nets]
    model.train_step(pair(1), optimizers(model))
    assert not any(torch.equal(b, weights(net)) for b, net in zip(before, nets, strict=True))


def test_the_pool_gives_back_what_it_was_given():
    pool = ImagePool(size=4, image_size=1)
    values = torch.arange(400.0).view(400, 1, 1, 1).expand(400, 3, 1, 1)
    out = torch.cat([pool(value[None]) for value in values])[:, 0, 0, 0]
    assert torch.equal(out[:4], values[:4, 0, 0, 0])
    assert (out <= values[:, 0, 0, 0]).all()  # nothing that it has not been given yet
    assert max(out.tolist().count(value) for value in set(out.tolist())) <= 2
    fresh = (out == values[:, 0, 0, 0]).float().mean()
    assert 0.4 < fresh < 0.6
    again = ImagePool(size=4, image_size=1)
    again.load_state_dict(pool.state_dict())
    assert torch.equal(again.images, pool.images)
    assert again.filled == 4


def test_a_pool_of_none_lets_all_through():
    assert torch.equal(
        ImagePool(0, 1)(torch.arange(6.0).view(2, 3, 1, 1)).flatten(), torch.arange(6.0)
    )


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: cyclegan(loss='relativistic'), "CycleGAN: loss='relativistic' compares"),
        (
            lambda: gan(penalties=[dict(type='r1', weight=1.0, interval=0)]),
            'interval 0; it can be 1',
        ),
        (lambda: gan(ema=dict(ramp_up=0)), 'ramp_up 0; both must be above 0'),
        (lambda: gan(ema=dict(half_life=-1)), 'half_life -1, ramp_up'),
        (lambda: gan(path_length=dict()), 'TinyGenerator has no styles; StyleGAN2Generator has'),
        (lambda: PathLengthPenalty(interval=0), 'path_length: interval 0; it can be 1 or more'),
        (lambda: UnetGenerator(num_downs=1), 'num_downs 1; it can be 2 or more'),
    ],
)
def test_values_without_a_meaning_are_refused_when_built(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_a_translation_stands_beside_what_it_was_made_of():
    (first, second) = cyclegan().val_step(pair(2))
    assert torch.equal(second.source_img, images(2, 1)[1])
    assert second.fake_img.shape == (3, SIZE, SIZE)
    assert 'target_img' not in first  # no pair
    parts = dict(type='TinyTranslator'), dict(type='TinyDiscriminator', channels=6)
    (_, paired) = Pix2Pix(*parts).val_step(pair(2))
    assert torch.equal(paired.target_img, images(2, 2)[1])


def _fixed_noise(model, noise):
    model._with_noise = lambda batches: zip(batches, [noise], [1.0], strict=True)


def _rank(rank: int, folder: str, state: dict, noise: torch.Tensor) -> None:
    dist.init_process_group('gloo', f'file://{folder}/meet', rank=rank, world_size=2)
    model = gan(ema=dict(half_life=100), loss='relativistic')
    model.load_state_dict(state)
    wrapped = MMSeparateDistributedDataParallel(model)
    _fixed_noise(model, noise[rank : rank + 1])
    wrappers = optimizers(wrapped)
    for _ in range(2):
        wrapped.train_step(dict(inputs=images(2)[rank : rank + 1]), wrappers)
    torch.save(model.state_dict(), f'{folder}/{rank}')
    dist.destroy_process_group()


def test_two_ranks_of_one_image_are_one_rank_of_two(tmp_path):
    model, noise = gan(ema=dict(half_life=100), loss='relativistic'), torch.randn(2, 4)
    arguments = str(tmp_path), model.state_dict(), noise
    start_processes(_rank, arguments, nprocs=2, start_method='fork')
    _fixed_noise(model, noise)
    wrappers = optimizers(model)
    for _ in range(2):
        model.train_step(dict(inputs=images(2)), wrappers)
    expected = model.state_dict()
    for rank in range(2):
        found = torch.load(tmp_path / str(rank))
        assert len(found) == len(expected)
        for value, key in zip(found.values(), expected, strict=True):  # wrappers add to the keys
            torch.testing.assert_close(value, expected[key])
