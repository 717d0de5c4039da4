"""Blocks of GANs: conditional normalization, class embeddings, resampling, spectral norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sbzoo.errors import UserError
from sbzoo.norm import Norm, build_norm

NO_NORM = 'none'
IMAGE_SIZES = 32, 64, 128


def num_upsamples(image_size: int) -> int:
    """Number of upsampling steps from a 4 x 4 map to the image.

    Raises:
        UserError: Unsupported size.
    """
    if image_size not in IMAGE_SIZES:
        raise UserError(f'image_size {image_size}: it can be 32, 64 or 128')
    return image_size.bit_length() - 3


def channel_widths(image_size: int, base_channels: int, max_channels: int) -> list[int]:
    """Channels at 4 x 4, 8 x 8 ...: `base_channels` at full size, doubled at each downsampling."""
    levels = range(num_upsamples(image_size), -1, -1)
    return [min(base_channels << level, max_channels) for level in levels]


def norm_layer(spec: str, channels: int, **kwargs) -> nn.Module:
    """The normalization layer of a spec of `sbzoo.norm`, the identity for 'none'.

    Raises:
        UserError: Unknown spec.
    """
    return nn.Identity() if spec == NO_NORM else build_norm(spec, channels, **kwargs)


class ClassEmbedding(nn.Embedding):
    """A learned embedding of each class.

    Raises:
        UserError: Called without labels.
    """

    def forward(self, labels: Tensor | None) -> Tensor:
        """From labels [N] to [N, size]."""
        return super().forward(require_labels(labels, self.num_embeddings))


def require_labels(labels: Tensor | None, num_classes: int) -> Tensor:
    """The labels of a conditional network.

    Raises:
        UserError: Labels are missing.
    """
    if labels is None:
        raise UserError(f'a network of {num_classes} classes needs labels; set num_classes=0')
    return labels


def select_class(logits: Tensor, labels: Tensor | None) -> Tensor:
    """From logits [N, classes] to those of the labels [N]; an only class needs no labels."""
    classes = logits.shape[1]
    if classes == 1:
        return logits.squeeze(1)
    return logits.gather(1, require_labels(labels, classes)[:, None]).squeeze(1)


class ConditionalNorm(nn.Module):
    """Conditional normalization: any norm of `sbzoo.norm` with scale and shift by class.

    Dumoulin et al. 2017 (arXiv 1610.07629) for instance norm, de Vries et al. 2017
    (arXiv 1707.00683) for batch norm.

    Args:
        num_features: Channels C.
        spec: The norm; 'none' leaves the scale and shift alone.
        num_classes: 0 is the unconditional norm with its own scale and shift.

    Raises:
        UserError: Unknown spec, or a norm with an activation inside, which needs its own affine.
    """

    def __init__(self, num_features: int, spec: str, num_classes: int = 0) -> None:
        super().__init__()
        self.norm = norm_layer(spec, num_features, affine=not num_classes)
        self.num_classes = num_classes
        if num_classes:
            self.scale = ClassEmbedding(num_classes, num_features)
            self.shift = ClassEmbedding(num_classes, num_features)
            nn.init.ones_(self.scale.weight)
            nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Normalise x [N, C, H, W] of classes [N]."""
        y = self.norm(x)
        if not self.num_classes:
            return y
        tables = self.scale(labels), self.shift(labels)
        scale, shift = (table[:, :, None, None].to(y.dtype) for table in tables)
        return torch.addcmul(shift, y, scale)


class Lowpass(nn.Module):
    """Separable binomial low-pass filter [1, 3, 3, 1] with zero padding.

    At stride two it is bilinear up- and downsampling (Karras et al. 2020, arXiv 1912.04958) but for
    the border. Unlike torch's interpolation it is deterministic on CUDA too.
    """

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer('kernel', taps.outer(taps), persistent=False)

    def forward(self, x: Tensor, padding: int) -> Tensor:
        """From [N, C, H, W] to [N, C, H + 2 * padding - 3, W + 2 * padding - 3]."""
        return F.conv2d(x, self._kernels(x), padding=padding, groups=x.shape[1])

    def down(self, x: Tensor) -> Tensor:
        """From [N, C, H, W] to [N, C, H / 2, W / 2]."""
        return F.conv2d(x, self._kernels(x), stride=2, padding=1, groups=x.shape[1])

    def up(self, x: Tensor) -> Tensor:
        """From [N, C, H, W] to [N, C, 2 H, 2 W]."""
        kernels = 4 * self._kernels(x)  # three of four pixels are zeros
        return F.conv_transpose2d(x, kernels, stride=2, padding=1, groups=x.shape[1])

    def _kernels(self, x: Tensor) -> Tensor:
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)


def init_normal(net: nn.Module, std: float = 0.02) -> None:
    """DCGAN's initialization: weights N(0, std), scales of norms N(1, std), biases zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, std)
        elif isinstance(module, nn.BatchNorm2d | Norm):
            nn.init.normal_(module.weight, 1, std)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def add_spectral_norm(net: nn.Module) -> None:
    """Spectral normalization of all weights of a network (Miyato et al. 2018, arXiv 1802.05957).

    It is torch's parametrization: one power iteration per forward in training, none in evaluation;
    its vectors are buffers, so that a run resumes exactly. They start from the weights, which have
    to be initialised before.
    """
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            spectral_norm(module)
