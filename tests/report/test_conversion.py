"""What the benchmark of conversion measures, on a network small enough to follow."""

import copy

import pytest
import torch
import torch.nn.functional as F
from benchmarks import conversion, imagenet
from torch import nn

from sbzoo import UserError


@pytest.fixture
def network() -> nn.Module:
    """A classifier of 8 classes with trained batch norms, in evaluation mode."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)
    model = nn.Sequential(*layers, nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for _ in range(30):
        model(torch.rand(8, 3, 12, 12))
    return model.eval().requires_grad_(False)


def test_agreement_counts_the_first_and_the_first_five():
    expected = F.one_hot(torch.zeros(4, dtype=torch.long), 8)  # class 0 each time
    logits = -torch.arange(8.0).repeat(4, 1)
    logits[:, 0] = -torch.tensor([0, 1.5, 4.5, 5.5])  # behind 0, 1, 4 and 5 others
    assert conversion.agreement(logits.float(), expected) == {
        'top-1 agreement': 0.25,
        'top-5 agreement': 0.75,
    }


def test_crops_are_of_the_photographs_in_turn_and_depend_on_the_seed():
    crops = imagenet.crops(imagenet.PHOTOGRAPHS[:2], 3, seed=0)
    assert crops.shape == (3, 3, imagenet.SIDE, imagenet.SIDE)
    assert crops.aminmax().min >= -1
    torch.testing.assert_close(crops, imagenet.crops(imagenet.PHOTOGRAPHS[:2], 3, seed=0))
    assert not torch.equal(crops, imagenet.crops(imagenet.PHOTOGRAPHS[:2], 3, seed=1))
    assert set(imagenet.PHOTOGRAPHS).isdisjoint(imagenet.HELD_OUT)


@pytest.mark.parametrize(('arm', 'alpha'), [('hybrid', 0.99), (conversion.HALF, 0.5)])
def test_a_hybrid_is_tried_where_it_starts_and_at_a_half(network, arm, alpha):
    copied = next(conversion.converted(network, arm, torch.rand(8, 3, 12, 12)))[1]
    torch.testing.assert_close(copied[1].alpha, torch.tensor(alpha))


def test_distillation_brings_the_outputs_nearer_and_changes_weights_and_biases_alone(network):
    images = torch.rand(32, 3, 12, 12)
    states, outputs = {}, {}
    for name, converted in conversion.converted(network, 'hybrid(bn,gn2)', images):
        states[name] = copy.deepcopy(converted.state_dict())
        outputs[name] = converted(images).log_softmax(1)
    expected = network(images).softmax(1)
    calibrated, distilled = (
        F.kl_div(outputs[name], expected, reduction='batchmean')
        for name in (conversion.CALIBRATED, conversion.DISTILLED)
    )
    assert distilled < calibrated
    before, after = states[conversion.CALIBRATED], states[conversion.DISTILLED]
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {'1.weight', '1.bias', '4.weight', '4.bias'}


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(imagenet, 'PACKAGE', 'no_such_package')
    with pytest.raises(UserError, match=r'no package no_such_package; .*sbzoo\[imagenet\]'):
        imagenet.efficientnet_lite0()
