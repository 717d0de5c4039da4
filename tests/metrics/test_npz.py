"""Statistics in .npz files: every fault in one line that names file, key, value and cure."""

import re
import zipfile

import numpy as np
import pytest

from sbzoo.errors import UserError
from sbzoo.metrics.npz import read_arrays
from sbzoo.metrics.statistics import FeatureStatistics

ZERO, ONE = np.zeros(3), np.eye(3)


def changed(row: int, column: int, value: float) -> np.ndarray:
    matrix = ONE.copy()
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ('arrays', 'line'),
    [
        (dict(mu=['1', '2', '3']), 'mu is of type <U1; give real numbers'),
        (dict(mu=ZERO + 1j), 'mu is of type complex128; give real numbers'),
        (dict(sigma=ONE > 0), 'sigma is of type bool; give real numbers'),
        (dict(sigma=ONE.astype(object)), 'sigma cannot be read as an array of numbers (Object'),
        (dict(mu=ZERO / [1, 1, np.inf] + [0, np.nan, np.inf]), 'mu has 2 values that are not fin'),
        (dict(mu=ZERO[None]), 'mu (1, 3) and sigma (3, 3), not [d] and [d, d]'),
        (dict(mu=ZERO[:0], sigma=ONE[:0, :0]), 'mu (0,) and sigma (0, 0), not [d] and [d, d]'),
        (dict(sigma=changed(0, 1, 0.5)), 'sigma is not symmetric ([0, 1] is 0.5, [1, 0] 0); give'),
        (dict(sigma=changed(1, 1, -0.5)), 'sigma is not positive semi-definite (an eigenvalue is'),
        (dict(sigma=-ONE), 'sigma is not positive semi-definite (an eigenvalue is -1); give a cov'),
        (dict(n=2.5), 'n is 2.5; give the number of images, 2 or more'),
        (dict(n=1), 'n is 1; give the number of images'),
        (dict(n=[5, 6]), 'n is int64 [2]; give the number of images'),
        (dict(extractor=7), 'extractor is 7; give the name of one'),
    ],
)
def test_what_is_no_mean_and_covariance_is_refused(tmp_path, arrays, line):
    path = tmp_path / 'a.npz'
    np.savez(path, **dict(mu=ZERO, sigma=ONE) | arrays)
    with pytest.raises(UserError, match=f'^{re.escape(f"{path}: {line}")}') as caught:
        FeatureStatistics.load(path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('dtype', ['>f8', 'f4', 'longdouble', 'i8'])
@pytest.mark.parametrize('rank', [0, 2, 40])
def test_covariances_of_any_rank_and_number_format_pass_with_their_rounding(tmp_path, dtype, rank):
    """Of fewer images than dimensions, where an eigenvalue that is 0 comes out negative."""
    factor = np.random.RandomState(0).randn(24, rank) * 1000
    cov = (factor @ factor.T).astype(dtype)
    assert rank == 40 or np.linalg.eigvalsh(cov.astype(float))[0] <= 0
    np.savez(tmp_path / 'a.npz', mu=cov[0], sigma=cov)
    loaded = FeatureStatistics.load(tmp_path / 'a.npz')
    np.testing.assert_array_equal(loaded.cov, cov.astype(float))
    np.testing.assert_array_equal(loaded.mean, cov[0].astype(float))


def test_broken_archives_are_said(tmp_path):
    whole, path = tmp_path / 'whole.npz', tmp_path / 'a.npz'
    np.savez_compressed(whole, mu=np.random.RandomState(0).randn(3000))
    data = bytearray(whole.read_bytes())
    data[5000] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=r'a\.npz: mu cannot be read as an array of numbers'):
        read_arrays(path, 'mu')
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('mu', b'no array')
    with pytest.raises(UserError, match=r'a\.npz: it has mu, not mu and sigma'):
        FeatureStatistics.load(path)
    with path.open('wb') as file:
        np.save(file, ZERO)
    with pytest.raises(UserError, match=r'a single array, not an \.npz file of arrays by name'):
        FeatureStatistics.load(path)
    path.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(UserError, match=r'not an \.npz file of arrays, or a broken one'):
        FeatureStatistics.load(path)


def test_arrays_that_nobody_asks_for_are_not_read(tmp_path):
    np.savez(tmp_path / 'a.npz', mu=ZERO, sigma=ONE, notes=np.array([None]))
    assert FeatureStatistics.load(tmp_path / 'a.npz').d == 3
