"""Dataset classes for configs: images, paired and unpaired images, latents, digit scenes.

Pixels are RGB. An item goes through `pipeline` as `img` [S, S, 3], or as `source` and `target`; any
transform of mmcv fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS as DETECTION_DATASETS
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from sbzoo.data.cifar10 import CLASSES, read_cifar10
from sbzoo.data.embedded import digit_scenes, light_scenes
from sbzoo.data.embedded.image_sets import ensure_embedded
from sbzoo.data.image_folder import decode, read_image_folder
from sbzoo.data.paired_folders import Domains, read_domains, read_pairs

_PACK_IMAGE = (dict(type='PackImage'),)
_PACK_PAIR = (dict(type='PackPair'),)


class _Decoded(BaseDataset):
    """A dataset of decoded `images` by key, each uint8 [N, S, S, 3]."""

    images: dict[str, np.ndarray]

    def __init__(self, data_root: str | Path, pipeline: Sequence, **kwargs) -> None:
        super().__init__(data_root=str(data_root), pipeline=list(pipeline), **kwargs)

    def get_data_info(self, idx: int) -> dict:
        """The data of an item, with a copy of its pixels."""
        info = super().get_data_info(idx)
        pixels = {key: np.array(self.images[key][row]) for key, row in self._rows(info).items()}
        return {**info, **pixels}

    def _rows(self, info: dict) -> dict[str, int]:
        return dict.fromkeys(self.images, info['row'])


@DATASETS.register_module()
class ImageFolderDataset(_Decoded):
    """The images of a folder: centre crops, resized to `image_size` pixels.

    Args:
        data_root: The folder, searched recursively.
        image_size: Side of the images in pixels.
        labels: Whether its sub-folders are classes.
        pipeline: The transforms.
        kwargs: Of mmengine's `BaseDataset`.

    Raises:
        UserError: See `read_image_folder` and `decode`.
    """

    def __init__(
        self,
        data_root: str | Path,
        image_size: int,
        labels: bool = False,
        pipeline: Sequence = _PACK_IMAGE,
        **kwargs,
    ) -> None:
        self.image_size, self.labels = image_size, labels
        super().__init__(data_root, pipeline, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Find and decode the images."""
        folder = read_image_folder(self.data_root, self.labels)
        self.images = dict(img=decode(folder, self.image_size))
        infos = [dict(img_path=str(path), row=row) for row, path in enumerate(folder.paths)]
        if folder.classes:
            self._metainfo['classes'] = folder.classes
            for info, label in zip(infos, folder.labels, strict=True):
                info['gt_label'] = label
        return infos


@DATASETS.register_module()
class EmbeddedImages(ImageFolderDataset):
    """One split of an embedded set, built when it does not exist yet.

    Args:
        name: One of `sbzoo.data.embedded.image_sets.SETS` that is of images.
        data_root: The folder of the set; without one, that of its name in the cache.
        split: `train` or `test`.
        kwargs: Of `ImageFolderDataset`.
    """

    def __init__(
        self, name: str, data_root: str | Path | None = None, split: str = 'train', **kwargs
    ) -> None:
        super().__init__(ensure_embedded(name, data_root) / split, **kwargs)


@DATASETS.register_module()
class CIFAR10Dataset(_Decoded):
    """One split of CIFAR-10, 32 x 32 pixels, with labels.

    Args:
        data_root: See `read_cifar10`.
        split: `train` or `test`.
        pipeline: The transforms.
        kwargs: Of mmengine's `BaseDataset`.

    Raises:
        UserError: A file is missing or corrupted.
    """

    METAINFO: ClassVar = dict(classes=CLASSES)

    def __init__(
        self,
        data_root: str | Path,
        split: str = 'train',
        pipeline: Sequence = _PACK_IMAGE,
        **kwargs,
    ) -> None:
        self.split = split
        super().__init__(data_root, pipeline, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the files of the split."""
        pixels, labels = read_cifar10(self.data_root, self.split)
        self.images = dict(img=pixels)
        return [
            dict(img_path=f'{self.data_root}:{self.split}/{row}', row=row, gt_label=label)
            for row, label in enumerate(labels.tolist())
        ]


class _TwoDomains(_Decoded):
    """Images of two domains, named by `source` and `target` below `data_root`."""

    def __init__(
        self,
        data_root: str | Path,
        image_size: int,
        source: str,
        target: str,
        pipeline: Sequence = _PACK_PAIR,
        **kwargs,
    ) -> None:
        self.image_size, self.names = image_size, (source, target)
        super().__init__(data_root, pipeline, **kwargs)

    def _decode(self, domains: Domains) -> None:
        folders = dict(source=domains.source, target=domains.target)
        self.images = {key: decode(folder, self.image_size) for key, folder in folders.items()}


@DATASETS.register_module()
class PairedFolders(_TwoDomains):
    """Pairs of images, such as pix2pix's (Isola et al. 2017, arXiv 1611.07004).

    Args:
        data_root: See `read_pairs`.
        image_size: Side of the images in pixels.
        source: The source domain, A or B.
        target: The target domain, the other one.
        pipeline: The transforms.
        kwargs: Of mmengine's `BaseDataset`.

    Raises:
        UserError: See `read_pairs` and `decode`.
    """

    def __init__(self, *args, source: str = 'A', target: str = 'B', **kwargs) -> None:
        super().__init__(*args, source=source, target=target, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Find, match and decode the images."""
        pairs = read_pairs(self.data_root, *self.names)
        self._decode(pairs)
        paths = zip(pairs.source.paths, pairs.target.paths, strict=True)
        return [
            dict(img_path=str(source), target_path=str(target), row=row)
            for row, (source, target) in enumerate(paths)
        ]


@DATASETS.register_module()
class UnpairedFolders(_TwoDomains):
    """Two folders of unpaired images, such as CycleGAN's (Zhu et al. 2017, arXiv 1703.10593).

    In training its length is that of the larger folder, sources are cycled, and targets are drawn
    at random from NumPy's global generator. In `test_mode` each source comes once, and targets are
    cycled.

    Args:
        data_root: The folder that holds both.
        image_size: Side of the images in pixels.
        source: The folder of the source domain.
        target: The folder of the target domain.
        pipeline: The transforms.
        kwargs: Of mmengine's `BaseDataset`.

    Raises:
        UserError: See `read_domains` and `decode`.
    """

    def __init__(self, *args, source: str = 'trainA', target: str = 'trainB', **kwargs) -> None:
        super().__init__(*args, source=source, target=target, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Find and decode the images."""
        domains = read_domains(self.data_root, *self.names)
        self._decode(domains)
        paths = domains.source.paths
        count = len(paths) if self.test_mode else max(map(len, self.images.values()))
        return [dict(img_path=str(paths[row % len(paths)]), row=row) for row in range(count)]

    def _rows(self, info: dict) -> dict[str, int]:
        sources, targets = (len(self.images[key]) for key in ('source', 'target'))
        target = info['row'] % targets if self.test_mode else np.random.randint(targets)
        return dict(source=info['row'] % sources, target=target)


@DATASETS.register_module()
class EmbeddedPairs(PairedFolders):
    """One split of an embedded set of pairs; see `EmbeddedImages`."""

    def __init__(
        self, name: str, data_root: str | Path | None = None, split: str = 'train', **kwargs
    ) -> None:
        super().__init__(ensure_embedded(name, data_root) / split, **kwargs)


@DATASETS.register_module()
class EmbeddedDomains(UnpairedFolders):
    """An embedded set of two domains; see `EmbeddedImages`."""

    def __init__(self, name: str, data_root: str | Path | None = None, **kwargs) -> None:
        super().__init__(ensure_embedded(name, data_root), **kwargs)


@DETECTION_DATASETS.register_module()
class DigitScenes(CocoDataset):
    """The embedded digit scenes; built under `data_root` when that does not exist yet."""

    METAINFO: ClassVar = dict(classes=digit_scenes.CLASSES)

    def __init__(self, *args, data_root: str, **kwargs) -> None:
        super().__init__(*args, data_root=str(digit_scenes.ensure_digits(data_root)), **kwargs)


@DETECTION_DATASETS.register_module()
class LightScenes(CocoDataset):
    """The embedded digit scenes, each in its own light; built when they do not exist yet.

    Args:
        args: Of MMDetection's `CocoDataset`.
        data_root: See `ensure_light`.
        strength: Of the light, from 0 to 1.
        kwargs: Of `CocoDataset`.

    Raises:
        UserError: See `ensure_light`.
    """

    METAINFO: ClassVar = dict(classes=digit_scenes.CLASSES)

    def __init__(self, *args, data_root: str, strength: float = 1.0, **kwargs) -> None:
        folder = light_scenes.ensure_light(data_root, strength)
        self.name = f'LightScenes at strength {strength:.2f}'  # in the results of a run
        super().__init__(*args, data_root=str(folder), **kwargs)


def cycled_labels(indices: Iterable[int], classes: Sequence[int]) -> list[int] | None:
    """The label of each image by its index: classes are cycled; None without classes."""
    return [classes[index % len(classes)] for index in indices] if classes else None


@DATASETS.register_module()
class LatentDataset(Dataset):
    """Seeds of the latents of images to sample.

    An image depends on its seed alone, so the evaluation does not depend on the batch size in
    training or sampling, nor on the number of ranks.

    Args:
        num: How many images.
        seed: The first seed.
        num_classes: Of a conditional generator; labels are cycled.
    """

    metainfo: dict = {}  # mmengine requires one  # noqa: RUF012

    def __init__(self, num: int, seed: int = 0, num_classes: int = 0) -> None:
        self.num, self.seed, self.num_classes = num, seed, num_classes

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict:
        sample = BaseDataElement()
        if labels := cycled_labels([index], range(self.num_classes)):
            sample.set_data(dict(gt_label=labels[0]))
        return dict(inputs=dict(seed=self.seed + index), data_samples=sample)
