"""The Frechet distance between two Gaussians: FID, on Inception features (Heusel et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def frechet_distance(
    mean1: Tensor | np.ndarray,
    cov1: Tensor | np.ndarray,
    mean2: Tensor | np.ndarray,
    cov2: Tensor | np.ndarray,
) -> float:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)), in float64.

    Heusel et al. 2017, arXiv 1706.08500; it is the squared 2-Wasserstein distance.

    With cov = F F^T the trace of the root is the nuclear norm of F1^T F2. Its singular values are
    exact to rounding also where covariances are singular, which the roots of eigenvalues are not
    (1e-16 becomes 1e-8, thousands of times), and they cannot be negative or complex.

    Args:
        mean1: Mean of the first, [d].
        cov1: Its covariance, [d, d], symmetric and positive semi-definite; of any rank.
        mean2: Mean of the second, [d].
        cov2: Its covariance, [d, d].

    Raises:
        ValueError: Shapes do not agree, or a value is not finite.
    """
    mean1, cov1, mean2, cov2 = (
        torch.as_tensor(x, dtype=torch.float64) for x in (mean1, cov1, mean2, cov2)
    )
    _check(mean1, cov1, mean2, cov2)
    root = _trace_of_root(_factor(cov1), _factor(cov2))
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root
    return max(distance.item(), 0.0)


def _trace_of_root(factor1: Tensor, factor2: Tensor) -> Tensor:
    """The sum of the singular values of F1^T F2.

    Where both are far from singular, roots of the eigenvalues of its square are as exact, and a
    third of the work.
    """
    product = factor1.T @ factor2
    if _is_well_conditioned(factor1) and _is_well_conditioned(factor2):
        return torch.linalg.eigvalsh(product @ product.T).clamp(min=0).sqrt().sum()
    with _one_thread():
        return torch.linalg.svdvals(product).sum()


def _is_well_conditioned(factor: Tensor) -> bool:
    """Whether the pivots of a full factor span less than six orders of magnitude."""
    if factor.shape[0] != factor.shape[1]:
        return False
    pivots = factor.diagonal().square()
    return bool(pivots.min() > 1e-6 * pivots.max())


@contextmanager
def _one_thread() -> Iterator[None]:
    """LAPACK's SVD gains nothing by threads, and loses all where another program takes one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def frechet_infinity(distances: dict[int, float]) -> float:
    """FID-infinity: the distance extrapolated to infinitely many samples.

    Chong and Forsyth 2020, arXiv 1911.07023.

    Its bias is about proportional to 1 / N, so a line is fitted.

    Args:
        distances: The distance by the number of samples N, of two N or more.
    """
    inverse = 1 / np.array(list(distances), dtype=np.float64)
    _, intercept = np.polyfit(inverse, list(distances.values()), deg=1)
    return float(intercept)


def _factor(cov: Tensor) -> Tensor:
    """F [d, r] with F F^T = cov, of as few columns as a singular matrix needs."""
    lower, failed = torch.linalg.cholesky_ex(cov)
    return _pivoted_cholesky(cov) if failed else lower


def _pivoted_cholesky(cov: Tensor) -> Tensor:
    """The largest pivots first, and none that is rounding: O(d r^2) for rank r."""
    rest = cov.diagonal().clone()
    least = rest.max() * len(rest) * torch.finfo(rest.dtype).eps
    rows = torch.empty_like(cov)
    for r in range(len(rest)):
        pivot = rest.argmax()
        if rest[pivot] <= least:
            return rows[:r].T
        rows[r] = (cov[pivot] - rows[:r, pivot] @ rows[:r]) / rest[pivot].sqrt()
        rest -= rows[r].square()
    return rows.T


def _check(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (mean1, cov1, mean2, cov2)]
    d = mean1.numel()
    if shapes != [(d,), (d, d)] * 2:
        raise ValueError(f'means and covariances of shapes {shapes}, not twice [d] and [d, d]')
    if not all(x.isfinite().all() for x in (mean1, cov1, mean2, cov2)):
        raise ValueError('a mean or a covariance is not finite')
