"""Weight standardisation: convolutions whose weights are normalised."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvWS2d(nn.Conv2d):
    """A convolution with standardised weights: zero mean, unit deviation for each output channel.

    Weight standardisation (Qiao et al. 2019, arXiv 1903.10520), for convolutions that a
    per-sample norm follows. It computes what mmcv's `ConvWS` does and has the keys of `nn.Conv2d`.
    """

    EPS = 1e-5  # added to the standard deviation, as mmcv does

    @classmethod
    def like(cls, conv: nn.Conv2d) -> ConvWS2d:
        """The standardised form of `conv`, on the same parameters."""
        sizes = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
        form = dict(dilation=conv.dilation, groups=conv.groups, padding_mode=conv.padding_mode)
        standardised = cls(*sizes, bias=conv.bias is not None, device='meta', **form)
        standardised.weight, standardised.bias = conv.weight, conv.bias
        return standardised.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [N, C, H, W]."""
        std, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (std + self.EPS), self.bias)


def takes_standardisation(module: nn.Module) -> bool:
    """Whether it is a convolution with more than one input channel for each output.

    What is left of a depthwise kernel without its mean could pass no constant signal on.
    """
    return isinstance(module, nn.Conv2d) and module.weight.shape[1] > 1
