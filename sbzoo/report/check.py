"""Reproduce the results stated on our model cards."""

from __future__ import annotations

import math
from typing import NamedTuple

from sbzoo.checkpoint.cards import Card
from sbzoo.checkpoint.resolve import CARD
from sbzoo.engine.model import config_of
from sbzoo.errors import UserError
from sbzoo.zoo.evaluate import evaluate


class Check(NamedTuple):
    """A result stated on a card, and that of a new evaluation."""

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
        UserError: They could not be downloaded or are of another model, or a metric is not
            measured.
    """
    metrics = evaluate(config_of(card), f'{CARD}{card.name}')
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
