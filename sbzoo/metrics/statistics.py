"""Streaming mean and covariance of features, over batches and ranks, and in pytorch-fid's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.dist import all_reduce
from torch import Tensor

from sbzoo.errors import UserError
from sbzoo.files import replacing
from sbzoo.metrics.functional.frechet import frechet_distance
from sbzoo.metrics.npz import array_names, read_arrays

MOMENTS = 'mu', 'sigma'
ROUNDING = 1e-5  # of the largest entry of a covariance: more than float32 leaves


class FeatureStatistics:
    """Streaming mean and covariance of features in float64: O(d^2) memory for any number.

    Batches are merged by the centred formula of Chan et al. (1979), so that a large mean costs
    no digits of the covariance.

    Args:
        d: Dimensions of a feature.
        extractor: What the features are of, if that is known.
        path: The file that they were read from.
    """

    def __init__(self, d: int, extractor: str | None = None, path: str | Path = '') -> None:
        self.extractor, self.path = extractor, path
        self.n: int | None = 0  # None: a file that does not say of how many features it is
        self.mean = torch.zeros(d, dtype=torch.float64)
        self.scatter = torch.zeros(d, d, dtype=torch.float64)  # sum of (x - mean)(x - mean)^T

    @property
    def d(self) -> int:
        """Dimensions of a feature."""
        return len(self.mean)

    @property
    def cov(self) -> Tensor:
        """The covariance [d, d], divided by N - 1.

        Raises:
            UserError: There are fewer than two features.
        """
        if self.n is None:  # the scatter of such a file is its covariance
            return self.scatter
        if self.n < 2:
            raise UserError(f'a covariance takes two images or more, not {self.n}')
        return self.scatter / (self.n - 1)

    def update(self, features: Tensor) -> None:
        """Add features [N, d].

        Raises:
            UserError: One is not finite.
        """
        if not features.isfinite().all():
            raise UserError('a feature of an image is not finite')
        if not len(features):
            return
        features = features.detach().to('cpu', torch.float64)
        mean = features.mean(0)
        shift = mean - self.mean
        total = self.n + len(features)
        centred = features - mean
        self.scatter.addmm_(centred.T, centred)
        self.scatter.addr_(shift, shift, alpha=self.n * len(features) / total)
        self.mean += shift * (len(features) / total)
        self.n = total

    def all_reduce(self) -> None:
        """Merge those of all ranks, into each of them."""
        count = torch.tensor(float(self.n), dtype=torch.float64)
        all_reduce(count)
        mean = self.mean * self.n
        all_reduce(mean)
        mean /= count.clamp(min=1)
        shift = self.mean - mean
        self.scatter.addr_(shift, shift, alpha=self.n)
        all_reduce(self.scatter)
        self.n, self.mean = int(count), mean

    def require(self, d: int, extractor: str | None) -> None:
        """Check that these are statistics of an extractor's features, as far as they tell.

        Raises:
            UserError: They are of others.
        """
        if extractor and self.extractor not in (None, extractor):
            raise UserError(f'{self.path}: statistics of {self.extractor}, not of {extractor}')
        if self.d != d:
            raise UserError(
                f'{self.path}: features of {self.d} dimensions, not of {d}'
                + (f' as {extractor} has' if extractor else '')
            )

    def frechet_distance(self, other: FeatureStatistics) -> float:
        """The Frechet distance to other statistics of the same extractor.

        Raises:
            UserError: They are of another one.
        """
        self.require(other.d, other.extractor)
        return frechet_distance(self.mean, self.cov, other.mean, other.cov)

    def save(self, path: str | Path) -> None:
        """Write an .npz file as pytorch-fid does (`mu`, `sigma`), with `n` and `extractor` too.

        It appears under its name only when it is complete.
        """
        arrays = dict(mu=self.mean.numpy(), sigma=self.cov.numpy())
        if self.n is not None:
            arrays['n'] = np.array(self.n)
        if self.extractor:
            arrays['extractor'] = np.array(self.extractor)
        with replacing(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> FeatureStatistics:
        """Read an .npz file of this class or of pytorch-fid.

        Raises:
            UserError: There is no such file, or what it has is no mean and covariance.
        """
        arrays = read_arrays(Path(path), *MOMENTS, 'n', 'extractor')
        if not arrays.keys() >= {*MOMENTS}:
            held = ', '.join(array_names(Path(path))) or 'nothing'
            raise UserError(f'{path}: it has {held}, not mu and sigma, nor arr_0 of images')
        mean, cov = (_finite(f'{path}: {key}', arrays[key]) for key in MOMENTS)
        if not mean.numel() or mean.ndim != 1 or cov.shape != (*mean.shape, *mean.shape):
            shapes = f'mu {tuple(mean.shape)} and sigma {tuple(cov.shape)}'
            raise UserError(f'{path}: {shapes}, not [d] and [d, d]')
        _check_covariance(f'{path}: sigma', cov)
        self = cls(len(mean), _extractor(path, arrays.get('extractor')), path)
        self.n = _count(path, arrays.get('n'))
        self.mean, self.scatter = mean, cov if self.n is None else cov * (self.n - 1)
        return self


def _finite(what: str, array: np.ndarray) -> Tensor:
    """The real numbers of an array in float64, all of them finite."""
    if array.dtype.kind not in 'iuf':
        raise UserError(f'{what} is of type {array.dtype}; give real numbers')
    values = torch.from_numpy(array.astype(np.float64))
    if infinite := int((~values.isfinite()).sum()):
        raise UserError(f'{what} has {infinite} values that are not finite; give finite numbers')
    return values


def _check_covariance(what: str, cov: Tensor) -> None:
    """Check that it is symmetric and positive semi-definite, but for rounding."""
    slack = ROUNDING * cov.abs().max()
    row, column = divmod(int((cov - cov.T).argmax()), len(cov))
    if cov[row, column] - cov[column, row] > slack:
        pair = f'[{row}, {column}] is {cov[row, column]:g}, [{column}, {row}] {cov[column, row]:g}'
        raise UserError(f'{what} is not symmetric ({pair}); give a covariance')
    _, failed = torch.linalg.cholesky_ex(cov + slack * torch.eye(len(cov)))
    if failed and (least := torch.linalg.eigvalsh(cov)[0]) < -slack:
        raise UserError(
            f'{what} is not positive semi-definite (an eigenvalue is {least:g}); give a covariance'
        )


def _extractor(path: str | Path, array: np.ndarray | None) -> str | None:
    if array is not None and (array.dtype.kind != 'U' or array.ndim):
        raise UserError(f'{path}: extractor is {_shown(array)}; give the name of one')
    return None if array is None else str(array)


def _count(path: str | Path, array: np.ndarray | None) -> int | None:
    if array is not None and (array.dtype.kind not in 'iu' or array.ndim or array < 2):
        raise UserError(f'{path}: n is {_shown(array)}; give the number of images, 2 or more')
    return None if array is None else int(array)


def _shown(array: np.ndarray) -> str:
    return f'{array.dtype} {list(array.shape)}' if array.ndim else repr(array.item())
