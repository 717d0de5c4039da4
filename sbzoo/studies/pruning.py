"""Pruning: what the statistics of batch norm lose when weights are cut, and what brings it back.

Cutting the smallest weights changes the statistics of every layer behind them. Batch norm goes on
with those of the uncut network, so much of what it loses is no loss of the weights: running
statistics over a few batches (`sbzoo.reestimate`) bring it back. Norms of a sample compute
theirs anew. Rewinding trains what is left from early weights of the same training.

Of a user's detector it is the AP on validation pictures, with statistics re-estimated on batches
of training pictures where it has batch norm.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sbzoo.engine.hooks.precise_bn import run_as_in_training
from sbzoo.engine.runner import some_batches
from sbzoo.norm import reestimate
from sbzoo.studies import small
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject, set_norms

NORMS = {'no norm': '', 'bn': 'bn', 'gn': 'gn8', 'ln': 'ln', 'hybrid': 'hybrid'}
SPARSITIES = 0.5, 0.7, 0.8, 0.9, 0.95, 0.98
EARLY, STEPS, BATCH, LR = 100, 1500, 8, 0.02
REESTIMATED, REWOUND = 'bn, re-estimated', 'bn, rewound'
ACCURACY, AP = 'accuracy', 'AP'
WHOLE = '0%'
PICTURES = 100  # of a user, to test and to estimate statistics
AT, KEPT, LOST = '90%', 0.02, 0.2  # where it is judged; differences of accuracy and AP


def measure(model: nn.Module, sparsity: float) -> nn.Module:
    """A copy without the smallest weights of its convolutions and linear layers, over all of them.

    Args:
        model: It stays as it is.
        sparsity: The part of the weights that becomes zero.
    """
    model = copy.deepcopy(model)
    prune.global_unstructured(_weights(model), prune.L1Unstructured, amount=sparsity)
    return model


def _weights(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(m, 'weight') for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """A user's detector, or small networks on digits; those with batch norm in three ways."""
    if subject:
        yield from _of(subject, seed)
        return
    held_out = small.digits(held_out=True)
    for arm, spec in NORMS.items():
        torch.manual_seed(seed)
        model = small.network(spec)
        small.train(model, *small.digits(), EARLY, BATCH, LR)
        early = copy.deepcopy(model)
        small.train(model, *small.digits(), STEPS - EARLY, BATCH, LR)
        yield Value(ACCURACY, arm, WHOLE, small.accuracy(model, *held_out))
        for sparsity in SPARSITIES:
            cut, condition = measure(model, sparsity), f'{sparsity:.0%}'
            yield Value(ACCURACY, arm, condition, small.accuracy(cut, *held_out))
            if arm == 'bn':
                again = rewound(cut, early)
                reestimate(cut.train(), small.digits()[0].split(64))
                yield Value(ACCURACY, REESTIMATED, condition, small.accuracy(cut, *held_out))
                yield Value(ACCURACY, REWOUND, condition, small.accuracy(again, *held_out))


def _of(subject: Subject, seed: int) -> Iterator[Value]:
    pictures = torch.randperm(len(subject.held_out.dataset))[:PICTURES].tolist()
    yield Value(AP, subject.name, WHOLE, subject.average_precision(pictures))
    for sparsity in SPARSITIES:
        cut, condition = subject.with_model(measure(subject.model, sparsity)), f'{sparsity:.0%}'
        yield Value(AP, subject.name, condition, cut.average_precision(pictures))
        set_norms(cut.model.train(), training=True)  # those of `norm_eval` too
        batches = some_batches(subject.trained_on, PICTURES, seed)
        if reestimate(cut.model, batches, run_as_in_training):
            yield Value(AP, _again(subject), condition, cut.average_precision(pictures))


def _again(subject: Subject) -> str:
    return f'{subject.name}, re-estimated'


def rewound(cut: nn.Module, early: nn.Module) -> nn.Module:
    """What is left of a network, trained from its early weights for the rest of the steps."""
    model = copy.deepcopy(early)
    for (module, name), (source, _) in zip(_weights(model), _weights(cut), strict=True):
        prune.custom_from_mask(module, name, mask(source))
    small.train(model, *small.digits(), STEPS - EARLY, BATCH, LR)
    return model


def mask(module: nn.Module) -> Tensor:
    """Which of its weights are left."""
    return module.weight_mask


def judge(values: Values) -> Verdict:
    """Batch norm has lost what re-estimated statistics bring back."""
    whole, cut = values.of(ACCURACY, 'bn', WHOLE), values.of(ACCURACY, 'bn', AT)
    back = values.of(ACCURACY, REESTIMATED, AT)
    drops = [before - after for before, after in zip(whole, cut, strict=True)]
    missing = [before - after for before, after in zip(whole, back, strict=True)]
    confirmed = min(drops) > LOST and all(m < d / 4 for m, d in zip(missing, drops, strict=True))
    refuted = max(drops) < KEPT or all(m > d / 2 for m, d in zip(missing, drops, strict=True))
    arms = *NORMS, REESTIMATED, REWOUND
    said = ', '.join(f'{arm} {values.mean(ACCURACY, arm, AT):.2f}' for arm in arms)
    return decide(confirmed, refuted, f'accuracy where {AT} are cut: {said}')


def advise(values: Values, subject: Subject) -> str:
    """What pruning costs a user's detector, and how much of that re-estimated statistics are."""
    lines = values.lines(AP)
    whole, *cut = lines[subject.name]
    own = {condition: values.mean(AP, subject.name, condition) for condition in (whole, *cut)}
    listed = ', '.join(f'{own[condition]:.3f} at {condition}' for condition in cut)
    said = f'AP {own[whole]:.3f}; where weights are cut {listed}'
    if _again(subject) not in lines:
        return f'{said}: it has no statistics of batches, so what is lost is of the weights'
    gain, at = max((values.mean(AP, _again(subject), c) - own[c], c) for c in cut)
    if gain < KEPT:
        return f'{said}: re-estimated statistics bring none of it back'
    return f'{said}; statistics bring back {gain:.3f} at {at}: sbzoo.reestimate after pruning'


STUDY = Study(
    claim=(
        'Most of what pruning costs a network with batch norm is its running statistics: '
        're-estimated, it is back.'
    ),
    source='Li et al. 2020, arXiv 2007.02491 (EagleEye: adaptive batch normalization)',
    run=run,
    judge=judge,
    advise=advise,
    axis='weights that are cut',
)
