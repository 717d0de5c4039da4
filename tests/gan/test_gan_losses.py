"""Losses, penalties and augmentation against torch's functions, closed forms and brute force."""

import math
from collections import Counter
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from sbzoo import UserError
from sbzoo.errors import choose
from sbzoo.gan.diff_augment import AUGMENTATIONS, color, cutout, diff_augment, flip, translation
from sbzoo.gan.gradient_penalties import PENALTIES, LazyPenalty, r1, r2, wgan_gp
from sbzoo.gan.losses import LOSSES
from sbzoo.gan.networks.dcgan import DCGANDiscriminator
from sbzoo.gan.path_length import PathLengthPenalty, path_lengths

SHAPES = [(), (5,), (3, 1, 4, 2)]


def logits(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    real, fake = 2 * torch.randn(2, *shape)
    return real, fake


@pytest.mark.parametrize('shape', SHAPES)
def test_losses_equal_torch(shape):
    real, fake = logits(shape)
    one, zero = torch.ones(shape), torch.zeros(shape)
    discriminator = {
        'non-saturating': cross_entropy(real, one) + cross_entropy(fake, zero),
        'hinge': (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(),
        'least-squares': F.mse_loss(real, one) + F.mse_loss(fake, zero),
        'wasserstein': fake.mean() - real.mean(),
        'relativistic': cross_entropy(real - fake, one),
    }
    generator = {
        'non-saturating': cross_entropy(fake, one),
        'hinge': -fake.mean(),
        'least-squares': F.mse_loss(fake, one),
        'wasserstein': -fake.mean(),
        'relativistic': cross_entropy(fake - real, one),
    }
    assert LOSSES.keys() == discriminator.keys()
    for name, loss in LOSSES.items():
        torch.testing.assert_close(loss.discriminator(real, fake), discriminator[name])
        torch.testing.assert_close(loss.generator(fake, real), generator[name])
        if not loss.paired:
            torch.testing.assert_close(loss.generator(fake, None), generator[name])


def test_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert LOSSES['hinge'].discriminator(real, fake) == (0 + 1) / 2 + (0 + 2) / 2
    assert LOSSES['least-squares'].discriminator(real, fake) == (1 + 1) / 2 + (9 + 1) / 2
    assert LOSSES['least-squares'].generator(fake, None) == (16 + 0) / 2
    assert LOSSES['wasserstein'].discriminator(real, fake) == -1 - 1
    assert LOSSES['wasserstein'].generator(fake, None) == 1
    undecided = LOSSES['non-saturating'].discriminator(torch.zeros(2), torch.zeros(2))
    assert math.isclose(undecided, 2 * math.log(2), rel_tol=1e-6)
    pairs = LOSSES['relativistic']
    assert math.isclose(pairs.generator(real, real), math.log(2), rel_tol=1e-6)


@pytest.mark.parametrize('name', LOSSES)
def test_both_losses_pull_in_opposite_directions_and_stay_finite(name):
    loss = LOSSES[name]
    real, fake = (torch.zeros(4, requires_grad=True) for _ in range(2))
    d_real, d_fake = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    (g_fake,) = torch.autograd.grad(loss.generator(fake, real.detach()), fake)
    assert (d_real < 0).all()
    assert (g_fake < 0).all()
    assert (d_fake > 0).all() or name == 'least-squares'  # which is at its target, 0
    extreme = torch.full((4,), 1e4)
    assert loss.discriminator(-extreme, extreme).isfinite()


def test_only_the_relativistic_loss_is_paired():
    assert [name for name, loss in LOSSES.items() if loss.paired] == ['relativistic']


@pytest.mark.parametrize(
    ('lookup', 'table'),
    [
        (partial(choose, 'loss', table=LOSSES), LOSSES),
        (partial(LazyPenalty, weight=1.0), PENALTIES),
        (diff_augment, AUGMENTATIONS),
    ],
)
def test_unknown_names_list_the_known(lookup, table):
    with pytest.raises(UserError, match=r"unknown .* 'lsgan'; known are") as error:
        lookup('lsgan')
    assert all(name in str(error.value) for name in table)


# Penalties


def pictures(num: int = 3, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, num, 3, size, size, dtype=torch.double).unbind()


def test_penalties_of_a_linear_discriminator():
    """Its gradient is its weight."""
    real, fake = pictures()
    weight = torch.randn(48, dtype=torch.double, requires_grad=True)
    norm = weight.detach().norm()
    expected = {'r1': (norm**2 / 2, weight), 'r2': (norm**2 / 2, weight)}
    expected['wgan-gp'] = ((norm - 1) ** 2, 2 * (norm - 1) * weight / norm)
    for name, penalty in PENALTIES.items():
        value = penalty(lambda x: x.flatten(1) @ weight, real, fake)
        (gradient,) = torch.autograd.grad(value, weight)
        torch.testing.assert_close(value, expected[name][0])
        torch.testing.assert_close(gradient, expected[name][1].detach())


def linear_images(per_style: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images [3, 4, 4] and the styles [2, L, D] that they are the sum over layers of."""
    styles = torch.randn(2, *per_style.shape[:2], requires_grad=True)
    return torch.einsum('nld,ldp->np', styles, per_style).view(2, 3, 4, 4), styles


def test_path_lengths_of_a_linear_generator():
    per_style = torch.randn(5, 6, 3 * 4 * 4)
    images, styles = linear_images(per_style)
    torch.manual_seed(1)
    found = path_lengths(images, styles)
    torch.manual_seed(1)
    noise = (torch.randn(2, 3, 4, 4) / 4).flatten(1)
    of_layers = torch.einsum('ldp,np->nld', per_style, noise).norm(dim=2)
    torch.testing.assert_close(found, of_layers.square().mean(1).sqrt())


def test_path_length_of_pixels_that_are_styles_is_the_square_root_of_their_channels():
    images, styles = linear_images(torch.eye(48).expand(3, 48, 48))
    squares = [path_lengths(images, styles).square().mean() for _ in range(500)]
    assert torch.stack(squares).mean() == pytest.approx(3, rel=0.05)


def test_the_path_length_penalty_is_the_distance_from_a_running_mean():
    penalty, mean = PathLengthPenalty(weight=3.0, interval=4), 0.0
    for seed in range(5):
        images, styles = linear_images(torch.randn(2, 6, 48))
        torch.manual_seed(seed)
        lengths = path_lengths(images, styles)
        mean = 0.99 * mean + 0.01 * lengths.mean().item()
        torch.manual_seed(seed)
        expected = 12 * (lengths - mean).square().mean()
        torch.testing.assert_close(penalty(images, styles), expected)
    assert penalty.mean.item() == pytest.approx(mean)


def test_zero_centred_penalties_are_of_their_own_images():
    real, fake = pictures()

    def discriminate(x):
        return x.square().flatten(1).sum(1) / 2  # whose gradient is x

    torch.testing.assert_close(r1(discriminate, real, fake), real.square().sum() / 6)
    torch.testing.assert_close(r2(discriminate, real, fake), fake.square().sum() / 6)


def test_wgan_gp_is_taken_between_the_images():
    real, fake = pictures(200)
    seen = []

    def discriminate(x):
        seen.append(x.detach())
        return x.square().flatten(1).sum(1) / 2

    value = wgan_gp(discriminate, real, fake)
    share = (seen[0] - real) / (fake - real)
    torch.testing.assert_close(share, share[:, :1, :1, :1].expand_as(share))
    shares = share[:, 0, 0, 0].sort().values
    assert 0 <= shares[0] < 0.05
    assert 0.95 < shares[-1] <= 1
    torch.testing.assert_close(value, (seen[0].flatten(1).norm(dim=1) - 1).square().mean())


def test_a_flat_discriminator_has_finite_gradients():
    scale = torch.zeros((), requires_grad=True)
    value = wgan_gp(lambda x: scale * x.flatten(1).sum(1), *(t.float() for t in pictures()))
    assert value == 1
    assert torch.autograd.grad(value, scale)[0].isfinite()


@pytest.mark.parametrize('penalty', ['r1', 'wgan-gp'])
@pytest.mark.parametrize(
    ('norm', 'spectral_norm'),
    [(n, False) for n in ('none', 'bn', 'in', 'gn2', 'ln', 'hybrid', 'sn')] + [('gn2', True)],
)
def test_second_derivatives_equal_differences(penalty, norm, spectral_norm):
    net = DCGANDiscriminator(32, 2, norm, spectral_norm).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    net.train(norm in ('bn', 'hybrid', 'sn'))  # spectral norm does not iterate in evaluation
    parameters, images = list(net.parameters()), pictures(2, 32)

    def value() -> torch.Tensor:
        torch.manual_seed(0)
        return PENALTIES[penalty](net, *images)

    gradients = torch.autograd.grad(value(), parameters, allow_unused=True, materialize_grads=True)
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    values, step = [], 1e-6
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * step * direction
        values.append(value().detach())
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-4, atol=1e-6)
    assert slope.abs() > 1e-4


# Augmentation


def test_augmentation_is_seeded_and_of_each_image():
    x = torch.rand(1, 3, 16, 16).expand(64, -1, -1, -1) * 2 - 1
    for name in AUGMENTATIONS:
        augment, results = diff_augment(name), []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            results.append(augment(x))
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])
        assert results[0].shape == x.shape
        kinds = len({image.numpy().tobytes() for image in results[0]})
        assert kinds == 2 if name == 'flip' else kinds > 16


def test_policies_are_applied_in_their_order():
    x = torch.rand(4, 3, 16, 16)
    torch.manual_seed(3)
    expected = cutout(translation(color(x)))
    torch.manual_seed(3)
    assert torch.equal(diff_augment(' color, translation,cutout')(x), expected)
    assert diff_augment('')(x) is x
    with pytest.raises(UserError, match="unknown augmentation 'colour'; known are color, trans"):
        diff_augment('translation,colour')


@pytest.mark.parametrize('probability', [0.0, 0.3, 1.0])
def test_each_augmentation_takes_its_share_of_the_images(probability):
    augment = diff_augment('color,cutout')
    augment.probability = probability
    y = augment(torch.ones(2000, 3, 8, 8))
    brighter, cut = y.amax((1, 2, 3)) != 1, (y == 0).flatten(1).any(1)
    shares = [event.float().mean().item() for event in (brighter, cut, brighter & cut)]
    assert shares == pytest.approx([probability, probability, probability**2], abs=0.04)


def test_color_changes_brightness_saturation_and_contrast_within_their_ranges():
    grey = torch.randn(2000, 1, 4, 4).expand(-1, 3, -1, -1)
    y = color(grey)
    torch.testing.assert_close(y, y[:, :1].expand_as(y))  # grey has no saturation
    brightness = (y - grey).mean((1, 2, 3))
    deviation = grey - grey.mean((1, 2, 3), keepdim=True)
    contrast = ((y - y.mean((1, 2, 3), keepdim=True)) * deviation).sum((1, 2, 3))
    contrast /= deviation.square().sum((1, 2, 3))
    flat = torch.tensor([1.0, 0.0, -1.0])[:, None, None].expand(2000, 3, 4, 4)
    for values, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5)):
        assert low - 1e-4 <= values.min() < low + 0.02
        assert high - 0.02 < values.max() <= high + 1e-4
    y = color(flat)
    saturation = (y[:, 0] - y[:, 2])[:, 0, 0] / 2  # times contrast
    assert 0 <= saturation.min() < 0.02
    assert 2.5 < saturation.max() <= 3


def test_translation_is_one_of_the_shifts_and_all_occur():
    height, width = 16, 24
    x = torch.rand(400, 3, height, width) + 0.1
    seen = set()
    shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-3, 4)]
    padded = F.pad(x, (3, 3, 2, 2))
    candidates = {
        (dy, dx): padded[:, :, 2 + dy : 2 + dy + height, 3 + dx : 3 + dx + width]
        for dy, dx in shifts
    }
    for i, image in enumerate(translation(x)):
        found = [shift for shift, c in candidates.items() if torch.equal(c[i], image)]
        assert len(found) == 1
        seen.add(found[0])
    assert seen == set(shifts)


def official(side: int, ratio: float) -> int:
    """The published size of a cutout and reach of a translation: a half rounds up."""
    return math.floor(side * ratio + 0.5)


@pytest.mark.parametrize('side', [1, 2, 3, 4, 5, 7, 9, 12, 17, 20])
def test_cutout_draws_the_published_rectangles_of_any_side(side):
    """`size` pixels from offset - size // 2 on, of offsets 0 to side - size % 2, all as likely."""
    other, size = 6, official(side, 1 / 2)
    offsets = range(side + 1 - size % 2)
    expected = Counter()
    for offset in offsets:
        first = offset - size // 2
        expected[tuple(int(first <= row < first + size) for row in range(side))] += 1
    x = torch.ones(3000, 1, side, other)
    for pixels in (x, x.transpose(2, 3)):
        hole = cutout(pixels)[:, 0] == 0
        lines = hole.any(2) if pixels is x else hole.any(1)
        found = Counter(tuple(line) for line in lines.int().tolist())
        assert found.keys() == expected.keys()
        for line, times in expected.items():
            assert found[line] / 3000 == pytest.approx(times / len(offsets), abs=0.05)


@pytest.mark.parametrize('side', [3, 4, 7, 11, 12, 17, 20, 28])
def test_translation_reaches_as_far_as_published_on_any_side(side):
    x = torch.arange(1.0, side + 1)[:, None].expand(500, 1, side, 6)
    first = translation(x)[:, 0, :, 2]
    shifts = {int(d[d != 0][0] - d.nonzero()[0].item() - 1) for d in first}
    reach = official(side, 1 / 8)
    assert shifts == set(range(-reach, reach + 1))


def test_cutout_is_a_rectangle_of_half_the_sides():
    x = torch.rand(600, 3, 10, 16) + 0.1
    y = cutout(x)
    hole = y[:, 0] == 0
    assert torch.equal(y, torch.where(hole[:, None], 0, x))
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None])
    for line, side in ((rows, 10), (columns, 16)):
        lengths = line.sum(1)
        gaps = (line[:, 1:] & ~line[:, :-1]).sum(1) + line[:, 0]
        assert (gaps == 1).all()  # without a gap
        size = side // 2
        assert lengths.max() == size
        assert lengths.min() == (size + 1) // 2  # at the border
        assert line.any(0).all()


def test_flip_mirrors_about_half_of_the_images():
    x = torch.rand(400, 3, 4, 6)
    y = flip(x)
    same, mirrored = ((y == z).flatten(1).all(1) for z in (x, x.flip(3)))
    assert torch.equal(mirrored, ~same)
    assert 150 < same.sum() < 250


@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_augmentation_is_differentiable_twice(name):
    x = torch.rand(2, 3, 8, 8, dtype=torch.double, requires_grad=True)

    def augment(x):
        torch.manual_seed(2)
        return AUGMENTATIONS[name](x)

    assert torch.autograd.gradcheck(augment, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(augment, x, fast_mode=True)
