"""KID, the kernel inception distance: unbiased MMD, for few images too (Binkowski et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from sbzoo.errors import UserError

MIN_IMAGES = 4  # images of either set


def kernel_inception_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID: the squared maximum mean discrepancy under the polynomial kernel (x . y / d + 1)^3.

    Binkowski et al. 2018, arXiv 1801.01401.

    Args:
        real: Features [N, d].
        fake: Features [M, d].
        subsets: Over how many random subsets of both it is averaged.
        size: Of a subset; half of the fewer features at most, so that subsets differ.
        seed: Of the choice of subsets.

    Returns:
        Mean and standard deviation over the subsets; the mean of equal distributions is 0.

    Raises:
        UserError: There are fewer than `MIN_IMAGES` of either.
    """
    if min(len(real), len(fake)) < MIN_IMAGES:
        raise UserError(f'KID of {len(real)} and {len(fake)} images; {MIN_IMAGES} are needed')
    size = min(size, len(real) // 2, len(fake) // 2)
    generator = torch.Generator().manual_seed(seed)
    values = torch.stack(
        [
            _squared_mmd(_draw(real, size, generator), _draw(fake, size, generator))
            for _ in range(subsets)
        ]
    )
    return values.mean().item(), values.std(correction=0).item()


def _draw(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=generator)[:size]].double()


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate of MMD^2: without the kernel of a feature with itself."""
    n = len(x)
    within = _kernel(x, x), _kernel(y, y)
    return sum((k.sum() - k.trace()) / (n * (n - 1)) for k in within) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
