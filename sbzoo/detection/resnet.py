"""MMDetection's ResNet, ResNetV1d and ResNeXt with `norm` as one argument, and IBN-Net."""

from __future__ import annotations

from mmdet.models.backbones import ResNet, ResNetV1d, ResNeXt
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sbzoo.errors import UserError
from sbzoo.norm import Norm, build_norm, norm_cfg
from sbzoo.norm.key_names import accept_published_names
from sbzoo.norm.spec import split_spec


class _OneNorm:
    """Mixin that gives a ResNet of MMDetection the argument `norm`."""

    def __init__(self, norm: str = 'gn', **kwargs) -> None:
        spec, standardise = split_spec(norm)
        place_ibn = IBN.get(spec)
        super().__init__(
            norm_cfg=norm_cfg('bn' if place_ibn else spec),
            conv_cfg=dict(type='ConvWS') if standardise else None,
            **kwargs,
        )
        if place_ibn:
            place_ibn(self)
            self._freeze_stages()
        accept_published_names(self)

    def train(self, mode: bool = True) -> nn.Module:
        """As MMDetection's, but `norm_eval` freezes the batch half of `ibn` as well."""
        super().train(mode)
        for module in self.modules() if self.norm_eval else ():
            if isinstance(module, Norm) and module.spec == 'ibn':
                module.eval()
        return self


@MODELS.register_module()
class NormResNet(_OneNorm, ResNet):
    """MMDetection's `ResNet`, with `norm` instead of `norm_cfg` and `conv_cfg`.

    Its keys are those of a batch norm ResNet whatever the norm is. The GN and GN+WS checkpoints of
    OpenMMLab and those of IBN-Net load by their own names.

    Args:
        norm: A spec (`gn`, `in`, `hybrid` ...), one with weight standardisation (`gn+ws`; Qiao et
            al. 2019, arXiv 1903.10520), or `ibn-a` or `ibn-b` (Pan et al. 2018, arXiv 1807.09441):
            batch norm and, where the paper has it, instance norm.
        **kwargs: `depth` (18, 34, 50, 101, 152), `base_channels` and all else of `ResNet`.

    Raises:
        UserError: Unknown norm, or a network that `ibn-b` is not defined for.
    """


@MODELS.register_module()
class NormResNetV1d(_OneNorm, ResNetV1d):
    """MMDetection's `ResNetV1d`, with `norm` as in `NormResNet`."""


@MODELS.register_module()
class NormResNeXt(_OneNorm, ResNeXt):
    """MMDetection's `ResNeXt`, with `norm` as in `NormResNet`."""


def _place_ibn_a(net: ResNet) -> None:
    """Half instance norm, half batch norm, first in every block of the first three stages."""
    for stage in net.res_layers[:3]:
        for block in getattr(net, stage):
            block.add_module(block.norm1_name, build_norm('ibn', block.norm1.num_features))


def _place_ibn_b(net: ResNet) -> None:
    """Instance norm in the stem, and after the addition that ends each of the first two stages."""
    blocks = [getattr(net, stage)[-1] for stage in net.res_layers[:2]]
    if net.deep_stem or net.plugins or not {type(b) for b in blocks} <= IBN_B_BLOCKS.keys():
        raise UserError(f'norm ibn-b: for a plain ResNet, not for this {type(net).__name__}')
    net.add_module(net.norm1_name, build_norm('in', net.norm1.num_features))
    for block in blocks:
        block.IN = build_norm('in', block.conv1.in_channels)
        block.__class__ = IBN_B_BLOCKS[type(block)]  # the same block with a norm after its addition


IBN = {'ibn-a': _place_ibn_a, 'ibn-b': _place_ibn_b}


class _NormAfterAddition:
    """A residual block with a norm, `IN`, between its addition and its last ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """From [N, C, H, W] to the same shape: such a block ends a stage."""
        if self.with_cp and x.requires_grad:
            added = checkpoint(self._add, x, use_reentrant=False)
        else:
            added = self._add(x)
        return self.relu(self.IN(added))

    def _add(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if isinstance(self, Bottleneck):
            out = self.norm3(self.conv3(self.relu(out)))
        return out + x


class IbnBBasicBlock(_NormAfterAddition, BasicBlock):
    """A block of ResNet-18 and -34 that ends a stage of IBN-b."""


class IbnBBottleneck(_NormAfterAddition, Bottleneck):
    """A block of ResNet-50 and deeper that ends a stage of IBN-b."""


IBN_B_BLOCKS = {BasicBlock: IbnBBasicBlock, Bottleneck: IbnBBottleneck}
