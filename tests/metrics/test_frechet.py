"""The distances between sets of features, against closed forms and slow formulas."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import multiprocessing as mp

import sbzoo
from sbzoo.metrics.compare import fid_infinity, small_sample
from sbzoo.metrics.features import Features
from sbzoo.metrics.functional.frechet import frechet_distance, frechet_infinity
from sbzoo.metrics.functional.kid import kernel_inception_distance
from sbzoo.metrics.functional.prdc import CHUNK, compute_prdc
from sbzoo.metrics.statistics import FeatureStatistics


def covariance(d: int, rank: int, seed: int) -> torch.Tensor:
    factor = torch.randn(d, rank, generator=torch.Generator().manual_seed(seed)).double()
    return factor @ factor.T


def test_equal_covariances_leave_the_means():
    cov, zero, one = covariance(6, 9, 0), torch.zeros(6), torch.arange(6.0)
    assert frechet_distance(zero, cov, one, cov) == pytest.approx(0 + 1 + 4 + 9 + 16 + 25)


def test_one_dimension():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    got = frechet_distance(np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[25.0]]))
    assert got == pytest.approx((1 - 3) ** 2 + (2 - 5) ** 2)


def test_commuting_covariances():
    """In their common axes the roots are those of the variances."""
    axes = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    a, b = torch.tensor([1.0, 4, 9, 16, 25]).double(), torch.tensor([9.0, 1, 0, 4, 36]).double()
    got = frechet_distance(
        torch.zeros(5), axes @ a.diag() @ axes.T, torch.zeros(5), axes @ b.diag() @ axes.T
    )
    assert got == pytest.approx((a.sqrt() - b.sqrt()).square().sum().item())


@pytest.mark.parametrize('ranks', [(40, 40), (40, 3), (5, 2), (1, 40), (0, 7)])
def test_covariances_of_any_rank_by_the_eigenvalues_of_their_product(ranks):
    d = 24
    (a, b), mean = (covariance(d, rank, rank) for rank in ranks), torch.randn(d).double()
    roots = linalg.eigvals((a @ b).numpy()).real.clip(0) ** 0.5  # of a matrix without symmetry
    expected = mean.square().sum() + a.trace() + b.trace() - 2 * roots.sum()
    got = frechet_distance(mean, a, torch.zeros(d), b)
    assert got == pytest.approx(expected.item(), rel=1e-6)
    assert got == pytest.approx(frechet_distance(torch.zeros(d), b, mean, a), rel=1e-12)


@pytest.mark.parametrize('n', [500, 60])  # of full rank, and singular
@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e3])
def test_identical_sets_are_zero_also_in_another_order(n, scale):
    x = torch.randn(n, 200) * scale
    first, second = Features.of(x, 'a'), Features.of(x[torch.randperm(n)], 'a')
    (a, b) = first.statistics, second.statistics
    got = frechet_distance(a.mean, a.cov, b.mean, b.cov)
    assert 0 <= got <= 1e-6 * min(1, scale**2)


def test_says_what_cannot_be_compared():
    with pytest.raises(ValueError, match=r'shapes .* not twice \[d\] and \[d, d\]'):
        frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match='not finite'):
        frechet_distance(torch.zeros(2), torch.eye(2) * math.nan, torch.zeros(2), torch.eye(2))


def test_infinity_is_where_the_line_in_one_over_n_ends():
    assert frechet_infinity({n: 7 + 50 / n for n in (10, 20, 50, 100)}) == pytest.approx(7)


def test_infinity_takes_away_the_bias_of_few_samples():
    """Fakes are of the same distribution, so the distance without bias is 0."""
    real = Features.of(torch.randn(20_000, 16), 'a').statistics
    fake = torch.randn(600, 16)
    biased = frechet_distance(real.mean, real.cov, *(x for x in moments(fake)))
    assert biased > 0.1
    assert abs(fid_infinity(real, fake)) < biased / 4


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.double().mean(0), torch.cov(x.double().T)


def test_streaming_statistics_equal_numpy_with_a_large_mean():
    x = torch.randn(1003, 12) @ torch.randn(12, 12) + 1e4
    statistics = FeatureStatistics(12)
    for rows in x.split([1, 2, 500, 0, 500]):
        statistics.update(rows)
    assert statistics.n == 1003
    np.testing.assert_allclose(statistics.mean, x.double().numpy().mean(0), rtol=1e-14)
    expected = np.cov(x.double().numpy(), rowvar=False)
    np.testing.assert_allclose(statistics.cov, expected, atol=1e-9 * expected.max())


def test_statistics_refuse_what_is_not_finite_and_too_few():
    statistics = FeatureStatistics(2)
    with pytest.raises(sbzoo.UserError, match='not finite'):
        statistics.update(torch.tensor([[1.0, math.inf]]))
    statistics.update(torch.ones(1, 2))
    with pytest.raises(sbzoo.UserError, match='two images or more, not 1'):
        _ = statistics.cov


def reduce_on(rank: int, file: str, x: torch.Tensor) -> None:
    torch.distributed.init_process_group('gloo', f'file://{file}', rank=rank, world_size=2)
    statistics = FeatureStatistics(x.shape[1])
    statistics.update(x[:7] if rank == 0 else x[7:])
    statistics.all_reduce()
    assert statistics.n == len(x)
    np.testing.assert_allclose(statistics.mean, x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(statistics.cov, np.cov(x.numpy(), rowvar=False), rtol=1e-9)


def test_ranks_of_different_sizes_reduce_to_the_whole(tmp_path):
    x = torch.randn(60, 5, dtype=torch.float64) + torch.arange(60)[:, None]  # means far apart
    mp.start_processes(reduce_on, (str(tmp_path / 'store'), x), nprocs=2, start_method='fork')


@pytest.mark.parametrize('n', [12, 900])
def test_kernel_distance_equals_the_double_sum(n):
    x, y = torch.randn(n, 4), torch.randn(n, 4) + 0.5

    def mmd(x, y):
        def kernel(a, b):
            return ((a * b).sum().item() / 4 + 1) ** 3

        m = len(x)
        pairs = [(i, j) for i in range(m) for j in range(m) if i != j]
        within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs) / (m * (m - 1))
        return within - 2 * sum(kernel(a, b) for a in x for b in y) / m**2

    if n == 12:  # every pair of subsets of half of them is as likely
        mean, spread = kernel_inception_distance(x, y, subsets=4000)
        assert mean == pytest.approx(mmd(x, y), abs=4 * spread / 4000**0.5)
    else:  # a subset of four, drawn again here
        mean, spread = kernel_inception_distance(x, y, subsets=1, size=4, seed=3)
        generator = torch.Generator().manual_seed(3)
        first, second = (torch.randperm(n, generator=generator)[:4] for _ in range(2))
        assert mean == pytest.approx(mmd(x[first].double(), y[second].double()))
        assert spread == 0


def test_kernel_distance_has_no_bias():
    mean, spread = kernel_inception_distance(torch.randn(400, 8), torch.randn(300, 8))
    assert abs(mean) < 0.1 < spread * 10
    assert kernel_inception_distance(torch.randn(400, 8), torch.randn(300, 8) + 1)[0] > 1
    with pytest.raises(sbzoo.UserError, match='of 3 and 9 images; 4 are needed'):
        kernel_inception_distance(torch.randn(3, 2), torch.randn(9, 2))


def slow_prdc(distances: list[np.ndarray], k: int) -> dict[str, float]:
    """As the authors' code has it: Kynkaanniemi et al. compare by <= and Naeem et al. by <."""
    within_real, between, within_fake = distances
    real_radius, fake_radius = (np.sort(d, 1)[:, k] for d in (within_real, within_fake))
    inside = between < real_radius[:, None]
    return dict(
        precision=(between <= real_radius[:, None]).any(0).mean(),
        recall=(between <= fake_radius).any(1).mean(),
        density=inside.sum(0).mean() / k,
        coverage=inside.any(1).mean(),
    )


def squared_distances(real: np.ndarray, fake: np.ndarray) -> list[np.ndarray]:
    """Within the first, between both, within the second; exact for whole numbers."""
    pairs = (real, real), (real, fake), (fake, fake)
    return [np.square(x[:, None] - y).sum(2) for x, y in pairs]


def test_prdc_equal_the_papers_formulas():
    real, fake = torch.randn(40, 3), torch.randn(30, 3) * 0.7 + 0.6
    got = compute_prdc(real, fake, k=3)
    expected = slow_prdc(squared_distances(real.numpy(), fake.numpy()), k=3)
    assert got == pytest.approx(expected)
    assert all(0.1 < value < 1.5 and value != 1 for value in expected.values()), expected


@pytest.mark.parametrize('copies', [1, 2, 7])
def test_prdc_decide_ties_and_duplicates_as_whole_numbers_do(copies):
    """Features on a lattice, many of them equally far, in units that are no binary fractions."""
    rng = np.random.RandomState(copies)
    real, fake = (rng.randint(0, 6, (n, 4)).repeat(copies, 0) for n in (60, 45))
    for other in (fake, rng.permutation(real)):
        expected = slow_prdc(squared_distances(real, other), k=5)
        for unit in (0.1, 1e-4 / 3, 1e5 / 7):
            features = (torch.from_numpy(x * unit + 7 * unit) for x in (real, other))
            assert compute_prdc(*features) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('d', [2, 64, 2048])
def test_density_of_a_set_with_itself_is_one_in_any_order(d):
    x = torch.randn(200, d) + 5
    perfect = dict.fromkeys(('precision', 'recall', 'density', 'coverage'), 1.0)
    assert compute_prdc(x, x) == compute_prdc(x, x[torch.randperm(200)]) == perfect


def test_prdc_do_not_depend_on_chunks(monkeypatch):
    real, fake = torch.randn(70, 3), torch.randn(50, 3) + 0.5
    assert max(len(real), len(fake)) < CHUNK
    whole = compute_prdc(real, fake)
    monkeypatch.setattr('sbzoo.metrics.functional.prdc.CHUNK', 16)
    assert compute_prdc(real, fake) == pytest.approx(whole)


def test_prdc_tell_collapse_from_noise():
    real = torch.randn(300, 4)
    collapsed = compute_prdc(real, real[:10].repeat(30, 1) + torch.randn(300, 4) * 1e-3)
    assert collapsed['precision'] > 0.9
    assert max(collapsed['recall'], collapsed['coverage']) < 0.3
    far = compute_prdc(real, torch.randn(300, 4) + 100)
    assert set(far.values()) == {0}
    with pytest.raises(sbzoo.UserError, match='5 neighbours in 5 and 9 images'):
        compute_prdc(torch.randn(5, 2), torch.randn(9, 2))


def test_warns_of_a_singular_covariance_with_its_rank():
    few, many = FeatureStatistics(2048), FeatureStatistics(2048)
    few.n, many.n = 500, 50_000
    assert '500 images' in small_sample('inception', many, few)
    assert 'rank 499' in small_sample('inception', few, many)
    assert small_sample('inception', many, many) is None
    few.n = 2048  # the mean takes one
    assert 'rank 2,047, ' in small_sample('inception', few, many)
    few.n = 2049
    assert small_sample('inception', few, many) is None
