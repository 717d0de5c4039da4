"""Model cards: what a checkpoint is, where it comes from, and how well it does by which protocol.

A card is `model_cards/NAME/README.md` in the format of the Hugging Face hub: results in its
`model-index`, and what the hub has no field for under the key `sbzoo`. All that the page says
follows from these fields; see `sbzoo.zoo.page`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from huggingface_hub import EvalResult, ModelCardData

from sbzoo.errors import UserError, did_you_mean
from sbzoo.paths import CARDS, command

FILE = 'README.md'
KEY, MARK = 'sbzoo', '---\n'
LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)  # tens of cards at a time
TASKS = {
    'object-detection': 'object detection',
    'unconditional-image-generation': 'image generation',
    'image-to-image': 'image translation',
    'image-classification': 'image classification',
}


@dataclass(frozen=True)
class Result:
    """A number with the protocol that it was measured by."""

    metric: str  # such as box AP, FID
    value: float  # of the card's weights
    protocol: str
    split: str = ''  # of the card's data
    mean: float | None = None  # over the card's seeds, if there are several
    std: float | None = None


@dataclass(frozen=True)
class Card:
    """A checkpoint. What is not known is empty or None.

    Attributes:
        task: A key of `TASKS`.
        summary: What it is, in a sentence or two.
        results: As measured by us, or as published.
        config: What loads the weights here, relative to the repository, or `mmdet::...`.
        weights: A file beside the card, or a reference; see `sbzoo.checkpoint.resolve`.
        half: Whether the weights are kept in half precision, and the results are theirs.
        sha256: Of the weights, or the eight digits of it that are published.
        keymap: A row of `sbzoo.checkpoint.key_maps.KEYMAPS`, where the file has other names.
        prefix: What the keys that are wanted begin with, where the map leaves it open.
        norm: A spec of `sbzoo.norm`; of a GAN, that of its generator.
        batch: Batch size per device.
        accumulated: Gradient accumulation steps.
        seeds: Of the runs that the means are of; the weights are the first one's.
        data: That it was trained on, and tested on.
        source: The page that it is published at, empty for our own.
        preprocessing: What the network expects of its pixels.
        memory: To train, in GB, as published.
        limits: What it does not do, a sentence each.
    """

    name: str
    task: str
    summary: str
    data: str
    results: tuple[Result, ...] = ()
    config: str = ''
    weights: str = ''
    half: bool = False
    sha256: str = ''
    keymap: str = ''
    prefix: str = ''
    norm: str = ''
    batch: int | None = None
    devices: int | None = None
    accumulated: int | None = None
    seeds: tuple[int, ...] = ()
    training: str = ''
    preprocessing: str = ''
    memory: float | None = None
    source: str = ''
    paper: str = ''
    license: str = 'unknown'
    limits: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether it was trained here."""
        return not self.source

    @property
    def folder(self) -> Path:
        """Where the card and what belongs to it are."""
        return CARDS / self.name

    @property
    def headline(self) -> Result | None:
        """The one number to list it by: cards begin with their AP, or their distance."""
        return self.results[0] if self.results else None

    @property
    def reference(self) -> str:
        """Where its weights are, for `sbzoo.checkpoint.resolve`.

        Raises:
            UserError: The card has no weights.
        """
        if not self.weights:
            raise UserError(f'card {self.name}: its weights are not published; see {self.source}')
        return self.weights if '://' in self.weights else str(self.folder / self.weights)


def list_cards(
    task: str | None = None,
    norm: str | None = None,
    batch: int | None = None,
    data: str | None = None,
) -> list[Card]:
    """All model cards, or those that agree with every argument, by name.

    Args:
        task: `object-detection`, `unconditional-image-generation`, `image-to-image` or
            `image-classification`.
        norm: A spec; without its number of groups it stands for any.
        batch: Batch size per device.
        data: `coco`, `digits`, ...

    Raises:
        UserError: sbzoo was installed without its repository, where the cards are.
    """
    return [
        card
        for card in map(_read, _names())
        if task in (None, card.task)
        and norm in (None, card.norm, re.sub(r'\d+', '', card.norm))
        and batch in (None, card.batch)
        and data in (None, card.data)
    ]


def card(name: str) -> Card:
    """The model card of a name.

    Raises:
        UserError: There is none; the message lists names that are near.
    """
    names = _names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
        raise UserError(f'{name}: no such card{did_you_mean(near)} ({command("cards")} lists all)')
    return _read(name)


def is_card(name: str) -> bool:
    """Whether a model card has this name."""
    return Path(name).name == name and (CARDS / name / FILE).is_file()


def _names() -> list[str]:
    files = (path for path in CARDS.glob(f'[!.]*/{FILE}') if path.parent.name != 'results')
    names = sorted(path.parent.name for path in files)
    if not names:
        raise UserError(
            f'{CARDS}: no model cards; they and the weights are in the repository of sbzoo, '
            'which this one was installed without: clone it, and pip install -e . in it'
        )
    return names


def _read(name: str) -> Card:
    return parse(name, (CARDS / name / FILE).read_text(encoding='utf-8'))


def parse(name: str, text: str) -> Card:
    """A card from the text of its file.

    Raises:
        UserError: The head of the file is not that of a card.
    """
    try:
        data = ModelCardData(**yaml.load(text.split(MARK)[1], LOADER))
        known = {f.name: _tuple(value) for f in fields(Card) if (value := data[KEY].get(f.name))}
        results = tuple(map(_result, data.eval_results or ()))
        return Card(name, data.pipeline_tag, results=results, license=data.license, **known)
    except (ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f'{name}/{FILE}: not a model card ({error})') from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _result(row: EvalResult) -> Result:
    return Result(
        row.metric_name, row.metric_value, split=row.dataset_split or '', **row.metric_args
    )


def metadata(card: Card) -> ModelCardData:
    """The head of a card's file."""
    ours = {f.name: getattr(card, f.name) for f in fields(Card)}
    for elsewhere in ('name', 'task', 'results', 'license'):
        del ours[elsewhere]
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in ours.items() if v}
    return ModelCardData(
        license=card.license,
        library_name='sbzoo',
        pipeline_tag=card.task,
        tags=[t for t in (card.norm, f'batch-{card.batch}' if card.batch else '') if t],
        datasets=[card.data],
        metrics=sorted({_slug(result.metric) for result in card.results}) or None,
        model_name=card.name if card.results else None,
        eval_results=[_row(card, result) for result in card.results] or None,
        **{KEY: given},
    )


def _row(card: Card, result: Result) -> EvalResult:
    args = dict(protocol=result.protocol)
    if result.mean is not None:
        args |= dict(mean=result.mean, std=result.std)
    return EvalResult(
        task_type=card.task,
        dataset_type=card.data,
        dataset_name=card.data,
        dataset_split=result.split or None,
        metric_type=_slug(result.metric),
        metric_name=result.metric,
        metric_value=result.value,
        metric_args=args,
        source_name=urlsplit(card.source).netloc or None,
        source_url=card.source or None,
    )


def _slug(text: str) -> str:
    return re.sub(r'\W+', '_', text.lower()).strip('_')
