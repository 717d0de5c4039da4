"""Published state dicts in the names of the networks here."""

from __future__ import annotations

from torch import Tensor

from sbzoo.zoo.cards import Card


def own_keys(card: Card, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a card under the keys of the model that its config builds."""
    return weights
