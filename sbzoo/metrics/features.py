"""Feature extraction: images to features, with a cache by content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL
import torch
from mmengine.dist import broadcast_object_list, collect_results, get_dist_info, is_main_process
from mmengine.registry import DATASETS
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from sbzoo.errors import UserError
from sbzoo.files import replacing
from sbzoo.images import find_images, read_rgb, to_tensor
from sbzoo.metrics.extractors.base import Extractor
from sbzoo.metrics.npz import array_names, read_arrays
from sbzoo.metrics.statistics import MOMENTS, FeatureStatistics
from sbzoo.paths import cache_dir

BATCH = 50  # images
PIXELS = 'arr_0'  # NumPy's own name of an array in an .npz file


@dataclass(frozen=True)
class Features:
    """What is known of the features of a set of images."""

    statistics: FeatureStatistics
    each: Tensor | None = None  # [N, d] float32, on the main rank; None where it was not kept

    @classmethod
    def of(cls, each: Tensor, extractor: str) -> Features:
        """Of features [N, d]."""
        statistics = FeatureStatistics(each.shape[1], extractor)
        for rows in each.split(4096):
            statistics.update(rows)
        return cls(statistics, each)


class ImageFiles(Dataset):
    """Every image in a folder and the folders in it, of any size and mode, as training reads them.

    An item is `dict(inputs=uint8 RGB [3, H, W], img_path=...)`.

    Args:
        root: The folder.

    Raises:
        UserError: There is no such folder, or it has fewer than two images.
    """

    def __init__(self, root: str | Path) -> None:
        self.paths = find_images(Path(root))
        if len(self) < 2:
            name = self.paths[0].name
            raise UserError(f'{root}: only one image, {name}; a distance takes two or more')

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        """Read an image.

        Raises:
            UserError: It is broken.
        """
        path = self.paths[index]
        return dict(inputs=to_tensor(read_rgb(path)), img_path=str(path))

    def digest(self) -> str:
        """The sha256 over the bytes of all files, which is sooner had than that of their pixels."""
        digest = sha256(f'to_rgb, Pillow {PIL.__version__}'.encode())  # the reader of the bytes
        for path in self.paths:
            digest.update(sha256(path.read_bytes()).digest())
        return digest.hexdigest()


class ImageArray(Dataset):
    """The images of an .npz file, uint8 RGB [N, H, W, 3], as `tools/generate.py` writes them.

    An item is `dict(inputs=uint8 RGB [3, H, W])`.

    Args:
        path: The file; the array has the name that NumPy gives one without a name.

    Raises:
        UserError: There is no such file, or what it has are no images or fewer than two.
    """

    def __init__(self, path: str | Path) -> None:
        self.pixels = read_arrays(Path(path), PIXELS)[PIXELS]
        kind, shape = self.pixels.dtype, self.pixels.shape
        if kind != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
            raise UserError(
                f'{path}: {PIXELS} is {kind} {list(shape)}; give images, uint8 RGB [N, H, W, 3]'
            )
        if len(self) < 2:
            raise UserError(f'{path}: {len(self)} image(s); a distance takes two or more')

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.from_numpy(self.pixels[index]).permute(2, 0, 1))


Source = FeatureStatistics | Dataset


def is_statistics(source: str | Path) -> bool:
    """Whether a source is an .npz file that has no images, without reading more than its index."""
    path = Path(source)
    if path.suffix != '.npz':
        return False
    return (
        not path.is_file() or PIXELS not in (names := array_names(path)) or {*MOMENTS} <= {*names}
    )


def open_source(source: str | Path | dict | Source) -> Source:
    """Images or their statistics, of a folder, an .npz file, or the config of a data set.

    Items of a data set are `dict(inputs=uint8 RGB [3, H, W], ...)`. An .npz file has statistics
    (`mu` and `sigma`), or else images; see `ImageArray`.

    Raises:
        UserError: It is not there, or has no images.
    """
    if isinstance(source, dict):
        return DATASETS.build(source)
    if isinstance(source, (FeatureStatistics, Dataset)):
        return source
    if is_statistics(source):
        return FeatureStatistics.load(source)
    if Path(source).suffix == '.npz':
        return ImageArray(source)
    if not Path(source).exists():
        raise UserError(f'{source}: no such folder or .npz file')
    return ImageFiles(source)


def extract_features(
    source: Source, extractor: Extractor, keep: bool, batch_size: int = BATCH, workers: int = 0
) -> Features:
    """The features of a source; each rank takes its share of the images.

    Args:
        source: What `open_source` returns; statistics stay as they are.
        extractor: What makes features of images.
        keep: Whether each feature is kept, or only mean and covariance (O(d^2) memory).
        batch_size: Images at once.
        workers: Processes that read image files.

    Raises:
        UserError: Images cannot be read; every one is named.
    """
    if isinstance(source, FeatureStatistics):
        return Features(source)
    rank, world = get_dist_info()
    share = Subset(_Readable(source), range(rank, len(source), world))
    workers = workers if isinstance(source, ImageFiles) else 0  # other images are in memory
    loader = DataLoader(share, batch_size, num_workers=workers, collate_fn=list)
    statistics, kept, broken = FeatureStatistics(extractor.d, extractor.spec), [], []
    for items in _shown(loader, rank):
        broken += [item for item in items if isinstance(item, str)]
        if broken:  # the rest is only read, to name every broken file
            continue
        features = extractor([torch.from_numpy(pixels) for pixels in items])
        statistics.update(features)
        if keep:
            kept.extend(features.numpy())
    _raise_if(broken)
    statistics.all_reduce()
    each = collect_results(kept, len(source), 'cpu') if keep else None
    return Features(statistics, each and torch.from_numpy(np.stack(each)))


def cached_features(source: Source, extractor: Extractor, keep: bool, **options: int) -> Features:
    """As `extract_features`, kept in the cache under the content of source and extractor."""
    if isinstance(source, FeatureStatistics):
        return Features(source)
    key = sha256(f'{_digest(source)} {extractor.protocol} {extractor.sha256}'.encode()).hexdigest()
    path = cache_dir() / 'features' / f'{key}{".npy" if keep else ".npz"}'
    found = [path.is_file()]
    broadcast_object_list(found)  # so that all ranks take the same way
    if not found[0]:
        features = extract_features(source, extractor, keep, **options)
        if is_main_process():
            _write(path, features)
        return features
    if keep:
        return Features.of(torch.from_numpy(np.load(path)), extractor.spec)
    return Features(FeatureStatistics.load(path))


def _shown(loader: DataLoader, rank: int) -> Iterable:
    """With a progress bar, where somebody sees it: standard output may be read by a program."""
    console = Console(stderr=True)
    hidden = rank > 0 or not console.is_terminal
    return track(loader, 'features', disable=hidden, transient=True, console=console)


class _Readable(Dataset):
    """Pixels uint8 [3, H, W], or why there are none: an exception would leave a worker as a page.

    They are arrays, as tensors would each take a file handle between processes.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray | str:
        try:
            return self.dataset[index]['inputs'].numpy()
        except UserError as error:
            return str(error)


def _raise_if(broken: list[str]) -> None:
    if len(broken) == 1:
        raise UserError(broken[0])
    if broken:
        raise UserError(f'{len(broken)} images cannot be read:\n  ' + '\n  '.join(broken))


def _digest(images: Dataset) -> str:
    """The sha256 over the files of a folder, or else over sizes and pixels."""
    if isinstance(images, ImageFiles):
        return images.digest()
    digest = sha256()
    for index in range(len(images)):
        pixels = images[index]['inputs']
        digest.update(f'{tuple(pixels.shape)}'.encode() + pixels.numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, features: Features) -> None:
    if features.each is None:
        features.statistics.save(path)
    else:
        with replacing(path) as file:
            np.save(file, features.each.numpy())
