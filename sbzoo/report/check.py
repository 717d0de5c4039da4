"""Whether the numbers of our model cards come out again."""

from __future__ import annotations

import math
import tempfile
from typing import NamedTuple

from sbzoo.engine.recipe import use_sbzoo
from sbzoo.errors import UserError
from sbzoo.zoo.cards import Card
from sbzoo.zoo.models import config_of, test
from sbzoo.zoo.publish import METRICS

TOLERANCE = 0.001


class Check(NamedTuple):
    """A number of a card, and what an evaluation gave."""

    card: str
    metric: str
    stated: float
    found: float

    def holds(self, tolerance: float) -> bool:
        """Whether they agree: absolutely up to 1, relatively above.

        AP, precision and recall are below 1, distances may be above.
        """
        return math.isclose(self.stated, self.found, rel_tol=tolerance, abs_tol=tolerance)


def check(card: Card) -> list[Check]:
    """Evaluate a card's weights by its config.

    Raises:
        UserError: They cannot be had or are of another model, or a metric is not measured.
    """
    metrics = evaluate(card)
    for result in card.results:
        if result.metric not in metrics:
            known = ', '.join(metrics)
            raise UserError(f'card {card.name}: {result.metric} is not evaluated, but {known}')
    return [Check(card.name, r.metric, r.value, metrics[r.metric]) for r in card.results]


def checkable(cards: list[Card]) -> list[Card]:
    """Those of our cards that an evaluation exists for.

    Raises:
        UserError: There is none.
    """
    found = [card for card in cards if card.is_ours and card.config and card.weights]
    if not found:
        raise UserError('no card of ours has weights and a config: nothing to check')
    return found


def evaluate(card: Card) -> dict[str, float]:
    """The metrics of a card's weights, by the names that cards have.

    Raises:
        UserError: The weights cannot be had, or are of another model.
    """
    cfg = config_of(card)
    use_sbzoo(cfg)
    with tempfile.TemporaryDirectory() as folder:
        cfg.update(work_dir=folder, log_level='WARNING')
        _, metrics = test(cfg, card)
    return {METRICS.get(k, k.rpartition('/')[2]): value for k, value in metrics.items()}
