"""The embedded detection set: handwritten digits pasted on photographs, in COCO format.

Both sources ship inside installed packages: 1,797 real handwritten digits of 8 x 8 pixels in
scikit-learn (Alpaydin and Kaynak, UCI, 1998) and the PNG photographs of scikit-image. The two
splits share neither a digit nor a photograph. All arithmetic on pixels is integer, the random
numbers are of NumPy's frozen legacy generator and the images are uncompressed, so that every
machine writes the same bytes, which `DIGEST` verifies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from sbzoo.data.embedded import ensure_built

SIZE = 96  # pixels, side of a scene
CLASSES = tuple('0123456789')
DIGEST = 'e30853d222c4830d63d94e1e28a747beddbb31740d59114989f0ee5b9f49dd6c'


@dataclass(frozen=True)
class Split:
    """The sources of a split."""

    name: str
    seed: int
    num_images: int
    digits: tuple[int, ...]  # which of scikit-learn's 1,797, by their index modulo 6
    photographs: tuple[str, ...]  # of skimage.data


SPLITS = (
    Split(
        name='train',
        seed=0,
        num_images=2000,
        digits=(0, 1, 2, 3, 4),
        photographs=(
            'astronaut', 'brick', 'cell', 'coffee', 'coins', 'gravel', 'ihc', 'motorcycle_left',
        ),
    ),
    Split(
        name='val',
        seed=1,
        num_images=200,
        digits=(5,),
        photographs=('camera', 'chelsea', 'grass', 'moon'),
    ),
)  # fmt: skip


def ensure_digits(root: str | Path) -> Path:
    """Build the set under `root` unless it is there already, and return `root`."""
    return ensure_built(root, build_digits, DIGEST)


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 [H, W, 3], and its digits: the label and the mask [H, W] of each."""

    pixels: np.ndarray
    objects: list[tuple[int, np.ndarray]]


def build_digits(root: Path) -> str:
    """Write both splits to `root` and return the sha256 over all files written."""
    return build_splits(root, 'digits', scenes, 'bmp')


def build_splits(
    root: Path, name: str, scenes: Callable[[Split], Iterator[Scene]], extension: str
) -> str:
    """Write both splits of a set of scenes to `root` and return the sha256 over what is in them.

    Args:
        root: An empty folder.
        name: What the progress bar says.
        scenes: The scenes of a split.
        extension: Of the pictures' files.
    """
    (root / 'annotations').mkdir()
    digest = hashlib.sha256()
    for split in SPLITS:
        (root / split.name).mkdir()
        coco = _Coco()
        drawn = track(scenes(split), f'{name}/{split.name}', total=split.num_images)
        for index, scene in enumerate(drawn, start=1):
            file_name = f'{index:06d}.{extension}'
            Image.fromarray(scene.pixels).save(root / split.name / file_name, compress_level=1)
            coco.add(index, file_name, scene)
            digest.update(scene.pixels.tobytes())
        text = json.dumps(coco.as_dict(), sort_keys=True)
        (root / 'annotations' / f'{split.name}.json').write_text(text)
        digest.update(text.encode())
    return digest.hexdigest()


class _Coco:
    """Collects images and annotations in the COCO format."""

    def __init__(self) -> None:
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, image_id: int, file_name: str, scene: Scene) -> None:
        height, width, _ = scene.pixels.shape
        self.images.append(dict(id=image_id, file_name=file_name, width=width, height=height))
        for label, mask in scene.objects:
            x, y, w, h = _box(mask)
            self.annotations.append(
                dict(
                    id=len(self.annotations) + 1,
                    image_id=image_id,
                    category_id=label + 1,
                    bbox=[x, y, w, h],
                    area=int(mask.sum()),
                    iscrowd=0,
                    segmentation=_run_lengths(mask),
                )
            )

    def as_dict(self) -> dict:
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
        return dict(images=self.images, annotations=self.annotations, categories=categories)


def scenes(split: Split) -> Iterator[Scene]:
    """Yield the scenes of a split, 96 x 96 pixels."""
    rng = np.random.RandomState(split.seed)
    artist = Artist(split)
    for _ in range(split.num_images):
        yield artist.draw((SIZE, SIZE), rng)


class Artist:
    """Draws scenes of the digits and the photographs of a split."""

    def __init__(self, split: Split) -> None:
        self.strokes, self.labels = handwriting(split, gain=24)
        self.photographs = [photograph(name) for name in split.photographs]

    def draw(self, size: tuple[int, int], rng: np.random.RandomState) -> Scene:
        """A scene of `size` [H, W] pixels; its digits grow with the root of its area."""
        pixels = _background(self.photographs[rng.randint(len(self.photographs))], size, rng)
        taken = np.zeros(size, dtype=bool)
        objects: list[tuple[int, np.ndarray]] = []
        wanted = rng.randint(3, 8)
        while len(objects) < wanted:
            index = rng.randint(len(self.labels))
            mask = _paste(pixels, taken, self.strokes[index], rng)
            if mask is not None:
                objects.append((int(self.labels[index]), mask))
        return Scene(pixels, objects)


def handwriting(split: Split, gain: int) -> tuple[np.ndarray, np.ndarray]:
    """The digits of a split, uint8 [N, 8, 8] from black to white, and their labels [N].

    Args:
        split: Which of them.
        gain: Factor on their values of 0 to 16; the product is clipped at 255.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    chosen = np.isin(np.arange(len(source.target)) % 6, split.digits)
    strokes = np.minimum(source.images[chosen] * gain, 255).astype(np.uint8)
    return strokes, source.target[chosen]


def photograph(name: str) -> Image.Image:
    """One of the photographs that come with scikit-image, in RGB."""
    import skimage

    [file] = (Path(skimage.__file__).parent / 'data').glob(f'{name}.*')
    return Image.open(file).convert('RGB')


def _background(
    photograph: Image.Image, size: tuple[int, int], rng: np.random.RandomState
) -> np.ndarray:
    height, width = size
    across = rng.randint(width, min(photograph.width, photograph.height * width // height) + 1)
    down = across * height // width
    left = rng.randint(photograph.width - across + 1)
    top = rng.randint(photograph.height - down + 1)
    crop = photograph.crop((left, top, left + across, top + down))
    pixels = np.array(crop.resize((width, height), Image.Resampling.BILINEAR))
    return pixels // 2 + 64  # half the contrast, so that digits are legible


def _paste(
    pixels: np.ndarray, taken: np.ndarray, strokes: np.ndarray, rng: np.random.RandomState
) -> np.ndarray | None:
    """Draw one digit into `pixels` unless its box overlaps `taken`; its mask, or None."""
    height, width = taken.shape
    side = rng.randint(18, 49) * isqrt(height * width) // SIZE
    top, left = rng.randint(height - side + 1), rng.randint(width - side + 1)
    shade = rng.randint(0, 64, size=3)
    if taken[top + side // 2, left + side // 2]:  # quickly: the box of any digit has its middle
        return None
    drawn = Image.fromarray(strokes).resize((side, side), Image.Resampling.BICUBIC)
    alpha = np.array(drawn, dtype=np.int32)
    inside = alpha >= 96
    x, y, w, h = _box(inside)
    box = np.s_[top + y : top + y + h, left + x : left + x + w]
    if taken[box].any():
        return None
    taken[box] = True
    place = np.s_[top : top + side, left : left + side]
    mask = np.zeros_like(taken)
    mask[place] = inside
    window = pixels[place]
    colour = np.where(window.sum(axis=(0, 1)) < 128 * side * side, 255 - shade, shade)
    alpha = alpha[..., None]
    window[:] = (window * (255 - alpha) + colour * alpha + 127) // 255
    return mask


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The bounding box of a mask [H, W] as x, y, width, height in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def _run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed run-length encoding (RLE): column-major, starting with zeros."""
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return dict(size=list(mask.shape), counts=[0, *counts] if flat[0] else counts)
