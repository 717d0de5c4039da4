"""Embedded image sets for GANs, built on first use from the data of installed packages.

The sources are scikit-learn's 1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak, UCI,
1998), the first 100 images of scikit-image's `lfw_subset` (faces of Labeled Faces in the Wild,
Huang et al. 2007, grey, 25 x 25 pixels; the other 100 are no faces) and its PNG photographs. Every
set is made of plain PNG files. All arithmetic on pixels is integer and the random numbers are of
NumPy's frozen legacy generator, so that every machine makes the same pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from sbzoo.data.embedded import ensure_built
from sbzoo.data.embedded.digit_scenes import SPLITS, handwriting, photograph
from sbzoo.errors import UserError
from sbzoo.paths import cache_dir

_SIZE = 64  # pixels, side of textures, domains and outlines
_FINE = 2 * _SIZE  # shapes are drawn at twice the size, so that their edges are smooth
_TRAIN, _TEST = SPLITS
_MATERIALS = dict(brick='brick', grass='grass', gravel='gravel', ihc='tissue')  # photograph: name
_NUM_FACES = 100
# Each photograph is cut in two at this column: test crops are from the left and training crops from
# the right, so that they share no pixel.
_CUT, _WIDTH = 128, 512
_BROWN, _WHITE, _BLACK = (150, 84, 36), (240, 236, 226), (28, 24, 24)
_GROUND = (46, 50, 60)
_COLOURS = (
    (230, 60, 50), (250, 140, 30), (245, 215, 50), (150, 205, 60), (40, 150, 70),
    (60, 200, 200), (70, 120, 230), (135, 80, 200), (240, 130, 190), (235, 235, 235),
)  # fmt: skip

_Images = Iterator[tuple[str, np.ndarray]]  # file name in the set, uint8 [H, W, 3] or [H, W]


@dataclass(frozen=True)
class EmbeddedSet:
    """The recipe of a set.

    ``digest`` is the sha256 over the names and pixels of its images.
    """

    images: Callable[[], _Images]
    count: int
    digest: str


def ensure_embedded(name: str, root: str | Path | None = None) -> Path:
    """Build an embedded set under `root` unless it is there already, and return `root`.

    Args:
        name: One of `SETS`.
        root: The folder of the set; without one, that of its name in the cache.

    Raises:
        UserError: There is no such set.
    """
    if name not in SETS:
        raise UserError(f'no embedded set {name!r}; there are {", ".join(SETS)}')
    return ensure_built(root or cache_dir() / name, partial(_build, name), SETS[name].digest)


def _build(name: str, root: Path) -> str:
    made = SETS[name]
    digest = hashlib.sha256()
    for file_name, pixels in track(made.images(), name, total=made.count):
        path = root / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert('RGB').save(path, compress_level=1)
        digest.update(file_name.encode() + pixels.tobytes())
    return digest.hexdigest()


def _digits() -> _Images:
    """White strokes on black, 32 x 32, in a folder for each label."""
    for folder, split in (('train', _TRAIN), ('test', _TEST)):
        for index, (strokes, label) in enumerate(zip(*handwriting(split, gain=16), strict=True)):
            yield f'{folder}/{label}/{index:04d}.png', _resized(strokes, 32)


def _faces() -> _Images:
    """Grey faces, 32 x 32; every sixth is held out, as of the digits."""
    import skimage

    values = np.load(Path(skimage.__file__).parent / 'data' / 'lfw_subset.npy')[:_NUM_FACES]
    for index, pixels in enumerate((values * 255).round().astype(np.uint8)):
        folder = 'train' if index % 6 in _TRAIN.digits else 'test'
        yield f'{folder}/{index:03d}.png', _resized(pixels, 32)


def _textures() -> _Images:
    """Squares of 64 to 128 pixels out of four photographs, 64 x 64, in a folder for each."""
    for folder, count, seed in (('train', 250, 0), ('test', 50, 1)):
        rng = np.random.RandomState(seed)
        for source, name in _MATERIALS.items():
            photo = photograph(source)
            for index in range(count):
                yield f'{folder}/{name}/{index:03d}.png', np.array(_crop(photo, folder, rng))


def _crop(photo: Image.Image, folder: str, rng: np.random.RandomState) -> Image.Image:
    side = rng.randint(_SIZE, _CUT + 1)
    first, last = (0, _CUT) if folder == 'test' else (_CUT, _WIDTH)
    left, top = rng.randint(first, last - side + 1), rng.randint(photo.height - side + 1)
    square = photo.crop((left, top, left + side, top + side))
    return square.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)


def _plain_and_striped() -> _Images:
    """Digits on grass, 64 x 64: brown (A) and striped like zebras (B), no digit in both."""
    grass = photograph('grass')
    for split, folder, count in ((_TRAIN, 'train', 500), (_TEST, 'test', 50)):
        rng = np.random.RandomState(split.seed)
        strokes = handwriting(split, gain=20)[0]
        for index in range(count):
            for domain, fill in (('A', _plain), ('B', _striped)):
                mask = _shape(strokes[2 * index + (domain == 'B')], rng.randint(96, 125), rng)
                pixels = _blend(_lawn(_crop(grass, folder, rng)), fill(rng), _smooth(mask))
                yield f'{folder}{domain}/{index:03d}.png', pixels


def _lawn(crop: Image.Image) -> np.ndarray:
    """A grey photograph in greens, int32 [64, 64, 3]."""
    return np.array(crop, dtype=np.int32) * (110, 170, 70) // 255 + (10, 30, 5)


def _plain(rng: np.random.RandomState) -> np.ndarray:
    return np.array(_BROWN) + rng.randint(-16, 17) + np.zeros((_SIZE, _SIZE, 1), dtype=np.int32)


def _striped(rng: np.random.RandomState) -> np.ndarray:
    """Black and white stripes 4 to 5 pixels wide, at 30 degrees from the vertical at most."""
    rows, columns = np.indices((_FINE, _FINE), dtype=np.int32)
    phase = 16 * columns + rng.randint(-9, 10) * rows + rng.randint(256)
    period = rng.randint(16 * 16, 16 * 20)
    white = _smooth(phase % period < period // 2)
    return _blend(np.array(_BLACK, dtype=np.int32), np.array(_WHITE, dtype=np.int32), white)


def _outlines() -> _Images:
    """Pairs side by side, 64 x 128: the outline of a digit, and it in the colour of its label."""
    for split, folder, count in ((_TRAIN, 'train', 1000), (_TEST, 'test', 100)):
        rng = np.random.RandomState(split.seed)
        strokes, labels = handwriting(split, gain=20)
        for index in range(count):
            mask = _shape(strokes[index], 120, rng)
            white, ground = (np.full((_SIZE, _SIZE, 3), c) for c in (255, _GROUND))
            source = _blend(white, np.array(_BLACK), _smooth(_outline(mask)))
            target = _blend(ground, np.array(_COLOURS[labels[index]]), _smooth(mask))
            yield f'{folder}/{index:04d}.png', np.hstack([source, target])


def _shape(strokes: np.ndarray, side: int, rng: np.random.RandomState) -> np.ndarray:
    """A digit of `side` pixels at a random place, as a mask [128, 128]."""
    top, left = rng.randint(_FINE - side + 1, size=2)
    mask = np.zeros((_FINE, _FINE), dtype=bool)
    mask[top : top + side, left : left + side] = _resized(strokes, side) >= 96
    return mask


def _outline(mask: np.ndarray) -> np.ndarray:
    """What is within two pixels of the edge of a mask [H, W], inside or outside."""
    grown, shrunk = (_spread(mask, how) for how in (np.logical_or, np.logical_and))
    return grown & ~shrunk


def _spread(mask: np.ndarray, how: np.ufunc) -> np.ndarray:
    padded = np.pad(mask, 2)
    height, width = mask.shape
    return how.reduce([padded[y : y + height, x : x + width] for y in range(5) for x in range(5)])


def _smooth(mask: np.ndarray) -> np.ndarray:
    """A mask [128, 128] at half the size, as opacity of 0 to 255, int32 [64, 64, 1]."""
    sums = mask.reshape(_SIZE, 2, _SIZE, 2).sum(axis=(1, 3), dtype=np.int32)
    return (sums * 255 // 4)[..., None]


def _blend(below: np.ndarray, above: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    mixed = (below * (255 - opacity) + above * opacity + 127) // 255
    return mixed.clip(0, 255).astype(np.uint8)


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    resized = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    return np.array(resized)


SETS = {
    'digits32': EmbeddedSet(
        _digits,
        1797,
        '9c66a13eb80b948d67cd84b5da8eae7f655089bc1ff234a91818187f8cf3f8e0',
    ),
    'faces32': EmbeddedSet(
        _faces,
        _NUM_FACES,
        '2208d62a7682097086a17b039501d2eeb7a0f2009a81d3b481abbc07d46ec089',
    ),
    'textures64': EmbeddedSet(
        _textures,
        1200,
        'c50317844b4f8adce68d92964ea9bf11f92a129f134f8faaf8e2d2bdf911f925',
    ),
    'plain2striped': EmbeddedSet(
        _plain_and_striped,
        1100,
        'a5a74aba28e9cab20f79d3eb2ddf211db91cd0b9a16abd5c01acf720bbec0938',
    ),
    'outlines': EmbeddedSet(
        _outlines,
        1100,
        '8b4a359a566b56a807981a500f3e96aeb07fe3a38683869b24a3fac2da87bc33',
    ),
}
