"""Every network of the GAN module at every size, with narrow maps."""

import copy
import math
from collections import Counter

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import sbzoo.gan  # noqa: F401
from sbzoo import UserError
from sbzoo.gan.networks.blocks import ConditionalNorm
from sbzoo.gan.networks.stylegan2 import ModulatedConv
from sbzoo.norm import Norm

SIZES = 32, 64, 128
NORMS = 'none', 'bn', 'in', 'gn2', 'ln', 'hybrid'
OF_SAMPLES = 'none', 'in', 'gn2', 'ln'
N, CLASSES = 2, 3

GENERATORS = dict(
    dcgan=dict(type='DCGANGenerator', noise_size=8, base_channels=4),
    sngan=dict(type='SNGANGenerator', noise_size=8, base_channels=4),
    stylegan2=dict(
        type='StyleGAN2Generator',
        noise_size=8,
        base_channels=2,
        max_channels=8,
        mapping_layers=2,
    ),
    r3gan=dict(type='R3GANGenerator', noise_size=8, base_channels=2, max_channels=8, group_size=4),
)
DISCRIMINATORS = dict(
    dcgan=dict(type='DCGANDiscriminator', base_channels=4),
    sngan=dict(type='SNGANDiscriminator', base_channels=4),
    stylegan2=dict(type='StyleGAN2Discriminator', base_channels=2, max_channels=8),
    r3gan=dict(type='R3GANDiscriminator', base_channels=2, max_channels=8, group_size=4),
)
TRANSLATORS = dict(
    resnet=dict(type='ResnetGenerator', base_channels=2, num_blocks=2),
    unet=dict(type='UnetGenerator', base_channels=2, num_downs=5, dropout=0.0),
)
CONDITIONAL = 'sngan', 'stylegan2', 'r3gan'


def build(cfg: dict, **kwargs) -> nn.Module:
    """A network in double precision of which no parameter is a neutral element."""
    net = MODELS.build(dict(cfg, **kwargs)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return net


def arguments(kind: str, norm: str, **kwargs) -> dict:
    return kwargs if kind == 'r3gan' else dict(kwargs, norm=norm)


def with_norms(*kinds: str) -> list[tuple[str, str]]:
    """Each kind with each norm; R3GAN has none."""
    return [(k, n) for k in kinds for n in (NORMS if k != 'r3gan' else ['none'])]


def noise(num: int = N) -> torch.Tensor:
    return torch.randn(num, 8, dtype=torch.double)


def images(size: int, num: int = N, channels: int = 3) -> torch.Tensor:
    return torch.rand(num, channels, size, size, dtype=torch.double) * 2 - 1


def vanishing_biases(kind: str, norm: str, net: nn.Module) -> set[str]:
    """Biases of the published SNGAN that a norm of each channel takes away again."""
    if kind != 'sngan' or norm not in ('bn', 'in'):
        return set()
    return {
        name
        for name, _ in net.named_parameters()
        if name.startswith('blocks') and name.endswith('.bias') and '.norm' not in name
    }


def assert_learns(net: nn.Module, out: torch.Tensor, excepted: set[str]) -> None:
    """All parameters but the excepted ones have a gradient beyond rounding."""
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.abs().max() > 1e-9) == (name not in excepted), name


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(('kind', 'norm'), with_norms(*GENERATORS))
def test_generators(kind, norm, size):
    net = build(GENERATORS[kind], **arguments(kind, norm, image_size=size))
    assert (net.image_size, net.noise_size, net.num_classes) == (size, 8, 0)
    out = net(noise())
    assert out.shape == (N, 3, size, size)
    assert_learns(net, out, vanishing_biases(kind, norm, net))
    assert net.eval()(noise()).abs().max() <= 1


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kind', DISCRIMINATORS)
def test_discriminators(kind, size):
    net = build(DISCRIMINATORS[kind], image_size=size)
    for num in (1, 3, 4, 5):
        assert net(images(size, num)).shape == (num,)
    assert_learns(net, net(images(size, 4)), set())


@pytest.mark.parametrize(('size', 'side'), [(32, 8), (64, 2), (128, 4)])
def test_sngan_sums_the_published_map(size, side):
    net, shapes = build(DISCRIMINATORS['sngan'], image_size=size), []
    net.blocks[-1].register_forward_hook(lambda _m, _x, y: shapes.append(y.shape[2:]))
    net(images(size))
    assert shapes == [(side, side)]


@pytest.mark.parametrize('spectral_norm', [True, False])
@pytest.mark.parametrize(('kind', 'norm'), with_norms('dcgan', 'sngan'))
def test_discriminators_take_norms(kind, norm, spectral_norm):
    net = build(DISCRIMINATORS[kind], image_size=32, norm=norm, spectral_norm=spectral_norm)
    assert net(images(32)).shape == (N,)
    norms = [m for m in net.modules() if isinstance(m, Norm | nn.BatchNorm2d)]
    assert bool(norms) == (norm != 'none')


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('kind', TRANSLATORS)
def test_translators(kind, norm):
    net = build(TRANSLATORS[kind], norm=norm)
    for shape in ((32, 32), (64, 96)):
        out = net(torch.randn(N, 3, *shape, dtype=torch.double))
        assert out.shape == (N, 3, *shape)
        assert out.abs().max() <= 1
    assert_learns(net, out, set())


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('channels', [3, 6])
def test_patch_discriminator(channels, norm):
    net = build(dict(type='PatchDiscriminator', base_channels=2, in_channels=channels, norm=norm))
    assert net(images(256, 1, channels)).shape == (1, 1, 30, 30)  # as published
    out = net(images(32, N, channels))
    assert out.shape == (N, 1, 2, 2)
    assert_learns(net, out, set())


@pytest.mark.parametrize(('kind', 'norm'), with_norms(*CONDITIONAL))
def test_conditional_generators_depend_on_the_label(kind, norm):
    cfg = arguments(kind, norm, image_size=32, num_classes=CLASSES)
    net, z = build(GENERATORS[kind], **cfg).eval(), noise(1).expand(3, -1)
    first, second, third = net(z, torch.tensor([0, 1, 0]))
    assert (first - second).abs().max() > 1e-4
    torch.testing.assert_close(first, third)
    out = net.train()(noise(3), torch.arange(3))
    assert_learns(net, out, vanishing_biases(kind, norm, net))
    with pytest.raises(UserError, match='network of 3 classes needs labels'):
        net(z)


@pytest.mark.parametrize('kind', CONDITIONAL)
def test_conditional_discriminators_depend_on_the_label(kind):
    net = build(DISCRIMINATORS[kind], image_size=32, num_classes=CLASSES).eval()
    first, second, third = net(images(32, 1).expand(3, -1, -1, -1), torch.tensor([0, 1, 0]))
    assert (first - second).abs() > 1e-4
    torch.testing.assert_close(first, third)
    assert_learns(net, net(images(32, 3), torch.arange(3)), set())
    with pytest.raises(UserError, match='network of 3 classes needs labels'):
        net(images(32, 1))


@pytest.mark.parametrize('norm', OF_SAMPLES)
@pytest.mark.parametrize('kind', [*GENERATORS, *TRANSLATORS])
def test_an_image_does_not_depend_on_its_batch(kind, norm):
    if kind in GENERATORS:
        net, x = build(GENERATORS[kind], **arguments(kind, norm, image_size=32)), noise(3)
    else:
        net, x = build(TRANSLATORS[kind], norm=norm), images(32, 3)
    net.eval()
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))


@pytest.mark.parametrize(
    'cfg', [*GENERATORS.values(), *DISCRIMINATORS.values(), *TRANSLATORS.values()]
)
def test_copies_are_equal(cfg):
    cfg = cfg if cfg in TRANSLATORS.values() else dict(cfg, image_size=32)
    net = build(cfg)
    x = noise() if 'noise_size' in cfg else images(32)
    net(x)  # moves running statistics, the vectors of spectral norm, the mean of w
    expected = net.eval()(x)
    loaded = build(cfg).eval()
    loaded.load_state_dict(net.state_dict(), strict=True)
    for twin in (loaded, copy.deepcopy(net)):
        torch.testing.assert_close(twin(x), expected)
        pairs = zip(twin.parameters(), net.parameters(), strict=True)
        assert all(ours.data_ptr() != theirs.data_ptr() for ours, theirs in pairs)


@pytest.mark.parametrize('cfg', [*GENERATORS.values(), *DISCRIMINATORS.values()])
def test_other_sizes_are_refused(cfg):
    with pytest.raises(UserError, match='image_size 48: it can be 32, 64 or 128'):
        MODELS.build(dict(cfg, image_size=48))


@pytest.mark.parametrize('norm', ['none', 'bn', 'hybrid'])
def test_half_precision(norm):
    """Under autocast, forward and backward."""
    for kind, cfg in GENERATORS.items():
        net = MODELS.build(dict(cfg, **arguments(kind, norm, image_size=32)))
        critic = MODELS.build(dict(DISCRIMINATORS[kind], image_size=32))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            logits = critic(net(noise().float()))
        logits.float().sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())


def parameters(**cfg) -> int:
    with torch.device('meta'):
        return sum(p.numel() for p in MODELS.build(cfg).parameters())


def test_parameters_of_the_published_widths():
    """Of DCGAN as in PyTorch's tutorial, with biases where no norm follows; of SNGAN by layer.

    SNGAN's generator has the 4.28 million of Mimicry.
    """
    assert parameters(type='DCGANGenerator', noise_size=100) == 3_576_704 + 3
    bn = dict(norm='bn', spectral_norm=False)
    assert parameters(type='DCGANDiscriminator', **bn) == 2_765_568 + 64 + 1
    assert parameters(type='SNGANGenerator') == 4_276_739
    assert parameters(type='SNGANDiscriminator') == 1_053_825


def test_parameters_of_the_discriminator_of_sngans_authors():
    """Of their `dis_models`: a block's first convolution keeps the channels, but for the stem's."""

    def conv(before: int, after: int, side: int = 3) -> int:
        return before * after * side**2 + after

    expected = conv(3, 64) + conv(64, 64) + conv(3, 64, 1)
    for before, after in ((64, 128), (128, 256), (256, 512), (512, 1024)):
        expected += conv(before, before) + conv(before, after) + conv(before, after, 1)
    expected += 1024 + 1
    assert parameters(type='SNGANDiscriminator', image_size=64) == expected
    expected += 2 * conv(1024, 1024)
    assert parameters(type='SNGANDiscriminator', image_size=128) == expected


def test_parameters_of_the_published_translators():
    """11.378, 54.414, 2.765 and 2.769 million are printed by the authors' code.

    Theirs has a bias where instance norm follows, of which nothing is left, and ours a scale and a
    shift in the norm.
    """
    of_norms = 64 + 128 + 18 * 256 + 256 + 128 + 64
    assert parameters(type='ResnetGenerator') == 11_378_179 + of_norms
    assert parameters(type='PatchDiscriminator') == 2_764_737 + 128 + 256 + 512
    assert parameters(type='UnetGenerator', norm='bn') == 54_413_955 + 64 + 512  # without a norm
    without_last = parameters(type='UnetGenerator', norm='bn', last_norm='none')
    assert without_last == 54_413_955 + 64 + 512 - 64  # a bias for scale and shift
    assert parameters(type='PatchDiscriminator', in_channels=6, norm='bn') == 2_768_705


# One network at a time


def test_unet_has_no_norm_on_its_1x1_map():
    net = MODELS.build(dict(type='UnetGenerator', base_channels=2, norm='in'))
    seen = Counter()
    for module in net.modules():
        if isinstance(module, Norm):
            module.register_forward_hook(lambda _m, x, _y: seen.update([tuple(x[0].shape[2:])]))
    for mode in (True, False):
        assert net.train(mode)(images(256, 1).float()).shape == (1, 3, 256, 256)
    sides = [2**i for i in range(1, 8)]
    assert seen == {(s, s): 2 if s == 128 else 4 for s in sides} | {(2, 2): 4, (128, 128): 2}


@pytest.mark.parametrize(('last', 'seen'), [(None, False), ('in', False), ('none', True)])
def test_the_last_norm_of_unet_hides_how_strong_its_map_is(last, seen):
    net, x = build(TRANSLATORS['unet'], norm='in', last_norm=last), images(32)
    before = net(x)
    with torch.no_grad():
        net.inner.up.weight *= 4
    assert ((net(x) - before).abs().max() > 1e-3) == seen
    for level in (net.inner.inner, net.inner.inner.inner):  # the others have theirs
        assert isinstance(level.up_norm, Norm)


def test_unet_refuses_what_it_cannot_downsample():
    net = MODELS.build(dict(type='UnetGenerator', base_channels=2, num_downs=6))
    with pytest.raises(UserError, match=r'num_downs=6: images of 64 x 96 .* multiples of 64'):
        net(images(96, 1)[:, :, :64].float())


def test_dropout_is_pix2pix_noise():
    net = build(TRANSLATORS['unet'], num_downs=6, dropout=0.5)
    x = images(64)
    assert (net(x) - net(x)).abs().max() > 1e-6
    assert torch.equal(net.eval()(x), net(x))
    published = MODELS.build(dict(type='UnetGenerator', base_channels=2))
    rates = [m.p for m in published.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0, 0.5, 0.5, 0.5, 0, 0, 0]  # from the innermost level out


def test_spectral_norm_divides_by_the_largest_singular_value():
    net = build(DISCRIMINATORS['sngan'], image_size=32, num_classes=CLASSES)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    assert len(layers) == 3 + 3 + 2 + 2 + 2  # stem, three blocks, linear and embedding
    for layer in layers:
        weights = [layer.weight for _ in range(100)]  # a power iteration each
        top = torch.linalg.matrix_norm(weights[-1].flatten(1), 2).item()
        assert math.isclose(top, 1, rel_tol=1e-3)


def test_conditional_norms_start_as_plain_ones():
    norm = ConditionalNorm(4, 'gn2', CLASSES)
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(norm(x, torch.arange(3)), ConditionalNorm(4, 'gn2')(x))


def test_stylegan2_truncation():
    net = build(GENERATORS['stylegan2'], image_size=32)
    for _ in range(3):
        net(noise())  # moves the mean of w
    net.eval()
    z, w_mean = noise(2), net.w_mean.clone()
    assert w_mean.abs().max() > 0
    full, half, none = (net(z, truncation=t) for t in (1.0, 0.5, 0.0))
    torch.testing.assert_close(full, net(z))
    torch.testing.assert_close(none[0], none[1])
    assert (half - full).abs().max() > 1e-5
    assert torch.equal(net.w_mean, w_mean)  # evaluation does not move it


def test_stylegan2_mean_of_w_follows_the_styles():
    net = build(GENERATORS['stylegan2'], image_size=32)
    z = noise(64)
    for _ in range(10):
        net.style(z)
    expected = (1 - 0.998**10) * net.eval().style(z).mean(0)
    torch.testing.assert_close(net.w_mean, expected)


def test_stylegan2_each_rgb_output_has_the_style_of_the_layer_that_follows():
    net, seen = build(GENERATORS['stylegan2'], image_size=32), []
    for module in net.modules():
        if isinstance(module, ModulatedConv):
            module.register_forward_hook(lambda _, args, __: seen.append(args[1][0, 0].item()))
    assert net.num_styles == 2 * math.log2(32) - 2
    net.synthesis(torch.arange(8.0).double()[None, :, None].expand(1, 8, 8))
    assert seen == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7]


def test_stylegan2_mixes_the_styles_of_two_noises_behind_a_layer_in_training():
    net, z = build(GENERATORS['stylegan2'], image_size=32, style_mixing=0.5), noise()
    w, firsts = net.eval().style(z)[:, None], Counter()
    assert torch.equal(net.styles(z), w.expand(-1, 8, -1))
    net.train()
    for _ in range(400):
        own = (net.styles(z) == w).all(2)
        assert torch.equal(own, own[:1].expand_as(own))  # the same layers of all images
        first = int(own[0].sum())
        assert own[0, :first].all()
        firsts[first] += 1
    assert firsts.keys() == set(range(1, 9))
    assert 0.4 < firsts[8] / 400 < 0.6


def test_stylegan2_noise_is_of_the_generator_in_training_and_fixed_in_evaluation():
    net, z = build(GENERATORS['stylegan2'], image_size=32), noise()

    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return net(z)

    torch.testing.assert_close(seeded(1), seeded(1))
    assert (seeded(1) - seeded(2)).abs().max() > 1e-4
    net.eval()
    assert torch.equal(seeded(1), seeded(2))


def test_r3gan_starts_without_its_branches():
    net = MODELS.build(dict(GENERATORS['r3gan'], image_size=32))
    for block in net.levels.modules():
        if hasattr(block, 'conv3'):
            x = torch.randn(1, block.conv1.in_channels, 4, 4)
            assert torch.equal(block(x), x)
            fan_in = block.conv2.weight[0].numel()
            blocks = 8  # two of each of the four sizes
            expected = math.sqrt(2 / (1 + 0.2**2) / fan_in) * blocks**-0.25
            assert math.isclose(block.conv2.weight.std().item(), expected, rel_tol=0.2)


def test_r3gans_first_images_vary_by_noise_ten_times_as_much_as_by_ten_labels():
    """As a linear layer on one-hot labels would have them: each class has variance 1 / classes."""
    net = MODELS.build(dict(type='R3GANGenerator', base_channels=16, num_classes=10))
    assert math.isclose(net.embedding.weight.std().item(), 10**-0.5, rel_tol=0.1)
    with torch.no_grad():
        z, labels = torch.randn(100, 64), torch.arange(10)
        by_noise = net(z, torch.zeros(100, dtype=torch.long)).var(0).mean()
        by_label = torch.stack([net(z[i : i + 1].expand(10, -1), labels).var(0) for i in range(5)])
    assert 8 < by_noise / by_label.mean() < 12


def test_r3gans_first_logits_are_those_of_the_authors_projection():
    """Of features [C] times a matrix, variance 1 / C, times embeddings, 1 / (size x classes)."""
    classes, channels, size = 10, 96, 200
    net = MODELS.build(
        dict(type='R3GANDiscriminator', base_channels=96, max_channels=96, num_classes=classes)
    )
    embeddings = torch.randn(classes, size) * (size * classes) ** -0.5
    product = embeddings @ (torch.randn(size, channels) * channels**-0.5)
    assert net.linear.weight.shape == product.shape
    assert math.isclose(net.linear.weight.std().item(), product.std().item(), rel_tol=0.15)


def test_r3gan_groups_have_to_divide_the_channels():
    with pytest.raises(UserError, match=r'24 channels .* no multiple of group_size=16'):
        MODELS.build(dict(type='R3GANGenerator', base_channels=12))
