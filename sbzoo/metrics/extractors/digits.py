"""A classifier of handwritten digits, whose features tell how well digits are drawn: FD-digits."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from sbzoo.checkpoint.io import load
from sbzoo.errors import UserError
from sbzoo.images import to_plus_minus_one
from sbzoo.metrics.extractors.base import Extractor
from sbzoo.paths import CARDS

SIZE, DIMS, CLASSES = 32, 64, 10
WIDTHS = 3, 24, 32, 48, DIMS
CARD = CARDS / 'digit_classifier'
SHA256 = '14c24b4abc5a31febb68f94eec7dee04bee4f360321a86c0d392f0b68b8a9d4d'


class DigitClassifier(nn.Module):
    """Four convolutions; the features are the mean over positions of the last one's maps."""

    def __init__(self) -> None:
        super().__init__()
        stages = zip(WIDTHS, WIDTHS[1:], (1, 2, 2, 2), strict=False)
        self.body = nn.Sequential(*(_stage(*stage) for stage in stages))
        self.head = nn.Linear(DIMS, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """From images in [-1, 1], [N, 3, 32, 32], to [N, 64]."""
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """From images in [-1, 1], [N, 3, 32, 32], to logits [N, 10]."""
        return self.head(self.features(x))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Digits(Extractor):
    """Features of the embedded digit classifier.

    Args:
        weights: The file; None takes that of the card.

    Raises:
        UserError: It is not there, or it is another one.
    """

    spec, d, resize = 'digits', DIMS, f'bilinear, antialiased, to {SIZE} x {SIZE}'

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = Path(weights or CARD / 'model.safetensors')
        if not weights and not path.is_file():
            raise UserError(
                f'{path}: the weights of the digit classifier are not there, which a clone and a '
                'wheel of sbzoo have: install it anew, or give that file as weights'
            )
        self.sha256 = SHA256
        self.net = DigitClassifier().eval().requires_grad_(False)
        self.net.load_state_dict(load(path, SHA256)['state_dict'])

    def prepare(self, image: Tensor) -> Tensor:
        """To [-1, 1] and 32 x 32; images of that size stay as they are."""
        x = to_plus_minus_one(image)
        if x.shape[2:] == (SIZE, SIZE):
            return x
        return F.interpolate(x, size=(SIZE, SIZE), mode='bilinear', antialias=True)

    def embed(self, x: Tensor) -> Tensor:
        """The features of the classifier."""
        return self.net.features(x)
