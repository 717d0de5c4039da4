"""Folders of paired or unpaired images for image-to-image translation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sbzoo.data.image_folder import ImageFolder, listed, read_image_folder
from sbzoo.errors import UserError

_TOLERANCE = 0.02  # of the aspect ratio, for sizes that were rounded


@dataclass(frozen=True)
class Domains:
    """Source and target images; in the same order if paired."""

    source: ImageFolder
    target: ImageFolder


def read_domains(root: str | Path, source: str = 'trainA', target: str = 'trainB') -> Domains:
    """Find the images of two domains, in folders with the names of CycleGAN.

    Raises:
        UserError: A folder is missing or holds no images.
    """
    return Domains(*(read_image_folder(Path(root) / name) for name in (source, target)))


def read_pairs(root: str | Path, source: str = 'A', target: str = 'B') -> Domains:
    """Find pairs of images: two folders with the same names, or files of two images side by side.

    Names are compared without their extension. Without folders A and B, every file holds A in its
    left half and B in its right half, as in pix2pix.

    Args:
        root: The folder.
        source: The source domain, A or B.
        target: The target domain, the other one.

    Raises:
        UserError: No images, images without a partner, partners of other shapes, or a file of odd
            width.
    """
    root = Path(root)
    if (root / source).is_dir() or (root / target).is_dir():
        return _matched(root, read_domains(root, source, target))
    halves = {'A': 'left', 'B': 'right'}
    if sorted((source, target)) != sorted(halves):
        raise UserError(f'{root}: no folders {source} and {target}; halves of a file are A and B')
    folder = read_image_folder(root)
    pairs = Domains(*(replace(folder, half=halves[name]) for name in (source, target)))
    pairs.source.read_sizes()  # raises on odd widths
    return pairs


def _matched(root: Path, found: Domains) -> Domains:
    source, target = _by_stem(found.source), _by_stem(found.target)
    alone = [*_alone(found.source, source, target), *_alone(found.target, target, source)]
    if alone:
        raise UserError(f'{root}: {"; ".join(alone)} without a partner of that name')
    stems = sorted(source)
    pairs = Domains(
        replace(found.source, paths=tuple(source[stem] for stem in stems)),
        replace(found.target, paths=tuple(target[stem] for stem in stems)),
    )
    _same_shape(root, pairs)
    return pairs


def _by_stem(folder: ImageFolder) -> dict[str, Path]:
    paths = defaultdict(list)
    for path in folder.paths:
        paths[Path(folder.name(path)).with_suffix('').as_posix()].append(path)
    twice = [folder.name(path) for same in paths.values() if len(same) > 1 for path in same]
    if twice:
        raise UserError(f'{folder.root}: {listed(twice, "image")} differ in their extension only')
    return {stem: same[0] for stem, same in paths.items()}


def _alone(folder: ImageFolder, ours: dict[str, Path], theirs: dict[str, Path]) -> Iterator[str]:
    names = [folder.name(path) for stem, path in ours.items() if stem not in theirs]
    if names:
        yield f'in {folder.root.name} {listed(names, "image")}'


def _same_shape(root: Path, pairs: Domains) -> None:
    sizes = zip(*(folder.read_sizes() for folder in (pairs.source, pairs.target)), strict=True)
    other = [
        f'{pairs.source.name(path)}: {w}x{h} and {v}x{g}'
        for path, ((w, h), (v, g)) in zip(pairs.source.paths, sizes, strict=True)
        if abs(w * g / (v * h) - 1) > _TOLERANCE
    ]
    if other:
        raise UserError(f'{root}: {listed(other, "pair")} of other shapes')
