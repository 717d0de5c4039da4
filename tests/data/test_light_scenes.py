"""The embedded detection set in which pictures differ."""

import hashlib
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from PIL import Image, ImageFilter
from pycocotools import mask as rle

from sbzoo.data.coco import read_folder
from sbzoo.data.embedded import digit_scenes
from sbzoo.data.embedded import light_scenes as module
from sbzoo.data.embedded.digit_scenes import SPLITS, Artist
from sbzoo.data.embedded.light_scenes import DIGESTS, Light, ensure_light, scenes
from sbzoo.errors import UserError

NUM = 6  # pictures of each split, of the 2,000 and 200
SMALL = tuple(replace(split, num_images=NUM) for split in SPLITS)
TRAIN, VAL = SMALL
STRENGTHS = sorted(DIGESTS)
NEUTRAL = [1024] * 5  # contrast, three gains, level


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(digit_scenes, 'SPLITS', SMALL)
    monkeypatch.setattr(module, 'DIGESTS', {})


@pytest.fixture
def light():
    """A function that makes one light, and the picture of ramps that it falls on."""
    return lambda tone=NEUTRAL, blur=0, noise=0: Light(np.array(tone), blur, noise)


def ramps() -> np.ndarray:
    """Every value of 0 to 255 in each channel, [16, 16, 3]."""
    return np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)


def lit(light: Light, pixels: np.ndarray) -> np.ndarray:
    return light.on(pixels, np.random.RandomState(0))


# --- the set --------------------------------------------------------------------------------


@pytest.mark.parametrize('percent', STRENGTHS)
def test_pixels_are_those_of_the_published_set(percent):
    """The first pictures of each split; the whole set is verified wherever it is built."""
    pixels = b''.join(s.pixels.tobytes() for split in SMALL for s in scenes(split, percent))
    assert hashlib.sha256(pixels).hexdigest() == FIRST[percent]


FIRST = {
    0: 'f37faacd01527f73a1370af5f7a7ca86b153cb2d9ef6662699b93b5a145862d5',
    33: '3c630ff357cb2ab6b13c1581ce96abe8937375933e273a2edc487c46e395849a',
    67: 'e57fbd2560c652a0a2f2aed0758febd8b3aff917cb4d3dc948b2f84e88295015',
    100: 'adc2dc48ba976bd64a9b9b825c9643ee06816f9393de6de263908e688790e109',
}


def test_strengths_share_boxes_and_the_annotations(tmp_path, small):
    folders = [ensure_light(tmp_path / 'light', strength) for strength in (0, 1 / 3, 1)]
    assert [folder.name for folder in folders] == ['000', '033', '100']
    for split in SPLITS:
        files = [f / f'annotations/{split.name}.json' for f in (tmp_path / 'light', *folders)]
        assert len({file.read_bytes() for file in files}) == 1
        coco = json.loads(files[0].read_text())
        for image in coco['images']:
            pictures = [Image.open(f / split.name / image['file_name']) for f in folders]
            assert {picture.size for picture in pictures} == {(image['width'], image['height'])}
            assert len({picture.tobytes() for picture in pictures}) == 3


def test_is_a_coco_folder(tmp_path, small):
    folder = read_folder(ensure_light(tmp_path / 'light'))
    assert folder.classes == tuple('0123456789')
    assert (folder.train.num_images, folder.val.num_images) == (NUM, NUM)


def test_boxes_are_in_the_pictures_and_those_of_the_masks(tmp_path, small):
    coco = json.loads((ensure_light(tmp_path) / 'annotations/train.json').read_text())
    images = {image['id']: image for image in coco['images']}
    assert len(coco['annotations']) >= 3 * NUM
    for annotation in coco['annotations']:
        height, width = (images[annotation['image_id']][key] for key in ('height', 'width'))
        x, y, w, h = annotation['bbox']
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        encoded = rle.frPyObjects(annotation['segmentation'], height, width)
        assert rle.toBbox(encoded).tolist() == [x, y, w, h]


def test_other_pixels_are_told(tmp_path, small, monkeypatch):
    monkeypatch.setattr(module, 'DIGESTS', {100: 'another digest'})
    with pytest.warns(UserWarning, match='another digest'):
        ensure_light(tmp_path)


@pytest.mark.parametrize('strength', [-0.1, 1.1, float('nan')])
def test_strengths_that_are_none(tmp_path, strength):
    with pytest.raises(UserError, match=f'strength {strength} of the light; it is between 0 and 1'):
        ensure_light(tmp_path, strength)


def test_the_config_trains_and_evaluates_on_the_strength_that_is_given(
    tmp_path, small, monkeypatch
):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path))
    cfg = Config.fromfile('configs/_base_/light.py')
    for name in ('train', 'val'):
        cfg[f'{name}_dataloader'].dataset.strength = 0.33
        dataset = DATASETS.build(cfg[f'{name}_dataloader'].dataset)
        assert dataset.name == 'LightScenes at strength 0.33'
        assert dataset.get_data_info(0)['img_path'] == f'{tmp_path}/light/033/{name}/000001.png'
        shapes = {dataset[i]['inputs'].shape[1:] for i in range(len(dataset))}
        assert len(shapes) > 1
        assert all(max(shape) <= 128 and min(shape) <= 96 for shape in shapes)
    assert len(METRICS.build(cfg.val_evaluator)._coco_api.imgs) == len(dataset)


# --- pictures -------------------------------------------------------------------------------


def test_a_picture_depends_on_its_split_and_number_alone():
    fewer = replace(TRAIN, num_images=2)
    for one, other in zip(scenes(fewer, 100), scenes(TRAIN, 100), strict=False):
        assert np.array_equal(one.pixels, other.pixels)


def test_without_light_a_scene_is_as_drawn():
    for index, scene in enumerate(scenes(VAL, 0)):
        rng = np.random.RandomState((VAL.seed, index))
        plain = Artist(VAL).draw(tuple(rng.randint(96, 193, size=2)), rng)
        assert np.array_equal(scene.pixels, plain.pixels)


def test_pictures_are_of_many_sizes_and_their_digits_grow_with_them():
    sizes, shares = set(), []
    for scene in scenes(TRAIN, 0):
        height, width, _ = scene.pixels.shape
        assert 96 <= min(height, width) <= max(height, width) <= 192
        sizes.add((height, width))
        rows = [np.ptp(np.flatnonzero(mask.any(axis=1))) + 1 for _, mask in scene.objects]
        shares += [extent / np.sqrt(height * width) for extent in rows]
    assert len(sizes) == NUM
    assert 0.1 < min(shares) < max(shares) <= 0.5


def test_lights_cover_what_is_said_of_them():
    lights = [Light.draw(np.random.RandomState(seed)) for seed in range(500)]
    tones = np.array([light.tone for light in lights]) / 1024
    for values, least, most in (
        (tones[:, 0], 0.17, 1),
        (tones[:, 1:4], 0.3, 1),
        (tones[:, 4], np.exp(-0.9), np.exp(0.9)),
    ):
        assert least - 1e-3 <= values.min() < 1.05 * least
        assert 0.95 * most < values.max() <= most + 1e-3
    assert 0.4 < np.mean(tones[:, 4] < 1) < 0.6
    for amounts in ([light.blur for light in lights], [light.noise for light in lights]):
        assert 0.4 < np.mean(np.array(amounts) == 0) < 0.6


# --- light on a constructed picture, by closed forms ----------------------------------------


def test_contrast_is_about_grey_and_gains_are_of_each_channel(light):
    contrast, gains = Fraction(1, 4), (1, Fraction(1, 2), Fraction(3, 4))
    found = lit(light([1024 * p for p in (contrast, *gains, 1)]), ramps())
    wanted = [[float((128 + contrast * (v - 128)) * g) for g in gains] for v in range(256)]
    assert np.abs(found.reshape(256, 3) - wanted).max() <= 0.5


@pytest.mark.parametrize('factor', [0.5, 2])
def test_the_level_multiplies_the_odds(light, factor):
    found = lit(light([*NEUTRAL[:4], int(1024 * factor)]), ramps())[..., 0].ravel() / 255
    values = np.arange(255) / 255
    odds = factor * values / (1 - values)
    assert np.abs(found[:255] - odds / (1 + odds)).max() <= 0.5 / 255 + 1e-9
    assert found[255] == 1


def test_contrast_and_gains_interpolate_with_the_strength(light):
    """Of a picture with mean 128 + d, as the mean and the deviation have closed forms."""
    pixels = np.full((64, 64, 3), 98, dtype=np.uint8)
    pixels[::2] = 198
    full = light([256, 512, 1024, 768, 1024])
    means, deviations = [], []
    for percent in (0, 25, 50, 75, 100):
        contrast, *gains = (1 + percent / 100 * (p - 1) for p in (0.25, 0.5, 1, 0.75))
        found = lit(full.at(percent), pixels).astype(float)
        means.append(found.mean(axis=(0, 1)))
        deviations.append(found.std(axis=(0, 1)))
        assert np.abs(means[-1] - (128 + contrast * 20) * np.array(gains)).max() <= 0.75
        assert np.abs(deviations[-1] - contrast * 50 * np.array(gains)).max() <= 0.75
    assert (np.diff(means, axis=0) < 0).all()
    assert (np.diff(deviations, axis=0) < 0).all()


def test_no_light_leaves_every_value(light):
    full = light([200, 400, 600, 800, 2000], blur=90, noise=700)
    assert np.array_equal(lit(full.at(0), ramps()), ramps())


@pytest.mark.parametrize('blur', [50, 100])
def test_blur_is_the_share_of_a_box_filter(light, blur):
    pixels = np.random.RandomState(1).randint(0, 256, size=(128, 128, 3)).astype(np.uint8)
    boxed = np.array(Image.fromarray(pixels).filter(ImageFilter.BoxBlur(2)), dtype=float)
    wanted = pixels + blur / 100 * (boxed - pixels)
    assert np.abs(lit(light(blur=blur), pixels) - wanted).max() <= 0.5


def test_noise_is_triangular_and_of_its_amplitude(light):
    """The sum of two uniform numbers, each of half the amplitude: variance amplitude^2 / 6."""
    grey = np.full((192, 192, 3), 128, dtype=np.uint8)
    noise = lit(light(noise=800), grey).astype(float) - 128
    assert np.abs(noise).max() == 8
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert noise.var() == pytest.approx(8**2 / 6 + 1 / 12, rel=0.02)
    assert not np.array_equal(noise[..., 0], noise[..., 1])
