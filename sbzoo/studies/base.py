"""What a study is: quantities by seed, a verdict on a claim, a plot."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from mmengine.runner import set_random_seed

from sbzoo.engine.runner import random_state_kept
from sbzoo.files import replacing
from sbzoo.records import Measurement
from sbzoo.studies.subject import Subject

CONFIRMED, REFUTED, UNDECIDED = 'confirmed', 'refuted', 'undecided by the spread'
SEPARATOR = ' / '  # in the name of a figure on record
CROWDED = 1000  # the range of a logarithmic axis that has no room for more than its decades


class Value(NamedTuple):
    """A number of one seed: of which quantity, of what (a line of the plot), and where on it."""

    quantity: str
    arm: str
    condition: str
    value: float


class Verdict(NamedTuple):
    """What the values say of the claim, and the numbers that say it."""

    word: str
    figure: str

    def __str__(self) -> str:
        return f'{self.word}: {self.figure}'


class Values:
    """The values of all seeds, by quantity, arm and condition, in their order."""

    def __init__(self, values: Iterable[Value]) -> None:
        self.by_key: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for *key, value in values:
            self.by_key[tuple(key)].append(value)

    @property
    def quantities(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(quantity for quantity, _, _ in self.by_key))

    def lines(self, quantity: str) -> dict[str, dict[str, list[float]]]:
        """Of a quantity: for each arm the values of all seeds by condition."""
        found: dict[str, dict[str, list[float]]] = defaultdict(dict)
        for (name, arm, condition), values in self.by_key.items():
            if name == quantity:
                found[arm][condition] = values
        return found

    def of(self, quantity: str, arm: str, condition: object) -> list[float]:
        """The values of all seeds."""
        return self.by_key[quantity, arm, str(condition)]

    def mean(self, quantity: str, arm: str, condition: object) -> float:
        """Their mean."""
        return statistics.mean(self.of(quantity, arm, condition))


@dataclass(frozen=True)
class Study:
    """A claim about small batches that a few minutes test.

    Attributes:
        claim: In a sentence or two.
        source: Whose it is.
        run: The values of a seed; on a user's model and data where these are given.
        judge: The verdict on the values of all seeds.
        axis: What the conditions are.
        advise: What the values say to a user; None where it runs on embedded data alone.
        card: The model that it runs on where it needs one and none is given.
        seeds: Those of the results.
        logarithmic: The quantities with a logarithmic axis.
    """

    claim: str
    source: str
    run: Callable[[int, Subject | None], Iterator[Value]]
    judge: Callable[[Values], Verdict]
    axis: str
    advise: Callable[[Values, Subject], str] | None = None
    card: str = ''
    seeds: tuple[int, ...] = (0, 1, 2)
    logarithmic: frozenset[str] = frozenset()

    def values(self, seed: int, subject: Subject | None = None) -> list[Value]:
        """Run it with the random numbers of a seed, whatever has been drawn before."""
        with random_state_kept():
            set_random_seed(seed)
            return list(self.run(seed, subject))


def decide(confirmed: bool, refuted: bool, figure: str) -> Verdict:
    """The verdict where two conditions are to be told apart, and neither may hold."""
    return Verdict(CONFIRMED if confirmed else REFUTED if refuted else UNDECIDED, figure)


def figures(values: Iterable[Value]) -> dict[str, float]:
    """The values of a seed as figures on record."""
    return {SEPARATOR.join(key): value for *key, value in values}


def values_of(measurements: Iterable[Measurement]) -> Values:
    """All seeds that are on record."""
    return Values(
        Value(*name.split(SEPARATOR), value)
        for measurement in measurements
        for name, value in measurement.figures.items()
    )


def plot(study: Study, values: Values, path: Path) -> None:
    """Draw a panel for each quantity: a line for each arm, mean and standard deviation."""
    names = values.quantities
    arms = list(dict.fromkeys(arm for name in names for arm in values.lines(name)))
    figure = Figure(figsize=(4 * len(names) + 1.8, 3.4), layout='constrained')
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _panel(axes, values.lines(name), arms)
        axes.set(xlabel=study.axis, title=name)
        if name in study.logarithmic:
            axes.set_yscale('log')
            low, high = axes.get_ylim()
            subs = (1, 2, 5) if high < CROWDED * low else (1,)
            axes.yaxis.set_major_locator(LogLocator(subs=subs))
            axes.yaxis.set_major_formatter('{x:g}')
            axes.yaxis.set_minor_locator(NullLocator())
    handles = [Line2D([], [], color=f'C{i}', marker='.', label=arm) for i, arm in enumerate(arms)]
    figure.legend(handles=handles, fontsize='small', loc='outside right upper')
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format='png')


def _panel(axes: Axes, lines: Mapping[str, Mapping[str, list[float]]], arms: list[str]) -> None:
    conditions = list(dict.fromkeys(c for line in lines.values() for c in line))
    for arm, line in lines.items():
        axes.errorbar(
            [conditions.index(condition) for condition in line],
            [statistics.mean(values) for values in line.values()],
            [statistics.stdev(values) if len(values) > 1 else 0 for values in line.values()],
            color=f'C{arms.index(arm)}',
            marker='.',
            capsize=2,
        )
    axes.set_xticks(range(len(conditions)), conditions)
    axes.grid(alpha=0.3)
