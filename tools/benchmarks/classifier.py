"""Train the digit classifier again, whose features FD-digits is measured on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from sbzoo.files import write
from sbzoo.images import to_plus_minus_one
from sbzoo.metrics.extractors.digits import CARD, SIZE, DigitClassifier
from sbzoo.paths import ROOT
from sbzoo.tools.cli import positive_int, seed

BATCH, LR = 64, 3e-3
PACKAGES = 'torch', 'scikit-learn', 'pillow', 'numpy'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long, from which seed, and where to."""
    add = parser.add_argument
    add('--epochs', type=positive_int, default=10, metavar='N')
    add('--seed', type=seed, default=0, metavar='N')
    add('--out', type=Path, default=ROOT / 'work_dirs/digit_classifier/model.safetensors')


def run(args: argparse.Namespace) -> None:
    """Train, test on the digits held out, and write the weights."""
    torch.set_num_threads(1)  # so that every machine adds up in the same order
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    model = train(DigitClassifier(), *digits(held_out=False), args.epochs)
    accuracy = evaluate(model, *digits(held_out=True))
    made = dict(
        command=f'python tools/bench.py classifier --epochs {args.epochs} --seed {args.seed}',
        held_out_accuracy=round(accuracy, 4),
        versions={name: version(name) for name in PACKAGES},
    )
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write(args.out, save(weights, dict(made=json.dumps(made))))
    print(f'{accuracy:.2%} of the digits held out; written: {args.out}')
    print(f'{"equal to" if _published(weights) else "other than"} the published weights')


def _published(weights: dict[str, Tensor]) -> bool:
    published = load_file(CARD / 'model.safetensors')
    return all(torch.equal(weights[name], published[name]) for name in weights)


def digits(held_out: bool) -> tuple[Tensor, Tensor]:
    """Images of scikit-learn's digits, uint8 [N, 3, 32, 32], and labels [N].

    Every sixth is held out, as in the embedded sets.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    chosen = (np.arange(len(source.target)) % 6 == 5) == held_out
    strokes = np.minimum(source.images[chosen] * 16, 255).astype(np.uint8)  # from 0..16
    size, bicubic = (SIZE, SIZE), Image.Resampling.BICUBIC
    images = np.stack([np.array(Image.fromarray(s).resize(size, bicubic)) for s in strokes])
    grey = torch.from_numpy(images)[:, None]
    return grey.expand(-1, 3, -1, -1), torch.from_numpy(source.target[chosen])


def train(model: DigitClassifier, images: Tensor, labels: Tensor, epochs: int) -> DigitClassifier:
    """Train with AdamW and one cycle of the learning rate, on shifted, scaled and noisy images."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for _ in track(range(epochs), 'epochs', transient=True):
        for chosen in _batches(len(images)):
            loss = F.cross_entropy(model(augment(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _batches(n: int) -> Iterator[Tensor]:
    whole = torch.randperm(n)[: n // BATCH * BATCH]
    return iter(whole.split(BATCH))


def augment(images: Tensor) -> Tensor:
    """Float in [-1, 1]: scale 0.85-1.15, shift of 3 pixels at most, noise of 0.2 at most."""
    n = len(images)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / torch.empty(n).uniform_(0.85, 1.15)
    theta[:, :, 2] = torch.empty(n, 2).uniform_(-3, 3) * 2 / SIZE
    grid = F.affine_grid(theta, [n, 3, SIZE, SIZE], align_corners=False)
    x = F.grid_sample(images / 255, grid, align_corners=False) * 2 - 1  # outside it is black
    return x + torch.randn_like(x) * torch.empty(n, 1, 1, 1).uniform_(0, 0.2)


@torch.no_grad()
def evaluate(model: DigitClassifier, images: Tensor, labels: Tensor) -> float:
    """The part of the images that is classified rightly."""
    return (model(to_plus_minus_one(images)).argmax(1) == labels).double().mean().item()
