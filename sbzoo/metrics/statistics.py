"""Streaming mean and covariance of features, over batches and ranks, and in pytorch-fid's files."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from mmengine.dist import all_reduce
from torch import Tensor

from sbzoo.errors import UserError
from sbzoo.files import replacing
from sbzoo.metrics.functional.frechet import frechet_distance


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
            UserError: There is no such file, or it is not of statistics.
        """
        arrays = _read(Path(path))
        mean, cov = arrays['mu'], arrays['sigma']
        if mean.ndim != 1 or cov.shape != (*mean.shape, *mean.shape):
            raise UserError(f'{path}: mu {mean.shape} and sigma {cov.shape}, not [d] and [d, d]')
        if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
            raise UserError(f'{path}: a value of mu or sigma is not finite')
        of = str(arrays['extractor']) if 'extractor' in arrays else None
        self = cls(len(mean), of, path)
        self.n = int(arrays['n']) if 'n' in arrays else None
        self.mean, cov = torch.from_numpy(mean).double(), torch.from_numpy(cov).double()
        self.scatter = cov if self.n is None else cov * (self.n - 1)
        return self


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file that has `mu` and `sigma`."""
    if not path.is_file():
        raise UserError(f'{path}: no such file of statistics')
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (BadZipFile, EOFError, OSError, TypeError, ValueError) as error:
        raise UserError(f'{path}: not an .npz file of arrays, or a broken one') from error
    if not arrays.keys() >= {'mu', 'sigma'}:
        raise UserError(f'{path}: it has {", ".join(arrays) or "nothing"}, not mu and sigma')
    return arrays
