"""Classification accuracy of conditional GANs: samples that are read as their label."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks import output
from benchmarks.classifier import digits
from sbzoo import records
from sbzoo.metrics.extractors.digits import CLASSES, Digits
from sbzoo.records import Measurement
from sbzoo.report.measurements import by_machine, note
from sbzoo.report.tables import Cell, ResultTable
from sbzoo.tools.cli import positive_int
from sbzoo.zoo.load import load

REAL = 'real digits that were held out'
CARDS = 'sngan_bn_b2', 'sngan_in_b2', 'sngan_gn_b2', 'sngan_ln_b2', 'sngan_hybrid_b2', 'r3gan_b8'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose samples, and how many."""
    add = parser.add_argument
    add('cards', nargs='*', default=CARDS, metavar='CARD', help='of conditional GANs of digits')
    add('--num', type=positive_int, default=2000, metavar='N', help='samples of each (2,000)')
    output.add_out(parser, 'labels.jsonl')


def run(args: argparse.Namespace) -> None:
    """Put the agreement of each card on record, and that of real digits."""
    images, labels = digits(held_out=True)
    found = {REAL: (read(images) == labels).double().mean().item()}
    found |= {name: agreement(name, args.num) for name in args.cards}
    measured = [
        records.measurement(dict(card=card), dict(agreement=value), dict(samples=args.num, seed=0))
        for card, value in found.items()
    ]
    records.record(args.out, measured)
    output.show(args.out, tables(measured))


def tables(measured: Sequence[Measurement]) -> list[ResultTable]:
    """How often the digit is read that was asked for, card by card."""
    heads = ('card', 'read as the digit that was asked for')
    return [
        ResultTable(
            'labels',
            heads,
            [(Cell(m.row['card']), Cell(f'{m.figures["agreement"]:.3f}')) for m in group],
            note(group),
        )
        for group in by_machine(measured).values()
    ]


def agreement(card: str, num: int) -> float:
    """The fraction of samples that the digit classifier reads as their label.

    Raises:
        UserError: There is no such card, or its generator has no ten classes.
    """
    labels = torch.arange(num) % CLASSES
    images = load(card).sample(num, labels=labels.tolist())
    return (read(images) == labels).double().mean().item()


@torch.inference_mode()
def read(images: Tensor) -> Tensor:
    """The digits [N] that the classifier sees in images, uint8 [N, 3, 32, 32]."""
    classifier = Digits().eval()
    return classifier.net(classifier.prepare(images.cpu().float())).argmax(1)
