"""Norms beside a convolution, and what folds batch norms into it."""

import copy
import pickle

import pytest
import timm
import torch
from timm.models.levit import ConvNorm
from timm.utils.model import reparameterize_model
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sbzoo import UserError, build_norm, convert_norm
from sbzoo.norm import Norm

C = 16
FOLDED = ['bn', 'fbn', 'syncbn', 'brn', 'mabn', 'bgn4', 'ghost2']
NOT_FOLDED = ['hybrid', 'hybrid(bn,gn4)', 'hybrid(fbn,ln)', 'sn', 'ibn']


def trained(spec: str, **kwargs) -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, C, 3), build_norm(spec, C, **kwargs))
    for _ in range(3):
        model(torch.randn(4, 3, 8, 8) * 2 + 1)
    return model.eval()


def ultralytics(conv: nn.Conv2d, bn: nn.Module) -> torch.Tensor:
    """The weights that its `fuse_conv_and_bn` makes, and with eps first."""
    return conv.weight * bn.weight.div(torch.sqrt(bn.eps + bn.running_var)).view(-1, 1, 1, 1)


@pytest.mark.parametrize('spec', FOLDED)
def test_what_is_batch_norm_in_evaluation_is_folded(spec):
    model, x = trained(spec), torch.randn(2, 3, 8, 8)
    folded = fuse_conv_bn_eval(*model)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ultralytics(*model), folded.weight)


@pytest.mark.parametrize('spec', NOT_FOLDED)
def test_what_looks_at_the_images_in_evaluation_refuses_by_name(spec):
    model = trained(spec)
    for fold in (fuse_conv_bn_eval, ultralytics):
        with pytest.raises(UserError, match=r"norm '.*' cannot be folded into a convolution"):
            fold(*model)
    assert 0 < model[1].eps < 1
    assert f'{model[1].eps}' == '1e-05'


@pytest.mark.parametrize('spec', ['gn', 'ln', 'frn'])
def test_what_has_no_running_statistics_has_nothing_to_fold(spec):
    model = trained(spec)
    with pytest.raises(AssertionError, match='running'):
        fuse_conv_bn_eval(*model)
    with pytest.raises(TypeError, match='NoneType'):
        ultralytics(*model)


def test_an_activation_inside_is_not_folded_away():
    for norm in (
        Norm(C, 'fbn', relu=True),
        convert_norm(timm.layers.BatchNormAct2d(C), 'fbn').model,
    ):
        with pytest.raises(UserError, match='cannot be folded'):
            fuse_conv_bn_eval(nn.Conv2d(3, C, 3).eval(), norm.eval())


def test_torchs_fusion_of_quantisation_knows_them_not():
    with pytest.raises(AssertionError, match=r'did not find fuser method for.*Norm'):
        torch.ao.quantization.fuse_modules(trained('hybrid'), [['0', '1']])


class Yolo(nn.Module):
    """As an ultralytics model: `fuse` folds wherever a block has a `bn`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, C, 3), nn.BatchNorm2d(C)

    def forward(self, x):
        return self.bn(self.conv(x))

    def fuse(self, verbose=True):
        self.conv = fuse_conv_bn_eval(self.conv, self.bn)
        self.bn = nn.Identity()
        return self

    def fuse_features(self, x):
        return x


@pytest.mark.parametrize('spec', ['hybrid', 'gn', 'fbn'])
def test_a_model_that_folds_itself_leaves_what_cannot_be_folded(spec):
    model, x = Yolo().eval(), torch.randn(2, 3, 8, 8)
    convert_norm(model, spec)
    model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    expected = model(x)
    assert model.fuse(verbose=False) is model
    assert isinstance(model.bn, nn.Identity) == (spec == 'fbn')
    torch.testing.assert_close(model(x), expected)


def test_back_to_batch_norm_it_folds_again():
    model = Yolo().eval()
    convert_norm(model, 'hybrid')
    convert_norm(model, 'bn')
    assert isinstance(model.fuse().bn, nn.Identity)


def test_a_method_that_fuses_features_is_kept():
    class Neck(Yolo):
        def fuse(self, x):
            return x + 1

    neck = Neck()
    convert_norm(neck, 'hybrid')
    assert neck.fuse(1) == 2


def test_timm_reparameterizes_the_rest_of_a_network():
    class Network(nn.Sequential):
        pass

    model = Network(ConvNorm(3, C), ConvNorm(C, C)).eval()
    x = torch.randn(2, 3, 8, 8)
    convert_norm(model[0], 'hybrid')
    expected = model(x)
    folded = reparameterize_model(model)
    assert isinstance(folded[0], ConvNorm)
    assert isinstance(folded[1], nn.Conv2d)
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5)
    mobile = timm.create_model('mobileone_s0').eval()
    convert_norm(mobile, 'hybrid')
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(reparameterize_model(mobile)(x), mobile(x))
