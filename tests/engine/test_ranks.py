"""Two ranks that meet by gloo: trained, saved, resumed, evaluated, and how they end."""

import json
import os
import random
import re
import signal
import time
import types
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from forks import Ended, fork, script, tool
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from PIL import Image
from small_detectors import batch, build, split
from test_accumulation import OBJECTS, gradient
from torch import distributed as dist
from torch import nn

from sbzoo import UserError
from sbzoo.checkpoint.io import check_fit, load
from sbzoo.engine.hooks.ranks import average_over_ranks
from sbzoo.engine.hooks.resume import ExactResumeHook
from sbzoo.engine.loss_normalizers import AVERAGES
from sbzoo.engine.model import load_model
from sbzoo.engine.options.config import load_config
from sbzoo.engine.ranks import LAUNCHERS, join, one_voice
from sbzoo.gan.models.image_to_image import ImagePool
from sbzoo.norm import Norm
from sbzoo.tools import cli


def on_two_ranks(main: Callable[[], None]) -> list[Ended]:
    """As torchrun would start them."""
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    return fork(*(partial(_rank, rank, store.port, main) for rank in range(2)))


def _rank(rank: int, port: int, main: Callable[[], None]) -> None:
    os.environ |= dict(zip(LAUNCHERS['pytorch'], (str(rank), str(rank), '2'), strict=True))
    agent = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    os.environ |= dict(agent, TORCHELASTIC_USE_AGENT_STORE='True')
    main()


def launched(name: str, *arguments: object) -> list[Ended]:
    return on_two_ranks(script(f'tools/{name}.py', *arguments, '--launcher', 'pytorch'))


def succeeded(ranks: list[Ended]) -> str:
    """What the first has printed; the other is silent."""
    assert [rank.status for rank in ranks] == [0, 0], ranks[0].errors + ranks[1].errors
    assert not ranks[1].printed
    return ranks[0].printed


class Trained(NamedTuple):
    """A finished run of two epochs."""

    config: Path
    work_dir: Path
    printed: str


def train(folder: Path, config: str, *options: object) -> Trained:
    work_dir = folder / 'run'
    arguments = f'configs/{config}.py', '--epochs', 2, '--work-dir', work_dir, *options
    printed = succeeded(launched('train', *arguments))
    return Trained(work_dir / f'{config}.py', work_dir, printed)


@pytest.fixture(scope='module')
def detector(digits, tmp_path_factory) -> Trained:
    """Of a norm that each rank has for itself, on numbers of images that two do not divide."""
    small = [f'{split}_dataloader.dataset.indices=13' for split in ('train', 'val', 'test')]
    return train(
        tmp_path_factory.mktemp('detector'),
        'retinanet_bn_b2',
        *('--batch', 1, '--load-from', 'card://retinanet_bn_b2', '--lr', 0.001),
        *('--cfg-options', *small, 'val_dataloader.batch_size=2', 'test_dataloader.batch_size=2'),
    )


@pytest.fixture(scope='module')
def gan(digits, tmp_path_factory) -> Trained:
    return train(
        tmp_path_factory.mktemp('gan'),
        'dcgan_hybrid_b2',
        *('--norm', 'hybrid(bn,ln)', '--batch', 1, '--cfg-options'),
        *('train_dataloader.dataset.indices=7', 'val_dataloader.dataset.num=101'),
        *('test_dataloader.dataset.num=101', 'train_cfg.val_interval=2'),
    )


@pytest.fixture(params=['detector', 'gan'])
def trained(request) -> Trained:
    return request.getfixturevalue(request.param)


def metrics_of(work_dir: Path) -> dict[str, float]:
    return json.loads((work_dir / 'result.json').read_text())['metrics']


def test_one_process_measures_of_the_checkpoint_what_two_ranks_printed(trained, tmp_path):
    assert trained.printed.count('picture: ') == 1
    result = json.loads((trained.work_dir / 'result.json').read_text())
    assert (result['devices'], result['images_a_step']) == (2, 1)
    alone = tool('test', trained.config, trained.work_dir, '--work-dir', tmp_path)
    assert alone.status == 0, alone.errors
    expected = metrics_of(trained.work_dir)
    assert next(iter(expected.values())) > 0.02  # of all 200 pictures
    assert metrics_of(tmp_path) == pytest.approx(expected, rel=1e-3)


def test_a_resumed_run_ends_as_the_unbroken_one(trained, tmp_path):
    """Bit for bit, on both ranks: what one has drawn is in the weights of the other."""
    resume = trained.config, '--work-dir', tmp_path, '--resume', trained.work_dir / 'epoch_1.pth'
    succeeded(launched('train', *resume))
    unbroken, resumed = (
        torch.load(folder / 'epoch_2.pth', weights_only=False)
        for folder in (trained.work_dir, tmp_path)
    )
    for part in ('state_dict', 'optimizer'):
        torch.testing.assert_close(resumed[part], unbroken[part], rtol=0, atol=0)


def test_tested_on_two_ranks(detector, tmp_path):
    arguments = detector.config, detector.work_dir, '--work-dir', tmp_path
    printed = succeeded(launched('test', *arguments))
    assert 'mAP_50' in printed
    assert metrics_of(tmp_path) == metrics_of(detector.work_dir)


def test_keys_of_a_gan_are_those_of_one_process(gan, tmp_path):
    """Also of checkpoints that were saved with wrappers in their keys."""
    weights = load(gan.work_dir)['state_dict']
    model = load_model(load_config(str(gan.config)), gan.work_dir)
    assert weights.keys() == model.state_dict().keys()
    network = re.compile(r'^(generator|discriminator)\.')
    wrapped = {network.sub(r'\1.module.', key): value for key, value in weights.items()}
    assert len(wrapped.keys() - weights.keys()) > 20
    torch.testing.assert_close(check_fit('old.pth', wrapped, model), weights, rtol=0, atol=0)
    assert check_fit('old.pth', {f'module.{k}': v for k, v in weights.items()}, model) == weights


def test_what_both_ranks_do_not_like_is_said_once(gan, tmp_path):
    torch.save(dict(state_dict=dict(w=torch.ones(1)), meta={}), tmp_path / 'other.pth')
    start = gan.config, '--work-dir', tmp_path, '--load-from', tmp_path / 'other.pth'
    ranks = launched('train', *start)
    assert [rank.status for rank in ranks] == [1, 1]
    said = ''.join(rank.errors for rank in ranks)
    assert said.count('error: ') == said.count('the checkpoint is of another model') == 1


def test_fid_over_two_ranks_is_that_of_one(digits, tmp_path):
    from sbzoo.metrics.compare import compare

    real, fake = (tmp_path / name for name in ('real', 'fake'))
    for folder, count in ((real, 21), (fake, 20)):
        folder.mkdir()
        for i in range(count):
            pixels = np.random.default_rng(i + count).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f'{i}.png')
    options = '--extractor', 'digits', '--kid', '--json'
    report = json.loads(succeeded(launched('fid', real, fake, *options)))
    expected = compare(real, fake, extractor='digits', kid=True)
    assert report['metrics'] == pytest.approx(expected.metrics, rel=1e-6)
    assert report['protocol'] == expected.protocol


def _draw(folder: Path) -> None:
    join('pytorch')
    runner, drawn = types.SimpleNamespace(seed=0, train_loop=None), []
    for runner.epoch in (0, 1, 0):
        ExactResumeHook().before_train_epoch(runner)
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
    torch.save(drawn, folder / f'{dist.get_rank()}.pth')


def test_each_rank_draws_its_own_numbers_in_each_epoch(tmp_path):
    on_two_ranks(partial(_draw, tmp_path))
    drawn = [torch.load(tmp_path / f'{rank}.pth') for rank in range(2)]
    for first, second, first_again in drawn:
        assert first == first_again != second
    for one, other in zip(*drawn, strict=True):
        assert not set(one) & set(other)


def _average(folder: Path) -> None:
    join('pytorch')
    model = nn.Sequential(nn.BatchNorm2d(3), Norm(3, 'mabn'), ImagePool(2, 4))
    for buffer in model.buffers():
        buffer.fill_(1 + 2 * dist.get_rank())
    average_over_ranks(model)
    found = [buffer.unique().tolist() for buffer in model.buffers()]
    torch.save(found, folder / f'{dist.get_rank()}.pth')


def test_running_statistics_become_their_mean_and_nothing_else_changes(tmp_path):
    """Mean 2 of 1 and 3, of counters the larger; a pool of images is no statistic."""
    on_two_ranks(partial(_average, tmp_path))
    norms = [[2.0], [2.0], [3]] * 2 + [[2.0], [2.0]]
    for rank, pool in enumerate(([[1.0], [1]], [[3.0], [3]])):
        found = torch.load(tmp_path / f'{rank}.pth')
        assert sorted(found[:-2]) == sorted(norms)
        assert found[-2:] == pool


SPLITS = (2, 'window'), (1, 'window'), (1, 'batch')  # pictures of a micro-batch, of two on a rank
AVERAGED = 2, 'moving-average'
ON_RANKS = 'lean retinanet', 'fcos', 'detr', 'mask'


def _accumulate(folder: Path) -> None:
    join('pytorch')
    found = {}
    for name, (size, normalizer) in product(ON_RANKS, (*SPLITS, AVERAGED)):
        model = MMDistributedDataParallel(build(name), find_unused_parameters=True)
        MessageHub.get_current_instance().update_info(AVERAGES, {})
        own = split(batch(OBJECTS, masks=name == 'mask'), 2)[dist.get_rank()]
        found[name, size, normalizer] = gradient(model, split(own, size), normalizer)[0]
    torch.save(found, folder / f'{dist.get_rank()}.pth')


@pytest.fixture(scope='module')
def accumulated(tmp_path_factory) -> dict[tuple, torch.Tensor]:
    """The gradients of both ranks, which are equal."""
    folder = tmp_path_factory.mktemp('accumulated')
    ranks = on_two_ranks(partial(_accumulate, folder))
    assert [rank.status for rank in ranks] == [0, 0], ranks[0].errors + ranks[1].errors
    one, other = (torch.load(folder / f'{rank}.pth') for rank in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    return one


def test_two_ranks_are_one_of_both_batches(accumulated):
    """Also of two micro-batches each; with MMDetection's normalisers those are not."""
    for name in ON_RANKS:
        expected, _ = gradient(build(name), [batch(OBJECTS, masks=name == 'mask')], 'batch')
        errors = [(accumulated[name, *of] - expected).norm() / expected.norm() for of in SPLITS]
        assert max(errors[:2]) < 1e-5, name
        assert errors[2] > 1e-3, name


def test_a_moving_average_is_one_over_ranks(accumulated):
    MessageHub.get_current_instance().update_info(AVERAGES, {})
    for name in ON_RANKS[:2]:
        expected, _ = gradient(build(name), [batch(OBJECTS)], AVERAGED[1])
        assert (accumulated[name, *AVERAGED] - expected).norm() < 1e-5 * expected.norm(), name
        MessageHub.get_current_instance().update_info(AVERAGES, {})


def _end(action: Callable[[], None], timeout: int) -> None:
    cli.run(lambda: _work(action, timeout), debug=False)


def _work(action: Callable[[], None], timeout: int) -> None:
    with one_voice('pytorch'):
        join('pytorch', timeout)
        for step in range(1000):
            dist.all_reduce(torch.ones(()))
            action(dist.get_rank(), step)


def _fails(rank: int, step: int) -> None:
    if (rank, step) == (1, 3):
        raise UserError('a.png: broken')


def _is_killed(rank: int, step: int) -> None:
    if (rank, step) == (1, 3):
        os.kill(os.getpid(), signal.SIGKILL)


def _first_is_killed(rank: int, step: int) -> None:
    _is_killed(1 - rank, step)


def _hangs(rank: int, step: int) -> None:
    if (rank, step) == (1, 3):
        time.sleep(2.5)
        os._exit(0)


def _all_fail(rank: int, step: int) -> None:
    if step == 3:
        raise ZeroDivisionError('x')


def _all_are_interrupted(rank: int, step: int) -> None:
    if step == 3:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ('action', 'message'),
    [
        (_fails, 'error: a.png: broken'),
        (_is_killed, 'error: rank 1 of 2 has ended'),
        (_first_is_killed, 'error: rank 0 of 2 has ended'),
        (_hangs, 'error: rank 1 of 2 has ended or hangs'),
        (_all_fail, 'error: ZeroDivisionError: x'),
        (_all_are_interrupted, 'stopped'),
    ],
)
def test_a_rank_that_ends_ends_the_others_with_one_line(action, message):
    start = time.monotonic()
    ranks = on_two_ranks(partial(_end, action, 1))
    (line,) = ''.join(rank.errors for rank in ranks).splitlines()
    assert line.startswith(message)
    assert all(rank.status for rank in ranks) or action is _hangs
    assert time.monotonic() - start < 10
