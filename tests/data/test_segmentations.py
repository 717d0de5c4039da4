"""Segmentations by pycocotools: what it writes is sound, what would break it is told."""

import math

import numpy as np
import pytest
from pycocotools import mask as coco

from sbzoo.data.segmentations import decode, fault_of, is_given

SIZE = 64, 48


def random_mask(seed: int) -> np.ndarray:
    random = np.random.RandomState(seed)
    noise = random.rand(48, 64) < random.rand()  # runs of every length
    noise[:, : random.randint(64)] = seed % 2
    return np.asfortranarray(noise.astype(np.uint8))


def runs(mask: np.ndarray) -> list[int]:
    """The lengths of equal pixels down the columns, first of zeros."""
    pixels = mask.ravel(order='F')
    edges = np.flatnonzero(np.diff(pixels)) + 1
    lengths = np.diff([0, *edges, pixels.size]).tolist()
    return [0, *lengths] if pixels[0] else lengths


@pytest.mark.parametrize('seed', range(20))
def test_strings_are_read_as_pycocotools_writes_them(seed):
    mask = random_mask(seed)
    counts = coco.encode(mask)['counts'].decode()
    assert decode(counts) == runs(mask)
    for form in (counts, runs(mask)):
        assert fault_of(dict(size=[48, 64], counts=form), SIZE) is None


@pytest.mark.parametrize('given', [None, [], [[]], {}, ''])
def test_nothing(given):
    assert not is_given(given)


@pytest.mark.parametrize(
    'sound',
    [
        [[0, 0, 64, 0, 64, 48]],
        [[1.5, 2, 3, 4, 5, 6], [9, 9, 8, 8, 7, 7, 6, 6]],
        [[-3, -2, 70, 3, 9, 50]],  # a little past the image
    ],
)
def test_polygons(sound):
    assert fault_of(sound, SIZE) is None


@pytest.mark.parametrize(
    ('given', 'fault'),
    [
        ([1, 2, 3, 4, 5, 6], 'segmentation is [1, 2, 3, 4, 5, 6], not polygons'),
        ('a string', "segmentation is 'a string', not polygons"),
        ([[9] * 6, [1, 2, 3, 4]], 'polygon 2 has 4 number(s), not x and y of three points or more'),
        ([[1] * 7], 'polygon 1 has 7 number(s)'),
        ([['1'] * 6], "polygon 1 is ['1', '1', '1', '1', '1', '1'], not numbers"),
        ([[1, 2, 3, 4, 5, True]], 'not numbers'),
        ([[1, 2, 3, math.nan, 5, 6]], 'polygon 1 is [1, 2, 3, nan, 5, 6], not pixels of its 64x48'),
        ([[math.nan, 2, 3, 4, 5, 6]], 'not pixels of its 64x48 image'),
        ([[1, 2, math.inf, 4, 5, 6]], 'not pixels of its 64x48 image'),
        ([[1, 2, 3, 4, 5, 10**400]], 'not pixels of its 64x48 image'),
        ([[1, 2, 3, 4, 129, 6]], 'not pixels of its 64x48 image'),
        (dict(counts=[3072]), 'segmentation has size None, not the height and width [48, 64]'),
        (dict(size=[64, 48], counts=[3072]), 'segmentation has size [64, 48]'),
        (dict(size=[48.0, 64.0], counts=[3072]), 'segmentation has size [48.0, 64.0]'),
        (dict(size=[10**9] * 2, counts=[10**18]), 'segmentation has size [1000000000, 1000000000]'),
        (dict(size=[48, 64]), 'segmentation has counts None, not run lengths'),
        (dict(size=[48, 64], counts=[3072.0]), 'segmentation has counts [3072.0], not run lengths'),
        (dict(size=[48, 64], counts=[-1, 3073]), 'segmentation has the run length -1'),
        (dict(size=[48, 64], counts=[3071]), 'run lengths of 3071 pixels, and the image has 3072'),
        (dict(size=[48, 64], counts='0PP'), "has counts '0PP': cut short"),
        (dict(size=[48, 64], counts='é'), "has counts 'é': not what pycocotools writes"),
        (dict(size=[48, 64], counts='o' * 99), 'not what pycocotools writes'),
    ],
)
def test_faults(given, fault):
    assert fault in fault_of(given, SIZE)
