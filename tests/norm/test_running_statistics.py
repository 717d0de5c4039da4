"""What re-estimates batch norms, as averaging of weights does, reaches the other norms too."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

from sbzoo.norm import Norm, calibrate, convert_norm, reestimate

C = 8
SPECS = ['bn', 'hybrid', 'hybrid(bn,ln,channel)', 'sn', 'ibn']
OTHERS = ['gn', 'in', 'ln', 'fbn', 'brn', 'mabn']  # no statistics of a batch, or they train by them


def batches():
    torch.manual_seed(0)
    return [3 * torch.randn(4, C, 5, 5) + torch.arange(C)[:, None, None] for _ in range(3)]


def spoiled(spec):
    """A network of a norm, an activation and another norm, whose statistics are of elsewhere."""
    model = nn.Sequential(Norm(C, spec), nn.ReLU(), Norm(C, spec))
    for name, buffer in model.named_buffers():
        if 'running' in name:
            nn.init.constant_(buffer, 9.0)
    return model


def views(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}


@pytest.mark.parametrize('spec', SPECS)
def test_update_bn_gives_the_statistics_of_batch_norm(spec):
    model, expected = spoiled(spec), nn.BatchNorm2d(C)
    update_bn(batches(), model)
    update_bn(batches(), nn.Sequential(expected))
    torch.testing.assert_close(model[0].running_mean, expected.running_mean)
    torch.testing.assert_close(model[0].running_var, expected.running_var)
    assert model[0].num_batches_tracked == 3
    assert model[0].momentum == model[2].momentum == 0.1
    assert not (model[2].running_var == 9).any()


@pytest.mark.parametrize('spec', OTHERS)
def test_update_bn_leaves_the_others(spec):
    model = spoiled(spec)
    before = copy.deepcopy(model.state_dict())
    update_bn(batches(), model)
    assert not views(model)
    torch.testing.assert_close(model.state_dict(), before)


def test_averaged_weights_get_statistics_of_their_own():
    model = spoiled('hybrid')
    averaged = AveragedModel(model)
    update_bn(batches(), averaged)
    assert (model[0].running_var == 9).all()
    assert not (averaged.module[0].running_var == 9).any()


def test_statistics_can_be_replaced_as_lightning_does():
    model = spoiled('hybrid')
    momenta = {}
    for view in views(model).values():
        view.running_mean = torch.zeros_like(view.running_mean)
        view.running_var = torch.ones_like(view.running_var)
        view.num_batches_tracked *= 0
        momenta[view], view.momentum = view.momentum, None
    assert model[0].momentum is None
    for batch in batches():
        model(batch)
    for view in views(model).values():
        view.momentum = momenta[view]
    expected = spoiled('hybrid')
    update_bn(batches(), expected)
    torch.testing.assert_close(model.state_dict(), expected.state_dict())
    assert model[2].momentum == 0.1


def test_the_view_is_found_and_is_no_part_of_the_network():
    model = spoiled('hybrid')
    assert list(views(model)) == ['0.running_statistics', '2.running_statistics']
    assert views(model)['0.running_statistics'] == model.get_submodule('0.running_statistics')
    assert views(model)['0.running_statistics'] != views(model)['2.running_statistics']
    assert views(model)['0.running_statistics'].weight is model[0].weight
    assert len(views(nn.Sequential(model[0], model[0]))) == 1
    assert list(model[0].children()) == []
    assert 'RunningStatistics' not in str(model)
    assert str(views(model)['0.running_statistics']) == f'RunningStatistics({model[0]})'
    assert not any('running_statistics' in key for key in model.state_dict())
    names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    assert sorted(names) == sorted(model.state_dict())


def test_what_replaces_batch_norms_still_leaves_the_norm():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(spoiled('hybrid'))
    assert [type(layer) for layer in model] == [Norm, nn.ReLU, Norm]
    assert len(views(model)) == 2
    record = convert_norm(model, 'bn')
    assert [type(layer) for layer in record.model] == [nn.BatchNorm2d, nn.ReLU, nn.BatchNorm2d]


def test_own_estimates_see_each_norm_once():
    model, original = spoiled('hybrid'), spoiled('bn')
    assert reestimate(model, batches()) == ['0', '2']
    calibrated = calibrate(model, original.eval(), batches())
    assert [match.name for match in calibrated.matches] == ['0', '2']
