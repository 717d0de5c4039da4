"""Images from a trained generator: sampled, interpolated, or translated from a folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from rich.progress import track
from torch import Tensor

from sbzoo.data.datasets import cycled_labels
from sbzoo.data.image_folder import ImageFolder
from sbzoo.engine.model import kind_of, load_model
from sbzoo.engine.visualize import image_grid, save_png
from sbzoo.errors import UserError
from sbzoo.files import new_folder, replacing
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.gan.models.gan import GAN
from sbzoo.gan.models.image_to_image import Translation
from sbzoo.images import (
    EXTENSIONS,
    center_crop,
    read_rgb,
    renamed,
    to_plus_minus_one,
    to_tensor,
    to_uint8,
)

Labels = Sequence[int | str]  # indices or names of classes
PIXELS = 2**20  # of a batch that is generated at once
COLUMNS = 8


def load_generator(cfg: Config, reference: str | Path) -> AdversarialModel:
    """The adversarial model of a config with the weights of a reference; see `load_model`.

    Raises:
        UserError: The config is of a detector, say, or the weights are not found, cannot be
            downloaded, or are of another model.
    """
    kind = kind_of(cfg)
    if not issubclass(kind, AdversarialModel):
        raise UserError(f'{cfg.filename}: {kind.__name__} generates no images')
    return load_model(cfg, reference)


def sample(
    model: GAN, seeds: Sequence[int], labels: Labels | None = None, **options: float
) -> Iterator[Tensor]:
    """Sample an image, uint8 [3, S, S], for each seed; labels, if any, are cycled.

    Raises:
        UserError: Labels or options that the generator does not take.
    """
    _check_options(model, options)
    classes = class_indices(model, labels) or range(model.sampler.num_classes)

    def batch(chunk: Sequence[int]) -> Tensor:
        chosen = cycled_labels((seed - seeds[0] for seed in chunk), classes)
        return model.sample(chunk, chosen and torch.tensor(chosen), **options)

    return _in_batches(batch, seeds, model.sampler.image_size)


def class_indices(model: GAN, labels: Labels | None) -> list[int]:
    """The indices of classes: of names, of indices, and of text that is an index but no name.

    Raises:
        UserError: There is no such class; the message lists those that there are.
    """
    count, names = model.sampler.num_classes, _class_names(model)
    if labels and not count:
        raise UserError(
            f'--labels: this {type(model.sampler).__name__} was trained without classes'
        )
    known = {key: index for index in range(count) for key in (index, str(index))}
    known |= {name: index for index, name in enumerate(names)}
    if wrong := [label for label in labels or () if label not in known]:
        listed = f': {", ".join(names)}' if names else ''
        raise UserError(f'--labels {wrong[0]}: the classes are 0 to {count - 1}{listed}')
    return [known[label] for label in labels or ()]


def _class_names(model: GAN) -> Sequence[str]:
    """Those of the data that it was trained on, as far as they are known."""
    names = getattr(model, 'dataset_meta', {}).get('classes', ())
    return names if len(names) == model.sampler.num_classes else ()


def _check_options(model: GAN, options: dict) -> None:
    kind = type(model.sampler).__name__
    for name in options:
        if name not in inspect.signature(model.sampler.forward).parameters:
            raise UserError(f'--{name}: a {kind} takes none')
    truncation = options.get('truncation', 1.0)
    if not 0 <= truncation <= 1:
        raise UserError(f'--truncation {truncation}: it can be 0 to 1')


def interpolate(
    model: GAN,
    seeds: Sequence[int],
    steps: int,
    labels: Labels | None = None,
    **options: float,
) -> Iterator[Tensor]:
    """Images on the way from the noise of each seed to that of the next, `steps` for each.

    Noise is interpolated on the sphere, where that of a normal distribution lies (Shoemake 1985;
    White 2016, arXiv 1609.04468). All are of one class, the first if there is no label.

    Raises:
        UserError: Labels or options that the generator does not take, or more than one label.
    """
    _check_options(model, options)
    classes = class_indices(model, labels) or [0]
    if labels and len(labels) > 1:
        raise UserError(f'--labels {" ".join(map(str, labels))}: a walk is in one class; give one')
    ends = model.noise(seeds)
    fractions = torch.linspace(0, 1, steps).tolist()
    noise = torch.stack([slerp(a, b, t) for a, b in pairwise(ends) for t in fractions])
    label = classes[0] if model.sampler.num_classes else None

    @torch.no_grad()
    def batch(chunk: Sequence[int]) -> Tensor:
        chosen = None if label is None else torch.full((len(chunk),), label, device=noise.device)
        return model.sampler(noise[list(chunk)], chosen, **options)

    return _in_batches(batch, range(len(noise)), model.sampler.image_size)


def slerp(start: Tensor, end: Tensor, fraction: float) -> Tensor:
    """The vector at `fraction` of the arc between two vectors."""
    cosine = torch.dot(start / start.norm(), end / end.norm()).clamp(-1, 1)
    angle = torch.acos(cosine)
    if angle < 1e-6:
        return torch.lerp(start, end, fraction)
    weights = torch.sin((1 - fraction) * angle), torch.sin(fraction * angle)
    return (weights[0] * start + weights[1] * end) / torch.sin(angle)


def translate(model: Translation, folder: ImageFolder, size: int) -> Iterator[Tensor]:
    """Translate the images of a folder, centre-cropped and resized to `size` pixels."""

    def batch(chunk: Sequence[int]) -> Tensor:
        crops = [to_tensor(center_crop(read_rgb(folder.paths[i]), size)) for i in chunk]
        inputs = to_plus_minus_one(torch.stack(crops))
        return model.translate(inputs.to(model.data_preprocessor.device))

    return _in_batches(batch, range(folder.num_images), size)


def numbered(num: int) -> list[str]:
    """The names of the files of samples."""
    return [f'{index:06d}.png' for index in range(num)]


def names_of(folder: ImageFolder) -> list[str]:
    """The names of the files of translations; see `renamed`."""
    return renamed([folder.name(path) for path in folder.paths], '.png')


def _in_batches(
    batch: Callable[[Sequence[int]], Tensor], items: Sequence[int], size: int
) -> Iterator[Tensor]:
    """uint8 images of `batch`, called with as many items as fit; fewer where memory runs out."""
    step = max(1, PIXELS // size**2)
    start = 0
    while start < len(items):
        try:
            images = batch(items[start : start + step])
        except torch.cuda.OutOfMemoryError:
            if step == 1:
                raise
            torch.cuda.empty_cache()
            step = (step + 1) // 2
            continue
        yield from to_uint8(images).cpu()
        start += len(images)


def save(images: Iterator[Tensor], names: Sequence[str], out: Path, columns: int = COLUMNS) -> Path:
    """Write images: a grid to `.png`, all to `.npz` ([N, H, W, 3]), or a PNG each to a folder.

    Args:
        images: uint8 [3, H, W].
        names: Of the files in a folder, one for each image.
        out: The file, or a new folder.
        columns: Of a grid.

    Raises:
        UserError: The folder exists and is not empty, or it is named as a file of another kind.
    """
    images = track(images, 'images', total=len(names))
    if out.suffix == '.png':
        return save_png(image_grid(torch.stack(list(images)), columns), out)
    if out.suffix == '.npz':
        return _save_npz(np.stack([image.permute(1, 2, 0).numpy() for image in images]), out)
    if out.suffix[1:].lower() in EXTENSIONS:
        raise UserError(f'--out {out}: give a file.png, a file.npz, or a new folder')
    return _save_folder(images, names, out)


def _save_npz(images: np.ndarray, out: Path) -> Path:
    with replacing(out) as file:
        np.savez_compressed(file, images)
    return out


def _save_folder(images: Iterator[Tensor], names: Sequence[str], out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f'{out}: exists already; give a new folder, or a file.png or file.npz')
    with new_folder(out) as folder:
        for name, image in zip(names, images, strict=True):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return out
