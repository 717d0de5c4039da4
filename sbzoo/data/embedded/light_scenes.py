"""The embedded detection set in which pictures differ: digit scenes, each in its own light.

The digits and photographs are those of `digit_scenes`, in pictures of 96 to 192 pixels by 96 to
192 pixels. Each picture has its own contrast, gain of each channel (colour cast), level of
brightness, blur and noise, which depend on its split and number alone; a strength between 0 and 1
takes all of them from none to full. Boxes are the same at every strength. As there, every machine
writes the same pixels: the arithmetic is integer and the random numbers are of NumPy's frozen
legacy generator.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from sbzoo.data.embedded import ensure_built
from sbzoo.data.embedded.digit_scenes import SIZE, Artist, Scene, Split, build_splits
from sbzoo.errors import UserError

GREY = 128  # what contrast and gain are about
ONE = 1024  # in which contrast, gains and level are counted
CONTRAST = 174  # the least, 0.17
GAIN = 307  # the least of a channel, 0.3
LEVEL = 2519  # the greatest, exp(0.9); the least is its inverse
NOISE = 8  # grey levels, the greatest amplitude
DIGESTS = {  # by strength in percent
    0: 'a14c35a6b2e722074b417ec58683df4a338af82dbefb7c95316461b8c9943940',
    33: '89a0db169a5757b2ddfd1b4640be6c9b65f528f573201052f502980ed2cf9f3b',
    67: 'a99ad6d43316f5ba54b964db555d7b9b29247671c48feefe686ee041520fb10e',
    100: 'd767d4df8c64fc8affb60dca0e7df2d4c637880c3f95d4aeb93da87303b2d605',
}


def ensure_light(root: str | Path, strength: float = 1.0) -> Path:
    """Build the set at a strength of the light under `root` unless it is there already.

    Args:
        root: The folder of all strengths: it has a folder for each, in the COCO format and named
            by hundredths, and their `annotations`, which are the same.
        strength: From 0 (plain) to 1, rounded to a hundredth.

    Returns:
        The folder of the strength.

    Raises:
        UserError: The strength is not between 0 and 1.
    """
    if not 0 <= strength <= 1:
        raise UserError(f'strength {strength} of the light; it is between 0 and 1')
    root, percent = Path(root).expanduser(), round(100 * strength)
    build = partial(build_light, percent=percent)
    folder = ensure_built(root / f'{percent:03d}', build, DIGESTS.get(percent))
    copy = partial(shutil.copytree, folder / 'annotations', dirs_exist_ok=True)
    ensure_built(root / 'annotations', copy)
    return folder


def build_light(root: Path, percent: int) -> str:
    """Write both splits to `root` and return the sha256 over what is in them."""
    return build_splits(root, f'light/{percent:03d}', partial(scenes, percent=percent), 'png')


def scenes(split: Split, percent: int) -> Iterator[Scene]:
    """Yield the scenes of a split, of their own sizes and lights, at a strength in percent."""
    artist = Artist(split)
    for index in range(split.num_images):
        rng = np.random.RandomState((split.seed, index))
        height, width = rng.randint(SIZE, 2 * SIZE + 1, size=2).tolist()
        scene = artist.draw((height, width), rng)
        yield Scene(Light.draw(rng).at(percent).on(scene.pixels, rng), scene.objects)


@dataclass(frozen=True)
class Light:
    """The light of a picture, as integers.

    Attributes:
        tone: Contrast, gains of red, green and blue, and level, [5], in 1/1024.
        blur: Share of the blurred picture in percent.
        noise: Amplitude of the noise in 1/100 grey levels.
    """

    tone: np.ndarray
    blur: int
    noise: int

    @classmethod
    def draw(cls, rng: np.random.RandomState) -> Light:
        """One at random; half of them have no blur, and half no noise."""
        contrast, gains = rng.randint(CONTRAST, ONE + 1), rng.randint(GAIN, ONE + 1, size=3)
        level = rng.randint(ONE, LEVEL + 1)
        if rng.randint(2):
            level = ONE * ONE // level
        blur, noise = rng.randint(-100, 101, size=2).clip(0).tolist()
        return cls(np.array([contrast, *gains, level], dtype=np.int64), blur, noise * NOISE)

    def at(self, percent: int) -> Light:
        """The same light at a strength in percent, of which 0 leaves a picture as it is."""
        tone = ONE + (self.tone - ONE) * percent // 100
        return Light(tone, self.blur * percent // 100, self.noise * percent // 100)

    def on(self, pixels: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """A picture, uint8 [H, W, 3], in this light; as many numbers are drawn in any light."""
        height, width, channels = pixels.shape
        radius = isqrt(height * width) // 64
        blurred = Image.fromarray(pixels).filter(ImageFilter.BoxBlur(radius))
        change = np.array(blurred, dtype=np.int32) - pixels
        toned = self.curve()[pixels + (change * self.blur + 50) // 100, np.arange(channels)]
        grain = rng.randint(-100, 101, size=(2, *pixels.shape), dtype=np.int16)
        noise = (grain.sum(axis=0, dtype=np.int32) * self.noise + 10_000) // 20_000
        return (toned + noise).clip(0, 255).astype(np.uint8)

    def curve(self) -> np.ndarray:
        """What becomes of the values 0 to 255 of each channel, int32 [256, 3].

        Contrast is about a grey of 128, and the gains multiply. The level multiplies the odds
        v / (255 - v) of a value: dark values in proportion, and bright ones roll off instead of
        being clipped.
        """
        contrast, gains, level = self.tone[0], self.tone[1:4], self.tone[4]
        values = GREY * ONE + contrast * (np.arange(256)[:, None] - GREY)
        values = values * gains // ONE  # in 1/1024
        odds = 255 * ONE * ONE + (level - ONE) * values
        return ((255 * level * values + odds // 2) // odds).astype(np.int32)
