"""What the generator of a card samples, as a set of images."""

from __future__ import annotations

from torch.utils.data import Dataset

from sbzoo.checkpoint.resolve import CARD
from sbzoo.data.datasets import cycled_labels
from sbzoo.errors import UserError
from sbzoo.zoo.load import Generator, load

BATCH = 64  # images sampled at once


class CardSamples(Dataset):
    """Images of a card's generator, number i from seed i; labels, if any, are cycled.

    An item is `dict(inputs=uint8 RGB [3, S, S])`. Items are sampled in batches, of which the last
    is kept: read them in order.

    Args:
        name: Of the card.
        num: How many.

    Raises:
        UserError: There is no such card, or it samples nothing.
    """

    def __init__(self, name: str, num: int) -> None:
        self.name, self.num, self._start, self._images = name, num, -1, None
        self.generator = load(name)
        if not isinstance(self.generator, Generator):
            raise UserError(
                f'card {name}: a {type(self.generator).__name__.lower()} samples no images from '
                'noise; give the card of a GAN, or a folder of images'
            )

    def __len__(self) -> int:
        return self.num

    def __str__(self) -> str:
        return f'{CARD}{self.name}'

    def __getitem__(self, index: int) -> dict:
        """Sample the batch that an image is in, unless it is there."""
        start = index - index % BATCH
        if start != self._start:
            seeds = range(start, min(start + BATCH, self.num))
            labels = cycled_labels(seeds, range(self.generator.model.sampler.num_classes))
            self._images = self.generator.sample(len(seeds), start, labels).cpu()
            self._start = start
        return dict(inputs=self._images[index - start])


def open_card(source: str, num: int) -> str | CardSamples:
    """`num` images of the generator of `card://NAME`; any other source as it is.

    Raises:
        UserError: There is no such card, or it samples nothing.
    """
    return CardSamples(source.removeprefix(CARD), num) if source.startswith(CARD) else source
