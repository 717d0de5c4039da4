"""The zoo: model cards, the store of their weights, and models that are ready to use."""

from sbzoo.zoo.cards import Card, card, list_cards
from sbzoo.zoo.models import load
from sbzoo.zoo.store import fetch

__all__ = ['Card', 'card', 'fetch', 'list_cards', 'load']
