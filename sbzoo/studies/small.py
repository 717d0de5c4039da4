"""Small networks on scikit-learn's handwritten digits, for claims that need no detector."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from sbzoo.norm import build_norm

CHANNELS = 16, 32, 32


@cache
def digits(held_out: bool = False) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8] in [-1, 1] and labels [N]; every sixth digit is held out."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = torch.from_numpy(source.images).float()[:, None] / 8 - 1
    chosen = (torch.arange(len(images)) % 6 == 5) == held_out
    return images[chosen], torch.from_numpy(source.target)[chosen]


def network(spec: str = '') -> nn.Sequential:
    """Three convolutions, each with the norm of a spec ('' is without) and ReLU: logits [N, 10]."""
    layers: list[nn.Module] = []
    for before, after, stride in zip((1, *CHANNELS), CHANNELS, (1, 2, 2), strict=False):
        layers.append(nn.Conv2d(before, after, 3, stride, padding=1))
        layers += [build_norm(spec, after)] if spec else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(after, 10))


def train(
    model: nn.Module, images: Tensor, labels: Tensor, steps: int, batch: int, lr: float
) -> None:
    """Train with SGD and momentum at a constant learning rate, on batches drawn at random."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    for _ in range(steps):
        step(model, images, labels, batch, optimizer)


def step(
    model: nn.Module, images: Tensor, labels: Tensor, batch: int, *optimizers: Optimizer
) -> None:
    """A step of training on a batch that is drawn at random."""
    chosen = torch.randint(len(images), (batch,))
    model.zero_grad()
    cross_entropy(model.train()(images[chosen]), labels[chosen]).backward()
    for optimizer in optimizers:
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The part of images that is classified rightly, in evaluation mode."""
    return (model.eval()(images).argmax(1) == labels).float().mean().item()
