"""How often a conditional GAN draws the digit that it is asked for, as the classifier reads it."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks.classifier import digits
from sbzoo.metrics.extractors.digits import CLASSES, Digits
from sbzoo.tools.cli import positive_int
from sbzoo.zoo.load import load

CARDS = 'sngan_bn_b2', 'sngan_in_b2', 'sngan_gn_b2', 'sngan_ln_b2', 'sngan_hybrid_b2', 'r3gan_b8'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose samples, and how many."""
    add = parser.add_argument
    add('cards', nargs='*', default=CARDS, metavar='CARD', help='of conditional GANs of digits')
    add('--num', type=positive_int, default=2000, metavar='N', help='samples of each (2,000)')


def run(args: argparse.Namespace) -> None:
    """Print a table, a row for each card."""
    print('| card | read as the digit that was asked for |\n|---|---|')
    images, labels = digits(held_out=True)
    print(f'| real digits that were held out | {(read(images) == labels).double().mean():.3f} |')
    for name in args.cards:
        print(f'| {name} | {agreement(name, args.num):.3f} |')


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
