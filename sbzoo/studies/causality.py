"""Batch norm in a causal Transformer: earlier outputs see later tokens, by the statistics.

Attention is masked so that a position sees nothing behind it. Statistics over the positions of a
sequence, and over sequences, go around the mask: in training a token changes the output before it,
and where it can, training makes use of that. Tokens that are drawn at random cannot be predicted,
so a loss below the logarithm of their number is what leaks; in evaluation, with running statistics,
nothing leaks, and what was learned from it is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject

TOKENS, LENGTH, WIDTH, HEADS = 8, 8, 64, 4
BATCHES = 1, 8, 64
STEPS, BATCH, LR = 1500, 2, 3e-3  # of the training on random tokens
FLOOR = math.log(TOKENS)
MOVED, LOSS = 'change of earlier outputs', 'loss on random tokens'


class PerToken(nn.BatchNorm1d):
    """Batch norm of sequences [N, L, C], over N and L."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


NORMS = {'bn': PerToken, 'ln': nn.LayerNorm}


class Block(nn.Module):
    """Attention that looks back, and a perceptron, each behind a norm."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm(WIDTH), norm(WIDTH)])
        self.queries, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        inner = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        self.perceptron = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        """From [N, L, C] to the same."""
        parts = self.queries(self.norms[0](x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.norms[1](x))


def transformer(norm: type[nn.Module]) -> nn.Sequential:
    """Two blocks: from tokens [N, L] to the logits [N, L, TOKENS] of the token that follows each.

    It says nothing of positions, which random tokens do not depend on.
    """
    blocks = Block(norm), Block(norm), norm(WIDTH)
    return nn.Sequential(nn.Embedding(TOKENS, WIDTH), *blocks, nn.Linear(WIDTH, TOKENS))


@torch.no_grad()
def measure(model: nn.Module, batch: int, draws: int = 50) -> float:
    """How far earlier logits move when the last token of all sequences changes, over their spread.

    Args:
        model: From tokens [N, L] to logits [N, L, K]; in the mode that it is in.
        batch: N.
        draws: Batches, over which the root mean square is taken.
    """
    tokens = torch.randint(TOKENS, (draws, batch, LENGTH))
    changed = tokens.clone()
    changed[:, :, -1] = (changed[:, :, -1] + torch.randint(1, TOKENS, (draws, batch))) % TOKENS
    before, after = (
        torch.stack([model(part)[:, :-1] for part in parts]) for parts in (tokens, changed)
    )
    return ((after - before).square().mean() / before.var()).sqrt().item()


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """At random weights, and trained on tokens that are drawn anew for each step."""
    for arm, norm in NORMS.items():
        torch.manual_seed(seed)
        model = transformer(norm)
        for batch in BATCHES:
            yield Value(MOVED, arm, str(batch), measure(model.train(), batch))
        yield Value(LOSS, arm, 'training', train(model))
        with torch.no_grad():
            yield Value(LOSS, arm, 'evaluation', _loss(model.eval(), 2000).item())


def train(model: nn.Module) -> float:
    """The mean loss of the last tenth of the steps."""
    optimizer, losses = torch.optim.Adam(model.parameters(), LR), []
    for _ in range(STEPS):
        loss = _loss(model.train(), BATCH)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-STEPS // 10 :]) / (STEPS // 10)


def _loss(model: nn.Module, batch: int) -> Tensor:
    tokens = torch.randint(TOKENS, (batch, LENGTH))
    return cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def judge(values: Values) -> Verdict:
    """With batch norm the future leaks into training and is missed in evaluation."""
    moved = {arm: values.of(MOVED, arm, 1) for arm in NORMS}
    trained, tested = values.of(LOSS, 'bn', 'training'), values.of(LOSS, 'bn', 'evaluation')
    leaks = min(moved['bn']) > 0.01 and max(trained) < FLOOR < min(tested)
    causal = max(moved['ln']) < 1e-5 and min(values.of(LOSS, 'ln', 'training')) > FLOOR - 0.02
    said = '; '.join(_said(values, arm) for arm in NORMS)
    refuted = max(moved['bn']) < 1e-5 or max(moved['ln']) > 0.01
    return decide(leaks and causal, refuted, f'{said}; random tokens have {FLOOR:.3f} at least')


def _said(values: Values, arm: str) -> str:
    moved = ', '.join(f'{values.mean(MOVED, arm, batch):.2g}' for batch in BATCHES)
    modes = [values.mean(LOSS, arm, mode) for mode in ('training', 'evaluation')]
    return (
        f'{arm}: earlier outputs move by {moved} at batch size {", ".join(map(str, BATCHES))}, '
        f'loss {modes[0]:.3f} in training and {modes[1]:.3f} in evaluation'
    )


STUDY = Study(
    claim=(
        'In a causal Transformer batch norm lets earlier outputs depend on later tokens: it trains '
        'below what is possible and evaluates above it; layer norm does neither.'
    ),
    source='Shen et al. 2020, arXiv 2003.07845, on batch norm in Transformers',
    run=run,
    judge=judge,
    axis='batch size, mode',
)
