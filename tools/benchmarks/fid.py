"""FID beside pytorch-fid: feature throughput, Fréchet distance, memory of the covariance."""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytorch_fid.fid_score as peer
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks import output
from benchmarks.clocks import CPU, peak, reset_peak
from sbzoo import records
from sbzoo.files import sha256
from sbzoo.metrics.extractors import inception
from sbzoo.metrics.extractors.base import Extractor
from sbzoo.metrics.extractors.inception import Inception
from sbzoo.metrics.features import ImageFiles, extract_features
from sbzoo.metrics.functional.frechet import frechet_distance
from sbzoo.report.measurements import compared
from sbzoo.tools.cli import positive_int

D, BATCH = 2048, 50  # features of FID, and pytorch-fid's default batch
MB = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many images and features, and how often."""
    add = parser.add_argument
    add('--images', type=positive_int, default=100, metavar='N', help='PNG files of 64 x 64')
    add('--features', type=positive_int, default=50_000, metavar='N', help='of 2,048 dimensions')
    add('--rounds', type=positive_int, default=3, metavar='N', help='each side runs once in each')
    output.add_out(parser, 'fid.jsonl')


def run(args: argparse.Namespace) -> None:
    """Compare the parts of an FID one by one, and put each on record."""
    theirs, ours = (memory(side, args.features) / MB for side in ('pytorch-fid', 'sbzoo'))
    figures = {
        'features, images per second': images_a_second(args.images, args.rounds),
        'Fréchet distance, seconds': frechet_seconds(args.rounds),
        'mean and covariance, peak MB': dict(peer=theirs, sbzoo=ours, ratio=theirs / ours),
    }
    protocol = dict(
        dtype='float32',
        dimensions=D,
        images=args.images,
        features=args.features,
        rounds=args.rounds,
    )
    found = [
        records.measurement(dict(what=what), numbers, protocol, ('pytorch-fid', 'torchvision'))
        for what, numbers in figures.items()
    ]
    records.record(args.out, found)
    output.show(args.out, compared('pytorch-fid', found))


def images_a_second(images: int, rounds: int, device: torch.device = CPU) -> dict[str, float]:
    """Inception features of the same PNG files with the same random weights."""
    with tempfile.TemporaryDirectory() as folder, random_inception(folder) as weights:
        files = write_images(Path(folder) / 'images', images)
        ours = Inception(weights).to(device)
        theirs = inception.build(torch.load(weights), D).to(device)
        theirs.resize_input = True

        def by_sbzoo() -> np.ndarray:
            return extract_features(ImageFiles(files[0].parent), ours, keep=True).each.numpy()

        def by_peer() -> np.ndarray:
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
                return peer.get_activations(files, theirs, BATCH, D, device, num_workers=0)

        in_turn(by_peer, by_sbzoo, rounds=1)  # to warm up
        seconds, outcomes = in_turn(by_peer, by_sbzoo, rounds)
    difference = np.abs(outcomes[0] - outcomes[1]).max() / np.abs(outcomes[0]).max()
    return _pair(seconds, difference, amount=images)


def frechet_seconds(rounds: int) -> dict[str, float]:
    """The distance between Gaussians whose variances span six orders, as those of Inception do."""
    scale = torch.logspace(0, -3, D, dtype=torch.float64)
    moments = []
    for n in (3000, 4000):
        x = torch.randn(n, D, dtype=torch.float64) * scale + 0.01
        moments += [x.mean(0).numpy(), torch.cov(x.T).numpy()]
    seconds, (theirs, ours) = in_turn(
        lambda: peer.calculate_frechet_distance(*moments),
        lambda: frechet_distance(*moments),
        rounds,
    )
    return _pair(seconds, abs(ours / theirs - 1))


def in_turn(theirs: Callable, ours: Callable, rounds: int) -> tuple[list[list[float]], list]:
    """Seconds of both in each round, and the last outcomes."""
    seconds, outcomes = [], []
    for _ in range(rounds):
        outcomes, times = [], []
        for side in (theirs, ours):
            start = time.perf_counter()
            outcomes.append(side())
            times.append(time.perf_counter() - start)
        seconds.append(times)
    return seconds, outcomes


def _pair(
    seconds: list[list[float]], difference: float, amount: int | None = None
) -> dict[str, float]:
    """Medians of each side, in seconds or an amount a second, and of the ratio of the rounds."""
    values = [[amount / t if amount else t for t in times] for times in seconds]
    theirs, ours = (statistics.median(side) for side in zip(*values, strict=True))
    ratio = statistics.median(a / b for a, b in seconds)  # above 1 where ours is faster
    return dict(peer=theirs, sbzoo=ours, ratio=ratio, difference=difference)


def memory(side: str, features: int) -> int:
    """Bytes that mean and covariance of so many features add to a process of their own, at most."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        return pool.submit(_peak, side, features).result()


def _peak(side: str, features: int) -> int:
    images, network = Blanks(features), Noise()
    before = reset_peak()
    if side == 'sbzoo':
        _ = extract_features(images, network, keep=False, batch_size=BATCH).statistics.cov
    else:
        with (
            mock.patch.object(peer, 'ImagePathDataset', return_value=Pixels(features)),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            peer.calculate_activation_statistics(range(features), network.net, BATCH, D)
    return peak() - before


class Pixels(Dataset):
    """As many images of one pixel, as pytorch-fid's data set has them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.zeros(3, 1, 1)


class Blanks(Pixels):
    """The same as items of this library."""

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.zeros(3, 1, 1, dtype=torch.uint8))


class Random(nn.Module):
    """Random features, as pytorch-fid's network returns them."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [torch.randn(len(x), D, 1, 1)]


class Noise(Extractor):
    """Random features."""

    spec, d, resize, sha256 = 'noise', D, 'none', ''

    def __init__(self) -> None:
        super().__init__()
        self.net, self.device = Random(), nn.Parameter(torch.zeros(0))

    def prepare(self, image: Tensor) -> Tensor:
        return image.float()

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x)[0].flatten(1)


@contextlib.contextmanager
def random_inception(folder: str | Path, seed: int = 0) -> Iterator[Path]:
    """A file of random weights, which within passes for the published one.

    They are scaled so that features neither vanish nor grow, as those of trained weights do not.
    """
    net = torchvision.models.inception_v3(
        num_classes=1008, aux_logits=False, init_weights=False, weights=None
    )
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor, least in ((module.running_var, 0.5), (module.weight, 0.5)):
                tensor.data.uniform_(least, 1.5, generator=generator)
            for tensor in (module.running_mean, module.bias):
                tensor.data.normal_(0, 0.1, generator=generator)
    path = Path(folder) / 'inception.pth'
    torch.save(net.state_dict(), path)
    digest = sha256(path)
    with mock.patch.object(inception, 'SHA256_PREFIX', digest[:8]):
        yield path


def write_images(folder: Path, count: int, size: int = 64, seed: int = 0) -> list[Path]:
    """PNG files of smooth noise, so that images differ and have structure."""
    folder.mkdir(parents=True)
    rng = np.random.RandomState(seed)
    for index in range(count):
        small = rng.randint(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)
        image.save(folder / f'{index:05d}.png')
    return sorted(folder.iterdir())
