"""Path length regularization of a style-based generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbzoo.errors import UserError

MEAN_MOMENTUM = 0.01  # weight of the newest batch in the running mean of lengths


class PathLengthPenalty(nn.Module):
    """Path length regularization (Karras et al. 2020, arXiv 1912.04958, section 3.2).

    A step of the styles should change the image by as much wherever it is taken and wherever it
    leads. The length of an image is |J^T y|, where J is the derivative of the image in its styles
    and y is noise; the penalty is the squared distance from the running mean of lengths. It is
    computed every `interval` steps of the generator, with `interval` times its weight.

    Args:
        weight: Its weight in the loss of the generator.
        interval: Steps of the generator from one penalty to the next.

    Raises:
        UserError: An interval below 1.
    """

    def __init__(self, weight: float = 2.0, interval: int = 4) -> None:
        super().__init__()
        if interval < 1:
            raise UserError(f'path_length: interval {interval}; it can be 1 or more')
        self.weight, self.interval = weight, interval
        self.register_buffer('mean', torch.zeros(()))

    def forward(self, images: Tensor, styles: Tensor) -> Tensor:
        """The penalty of images [N, C, H, W] made from styles [N, L, D], weighted; a scalar."""
        lengths = path_lengths(images, styles)
        mean = self.mean.lerp(lengths.mean(), MEAN_MOMENTUM)
        self.mean.copy_(mean.detach())
        return self.weight * self.interval * (lengths - mean).square().mean()


def path_lengths(images: Tensor, styles: Tensor) -> Tensor:
    """Root mean square over layers of |J^T y|, where y is noise with E |y|^2 = C.

    Args:
        images: [N, C, H, W], made from the styles.
        styles: [N, L, D], one for each of L layers.

    Returns:
        [N], differentiable in what made the images.
    """
    noise = torch.randn_like(images) / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * noise).sum(), styles, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()
