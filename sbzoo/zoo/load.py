"""A card as a model that is ready to use: built, loaded, in evaluation mode, with its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmdet.apis import inference_detector
from mmdet.registry import DATASETS
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn

from sbzoo.checkpoint.cards import Card, card
from sbzoo.checkpoint.resolve import CARD
from sbzoo.engine.model import config_of, load_model, scope_of
from sbzoo.engine.options.parts import leaf
from sbzoo.engine.sampling import Labels, sample
from sbzoo.errors import UserError
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.gan.models.gan import GAN
from sbzoo.images import (
    center_crop,
    read_rgb,
    to_plus_minus_one,
    to_rgb,
    to_tensor,
    to_uint8,
)

Picture = str | Path | np.ndarray | Image.Image  # an array is of RGB pixels uint8 [H, W, 3]


@dataclass(frozen=True)
class Detections:
    """The detections in one picture, sorted by score.

    Attributes:
        boxes: [N, 4], left, top, right and bottom in pixels of the picture.
        scores: [N], in 0 to 1.
        labels: [N], indices into `classes`.
        classes: All names.
        masks: [N, H, W] bool, or None where the model predicts none.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __str__(self) -> str:
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        lines = [
            f'{self.classes[label]} {score:.2f} at [{", ".join(f"{edge:.0f}" for edge in box)}]'
            for label, score, box in rows
        ]
        return '\n'.join(lines) or 'nothing found'


@dataclass(frozen=True)
class Detector:
    """A detector; `model` is MMDetection's."""

    card: Card
    model: nn.Module
    classes: tuple[str, ...]

    def predict(self, image: Picture, score: float = 0.3) -> Detections:
        """Find objects, by the test pipeline of the card's config.

        Args:
            image: A file, an image of Pillow, or RGB pixels uint8 [H, W, 3].
            score: Objects below this score are left out.

        Raises:
            UserError: There is no such image, or these are no such pixels.
        """
        with scope_of(self.model.cfg):
            found = inference_detector(self.model, _bgr(image)).pred_instances.cpu()
        found = found[found.scores >= score]
        return Detections(
            found.bboxes, found.scores, found.labels, self.classes, found.get('masks')
        )


@dataclass(frozen=True)
class Generator:
    """A GAN; `model` is a `sbzoo.gan.models.gan.GAN` whose sampler alone has trained weights."""

    card: Card
    model: nn.Module

    def sample(self, num: int, seed: int = 0, labels: Labels | None = None) -> Tensor:
        """Sample images, uint8 [num, 3, S, S]; number i comes from `seed + i` alone.

        Args:
            num: How many.
            seed: Of the first.
            labels: Names or indices of classes of a conditional generator; they are cycled, all
                classes by default.

        Raises:
            UserError: There are no such classes, or a seed is not of 32 bits.
        """
        return torch.stack(list(sample(self.model, range(seed, seed + num), labels)))


@dataclass(frozen=True)
class Translator:
    """An image-to-image model; `model` is a `sbzoo.gan.models.image_to_image.Translation`.

    Attributes:
        image_size: S, the pixels that it was trained for.
    """

    card: Card
    model: nn.Module
    image_size: int

    def translate(self, image: Picture) -> Tensor:
        """Translate a file, a Pillow image, or RGB pixels uint8 [H, W, 3], to uint8 [3, S, S].

        It is centre-cropped to a square and resized to S pixels.

        Raises:
            UserError: There is no such image, or these are no such pixels.
        """
        square = center_crop(_rgb(image), self.image_size)
        pixels = to_tensor(square)[None].to(self.model.data_preprocessor.device)
        inputs = to_plus_minus_one(pixels)
        return to_uint8(self.model.translate(inputs))[0].cpu()


def load(name: str) -> Detector | Generator | Translator:
    """The model of a card, on the GPU if there is one.

    Raises:
        UserError: No such card, it is of no model that can be built here, or its weights are
            not found, cannot be downloaded, or are of another model.
    """
    found = card(name)
    if not found.config or found.task == 'image-classification':
        about = f'see {found.source or found.folder}'
        use = f'train from it by {found.config}' if found.config else about
        raise UserError(f'{name}: no model that runs by itself; {use}')
    cfg = config_of(found)
    model = load_model(cfg, f'{CARD}{name}')
    if isinstance(model, GAN):
        return Generator(found, model)
    if isinstance(model, AdversarialModel):
        return Translator(found, model, leaf(cfg.test_dataloader.dataset).image_size)
    model.cfg = cfg
    return Detector(found, model, _classes(cfg))


def _classes(cfg: Config) -> tuple[str, ...]:
    dataset = leaf(cfg.test_dataloader.dataset)
    own = dataset.get('metainfo', {}).get('classes')
    return tuple(own or DATASETS.get(dataset.type).METAINFO['classes'])


def _bgr(image: Picture) -> np.ndarray:
    """Pixels [H, W, 3] as MMDetection loads them."""
    if isinstance(image, Image.Image):
        image = np.asarray(to_rgb(image))
    if not isinstance(image, (str, Path)):
        _check_pixels(image)
        return np.ascontiguousarray(image[..., ::-1])
    if not Path(image).is_file():
        raise UserError(f'{image}: no such image')
    pixels = mmcv.imread(image)
    if pixels is None:
        raise UserError(f'{image}: not an image that can be read')
    return pixels


def _rgb(image: Picture) -> Image.Image:
    """An image as image-to-image models are trained on it."""
    if isinstance(image, (str, Path)):
        return read_rgb(Path(image))
    return Image.fromarray(_bgr(image)[..., ::-1])


def _check_pixels(image: object) -> None:
    kind, shape = getattr(image, 'dtype', type(image).__name__), list(getattr(image, 'shape', ()))
    if not isinstance(image, np.ndarray) or kind != np.uint8 or shape[2:] != [3] or 0 in shape:
        raise UserError(f'{kind} {shape} is no image: give a file, or RGB pixels uint8 [H, W, 3]')
