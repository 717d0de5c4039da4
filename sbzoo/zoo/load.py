"""A model that is ready to use, of a card or a run: built, loaded, in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from PIL import Image
from torch import Tensor, nn

from sbzoo.checkpoint.cards import Card, card, is_card
from sbzoo.checkpoint.resolve import CARD
from sbzoo.data.frames import read_pixels
from sbzoo.engine.model import classes_of, config_of, load_model, scope_of
from sbzoo.engine.options.config import load_config
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
    """A detector; `model` is MMDetection's. `card` is None where it is not of a card."""

    card: Card | None
    model: nn.Module
    classes: tuple[str, ...]

    def predict(self, image: Picture, score: float = 0.3) -> Detections:
        """Find objects, by the test pipeline of the config.

        Args:
            image: A file, an image of Pillow, or RGB pixels uint8 [H, W, 3].
            score: Objects below this score are left out.

        Raises:
            UserError: There is no such image, or these are no such pixels.
        """
        return self.predict_batch([image], score)[0]

    @torch.no_grad()
    def predict_batch(self, images: Sequence[Picture], score: float = 0.3) -> list[Detections]:
        """The same for several images at once, which are padded to the largest of them.

        Raises:
            UserError: One of them is no image, or the model predicts no boxes.
        """
        items = [self.prepare(image) for image in images]
        with scope_of(self.model.cfg):
            samples = self.model.test_step(pseudo_collate(items))
        return [self._detections(sample, score) for sample in samples]

    def prepare(self, image: Picture) -> dict:
        """What the test pipeline makes of an image: `inputs` [3, h, w], BGR, and its sample."""
        return self._pipeline(dict(img=_bgr(image), img_id=0))

    @cached_property
    def _pipeline(self) -> Compose:
        """The test pipeline, from pixels on."""
        with scope_of(self.model.cfg):
            first, *others = get_test_pipeline_cfg(self.model.cfg.copy())
            return Compose([{**first, 'type': 'mmdet.LoadImageFromNDArray'}, *others])

    def _detections(self, sample: DetDataSample, score: float) -> Detections:
        if 'bboxes' not in sample.get('pred_instances', ()):
            raise UserError(f'{type(self.model).__name__}: this model predicts no boxes')
        found = sample.pred_instances.cpu()
        found = found[found.scores >= score]
        return Detections(
            found.bboxes, found.scores, found.labels, self.classes, found.get('masks')
        )


@dataclass(frozen=True)
class Generator:
    """A GAN; `model` is a `sbzoo.gan.models.gan.GAN` whose sampler alone has trained weights."""

    card: Card | None
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

    card: Card | None
    model: nn.Module
    image_size: int

    def translate(self, image: Picture) -> Tensor:
        """Translate a file, a Pillow image, or RGB pixels uint8 [H, W, 3], to uint8 [3, S, S].

        It is centre-cropped to a square and resized to S pixels.

        Raises:
            UserError: There is no such image, or these are no such pixels.
        """
        pixels = self.prepare(image)[None].to(self.model.data_preprocessor.device)
        inputs = to_plus_minus_one(pixels)
        return to_uint8(self.model.translate(inputs))[0].cpu()

    def prepare(self, image: Picture) -> Tensor:
        """An image as it is translated: its centre, uint8 [3, S, S]."""
        return to_tensor(center_crop(_rgb(image), self.image_size))


def load(source: str | Path, device: str | None = None) -> Detector | Generator | Translator:
    """The model of a card or of a run.

    Args:
        source: The name of a card (`card://NAME` too), or a work directory, whose newest checkpoint
            it is; what is both is the card, unless it is a `Path` or has a slash.
        device: Such as `cpu` or `cuda:1`; by default the GPU if there is one.

    Raises:
        UserError: There is none, it is of no model that can be built here, or its weights are not
            found, cannot be downloaded, or are of another model.
    """
    name, folder = str(source).removeprefix(CARD), Path(source).expanduser()
    if isinstance(source, Path) or (folder.is_dir() and not is_card(name)):
        return open_model(run_config(folder), folder, device=device)
    found = card(name)
    if not found.config or found.task == 'image-classification':
        about = f'see {found.source or found.folder}'
        use = f'train from it by {found.config}' if found.config else about
        raise UserError(f'{name}: no model that runs by itself; {use}')
    return open_model(config_of(found), f'{CARD}{name}', found, device)


def run_config(work_dir: Path) -> Config:
    """The config that a run has left in its work directory, with every option in it.

    Raises:
        UserError: There is no such folder, or it has none or several.
    """
    if not work_dir.is_dir():
        raise UserError(f'{work_dir}: no such work directory')
    found = sorted(work_dir.glob('*.py'))
    if len(found) != 1:
        names = ', '.join(path.name for path in found) or 'none'
        raise UserError(
            f'{work_dir}: a run leaves one config in its folder, and here are: {names}; give the '
            'config and the checkpoint'
        )
    return load_config(str(found[0]))


def open_model(
    cfg: Config, reference: str | Path, found: Card | None = None, device: str | None = None
) -> Detector | Generator | Translator:
    """The model of a config with the weights of a reference; see `load`.

    Raises:
        UserError: The weights are not found, cannot be downloaded, or are of another model, or the
            names of a detector's classes are not known.
    """
    model = load_model(cfg, reference, device)
    model.cfg = cfg
    if isinstance(model, GAN):
        return Generator(found, model)
    if isinstance(model, AdversarialModel):
        return Translator(found, model, leaf(cfg.test_dataloader.dataset).image_size)
    return Detector(found, model, classes_of(model, reference))


def _bgr(image: Picture) -> np.ndarray:
    """Pixels [H, W, 3] as MMDetection loads them."""
    if isinstance(image, Image.Image):
        image = np.asarray(to_rgb(image))
    if not isinstance(image, (str, Path)):
        _check_pixels(image)
        return np.ascontiguousarray(image[..., ::-1])
    return np.ascontiguousarray(read_pixels(image)[..., ::-1])


def _rgb(image: Picture) -> Image.Image:
    """An image as image-to-image models are trained on it."""
    if isinstance(image, (str, Path)):
        return read_rgb(Path(image))
    return Image.fromarray(_bgr(image)[..., ::-1])


def _check_pixels(image: object) -> None:
    kind, shape = getattr(image, 'dtype', type(image).__name__), list(getattr(image, 'shape', ()))
    if not isinstance(image, np.ndarray) or kind != np.uint8 or shape[2:] != [3] or 0 in shape:
        raise UserError(f'{kind} {shape} is no image: give a file, or RGB pixels uint8 [H, W, 3]')
