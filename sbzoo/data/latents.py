"""What a generator samples in validation: seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset


def labels_of(indices: Iterable[int], classes: Sequence[int]) -> list[int] | None:
    """The class of each image by its index: they go round; None where there are no classes."""
    return [classes[index % len(classes)] for index in indices] if classes else None


@DATASETS.register_module()
class LatentDataset(Dataset):
    """Seeds of images to sample.

    An image depends on its seed alone, so the batch that a generator samples in, the number of
    ranks and the batch that it trains in have no influence on what is evaluated.

    Args:
        num: How many images.
        seed: The first seed.
        num_classes: Of a conditional generator; labels go round.
    """

    metainfo: dict = {}  # mmengine asks each dataset for one  # noqa: RUF012

    def __init__(self, num: int, seed: int = 0, num_classes: int = 0) -> None:
        self.num, self.seed, self.num_classes = num, seed, num_classes

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict:
        sample = BaseDataElement()
        if labels := labels_of([index], range(self.num_classes)):
            sample.set_data(dict(gt_label=labels[0]))
        return dict(inputs=dict(seed=self.seed + index), data_samples=sample)
