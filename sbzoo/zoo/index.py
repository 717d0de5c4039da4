"""Cards of checkpoints that others publish, and the index in OpenMMLab's format."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from sbzoo import files
from sbzoo.checkpoint.cards import FILE as PAGE
from sbzoo.checkpoint.cards import TASKS, Card, Result, list_cards
from sbzoo.checkpoint.resolve import address, digits_in_name
from sbzoo.errors import UserError
from sbzoo.paths import CARDS, ROOT
from sbzoo.zoo.page import page

FILE = CARDS / 'published.yml'
INDEX, METAFILE = 'README.md', 'metafile.yml'
JOINED = ('weights', 'config')  # a card's is put behind its group's
ADDED = ('limits',)
COLUMNS = ('card', 'norm', 'batch size', 'data', 'result', 'protocol')  # of the index


def published(file: Path = FILE) -> list[Card]:
    """The cards of `model_cards/published.yml`."""
    groups = yaml.safe_load(file.read_text(encoding='utf-8'))
    return [_card(group, entry) for group in groups for entry in group['cards']]


def _card(group: dict[str, Any], entry: dict[str, Any]) -> Card:
    values = {k: v for k, v in group.items() if k not in ('cards', *JOINED, *ADDED)} | entry
    for key in JOINED:
        if key in entry:
            values[key] = group.get(key, '') + entry[key]
    for key in ADDED:
        values[key] = (*group.get(key, ()), *entry.get(key, ()))
    values['results'] = tuple(
        Result(metric, value, values['protocol'].format(**values), values.get('split', ''))
        for metric, value in values.get('results', {}).items()
    )
    values['summary'] = values['summary'].format(**values)
    values['sha256'] = entry.get('sha256') or digits_in_name(values['weights']) or ''
    values['seeds'] = tuple(entry.get('seeds', ()))
    return Card(**{f.name: values[f.name] for f in fields(Card) if f.name in values})


def metafile(cards: list[Card]) -> dict[str, Any]:
    """The cards whose configs are here, in the format that OpenMMLab's `mim` reads."""
    listed = [card for card in cards if card.results and card.config and '::' not in card.config]
    tasks = dict.fromkeys(card.task for card in listed)
    collections = [dict(Name=_collection(task), README=f'{CARDS.name}/{INDEX}') for task in tasks]
    return dict(Collections=collections, Models=[_model(card) for card in listed])


def _collection(task: str) -> str:
    return f'sbzoo: {TASKS[task]}'


def _model(card: Card) -> dict[str, Any]:
    total = card.batch and card.batch * (card.devices or 1) * (card.accumulated or 1)
    facts = {
        'Training Data': card.data,
        'Batch Size': total,
        'Batch Size Per Device': card.batch,
        'Training Memory (GB)': card.memory,
    }
    return {
        'Name': card.name,
        'In Collection': _collection(card.task),
        'Config': card.config,
        'Metadata': {name: value for name, value in facts.items() if value},
        'Results': [
            {'Task': TASKS[card.task], 'Dataset': card.data, 'Metrics': {r.metric: r.value}}
            for r in card.results
        ],
        'Weights': _place(card),
    }


def _place(card: Card) -> str:
    return address(card.weights) or f'{CARDS.name}/{card.name}/{card.weights}'


def index(cards: list[Card]) -> str:
    """A page with a line for each card, by task."""
    lines = ['# Model cards', '', 'Written by `tools/publish.py`, as everything below is.', '']
    for task, title in TASKS.items():
        for ours, whose in ((True, 'ours'), (False, 'published, not measured here')):
            rows = [_row(card) for card in cards if (card.task, card.is_ours) == (task, ours)]
            if rows:
                head = f'| {" | ".join(COLUMNS)} |', '|---' * len(COLUMNS) + '|'
                lines += [f'## {title[0].upper()}{title[1:]}: {whose}', '', *head, *rows, '']
    return '\n'.join(lines)


def _row(card: Card) -> str:
    first = card.headline or Result('', '', '')
    batch = f'{card.batch} x {card.devices}' if card.devices else card.batch
    name = f'[{card.name}]({card.name}/README.md)'
    cells = name, card.norm, batch or '', card.data, f'{first.metric} {first.value}', first.protocol
    return f'| {" | ".join(map(str, cells))} |'


def pages(cards: list[Card]) -> dict[Path, str]:
    """All that is written of cards, and where it goes: their pages, and the indices."""
    cards = sorted(cards, key=lambda card: card.name)
    table = yaml.safe_dump(metafile(cards), sort_keys=False, allow_unicode=True)
    return {card.folder / PAGE: page(card) for card in cards} | {
        CARDS / INDEX: index(cards),
        CARDS / METAFILE: table,
        CARDS.parent / 'model-index.yml': f'Import:\n  - {CARDS.name}/{METAFILE}\n',
    }


def check_clone() -> None:
    """Check that cards can be written: in a clone, not in an installed package.

    Raises:
        UserError: They cannot.
    """
    if not (ROOT / '.git').exists() or not os.access(ROOT, os.W_OK):
        raise UserError(f'{ROOT}: cards are written in a clone of the repository alone')


def write() -> list[Card]:
    """Write the cards of `published.yml` and the indices of all cards, which it returns.

    Raises:
        UserError: This is no clone of the repository.
    """
    check_clone()
    cards = {card.name: card for card in [*list_cards(), *published()]}.values()
    for path, text in pages(cards).items():
        files.write(path, text.encode())
    return list(cards)
