"""What is left of a classifier of ImageNet whose norms are replaced, and what calibration keeps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from benchmarks import output
from benchmarks.imagenet import HELD_OUT, NETWORK, PHOTOGRAPHS, SIDE, crops, efficientnet_lite0
from sbzoo import records
from sbzoo.norm import Norm, calibrate, convert_norm
from sbzoo.records import Measurement
from sbzoo.report.measurements import studies
from sbzoo.tools import cli

SPECS = 'gn', 'gn8', 'ln', 'in', 'sn', 'hybrid', 'hybrid(bn,gn8)'
HALF = 'hybrid, alpha 0.5'
COPIED, CALIBRATED, DISTILLED = 'copied', 'calibrated', 'then 30 steps of distillation'
IMAGES, BATCH = 64, 16  # of calibration
TESTED = 96
STEPS, LR, MICRO = 30, 0.003, 8  # of distillation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which seeds, of the crops."""
    parser.add_argument('--seeds', nargs='+', type=cli.seed, default=(0, 1, 2), metavar='SEED')
    output.add_out(parser, 'conversion.jsonl')


def run(args: argparse.Namespace) -> None:
    """Convert the network to each norm; every figure is on record as soon as it is there."""
    torch.set_num_threads(1)
    original = efficientnet_lite0().requires_grad_(False)
    grid = [(seed, arm) for seed in args.seeds for arm in (*SPECS, HALF)]
    measured = []
    for seed, arm in track(grid, 'conversions'):
        images = crops(PHOTOGRAPHS, IMAGES, seed)
        tested = crops(HELD_OUT, TESTED, seed)
        found = [*_measured(original, arm, seed, images, tested)]
        records.record(args.out, found)
        measured += found
    output.show(args.out, studies(measured))


def _measured(
    original: nn.Module, arm: str, seed: int, images: Tensor, tested: Tensor
) -> Iterator[Measurement]:
    """The agreement of a norm, copied, calibrated and distilled."""
    expected = _logits(original, tested)
    protocol = {'network': NETWORK, 'pixels': SIDE, 'images': IMAGES, 'tested on': TESTED}
    for condition, network in converted(original, arm, images):
        row = dict(study='conversion', arm=arm, condition=condition, seed=seed)
        figures = agreement(_logits(network, tested), expected)
        yield records.measurement(row, figures, protocol, ('timm',))


def converted(original: nn.Module, arm: str, images: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """One network after another, in evaluation mode; each goes on from the last."""
    network = convert_norm(deepcopy(original), arm.partition(', ')[0]).model
    if arm == HALF:
        for norm in _norms(network):
            nn.init.zeros_(norm.alpha_logit)
    yield COPIED, network
    calibrate(network, original, images.split(BATCH))
    yield CALIBRATED, network
    distil(network, original, images)
    yield DISTILLED, network


def agreement(logits: Tensor, expected: Tensor) -> dict[str, float]:
    """How often the class of `expected` [N, K] is the first, and among the first five."""
    wanted = expected.argmax(1, keepdim=True)
    hits = logits.topk(5).indices == wanted
    found = {'top-1 agreement': hits[:, 0], 'top-5 agreement': hits.any(1)}
    return {name: hit.float().mean().item() for name, hit in found.items()}


def distil(network: nn.Module, original: nn.Module, images: Tensor) -> None:
    """Train weights and biases of the norms to the outputs of the original (Adam, linear decay)."""
    parameters = [p for norm in _norms(network) for p in (norm.weight, norm.bias)]
    optimizer = torch.optim.Adam([p.requires_grad_() for p in parameters], LR)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, STEPS)
    for _ in range(STEPS):
        batch = images[torch.randperm(len(images))[:MICRO]]
        expected = original(batch).softmax(1)
        loss = F.kl_div(network(batch).log_softmax(1), expected, reduction='batchmean')
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    network.requires_grad_(False)


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return network(images)


def _norms(network: nn.Module) -> Sequence[Norm]:
    return [module for module in network.modules() if isinstance(module, Norm)]
