"""The embedded detection set."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from sbzoo.data.coco import read_folder
from sbzoo.data.embedded import digit_scenes as module
from sbzoo.data.embedded.digit_scenes import SPLITS, ensure_digits


def test_is_a_coco_folder(digits):
    folder = read_folder(digits)
    assert folder.classes == tuple('0123456789')
    assert (folder.train.num_images, folder.val.num_images) == (2000, 200)
    assert folder.train.has_masks
    assert folder.val.has_masks


def test_boxes_and_areas_are_those_of_the_masks(digits):
    coco = COCO(digits / 'annotations/val.json')
    for annotation in coco.loadAnns(coco.getAnnIds()):
        encoded = rle.frPyObjects(annotation['segmentation'], 96, 96)
        assert rle.toBbox(encoded).tolist() == annotation['bbox']
        assert rle.area(encoded) == annotation['area']


def test_digits_do_not_overlap(digits):
    coco = COCO(digits / 'annotations/val.json')
    for image_id in coco.getImgIds():
        masks = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(image_id))]
        assert 3 <= len(masks) <= 7
        assert np.sum(masks, axis=0).max() == 1


def test_splits_share_nothing():
    train, val = SPLITS
    assert not set(train.digits) & set(val.digits)
    assert sorted(train.digits + val.digits) == list(range(6))
    assert not set(train.photographs) & set(val.photographs)


def test_pictures_hold_what_the_annotations_say(digits):
    """Inside its mask a digit is of one colour, so much less varied than its picture."""
    coco = json.loads((digits / 'annotations/val.json').read_text())
    ratios = []
    for annotation in coco['annotations'][:50]:
        name = f'{annotation["image_id"]:06d}.bmp'
        pixels = np.array(Image.open(digits / 'val' / name), dtype=float)
        mask = rle.decode(rle.frPyObjects(annotation['segmentation'], 96, 96)).astype(bool)
        ratios.append(pixels[mask].std(axis=0).mean() / pixels.std(axis=(0, 1)).mean())
    assert np.median(ratios) < 0.7


def test_nothing_half_built_is_left(tmp_path, monkeypatch):
    def fails(root):
        (root / 'part').write_text('half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(module, 'build_digits', fails)
    with pytest.raises(OSError, match='No space'):
        ensure_digits(tmp_path / 'digits')
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_builders_wins(tmp_path, monkeypatch):
    def build(root):
        (tmp_path / 'digits').mkdir()
        (tmp_path / 'digits' / 'first').touch()
        return module.DIGEST

    monkeypatch.setattr(module, 'build_digits', build)
    assert (ensure_digits(tmp_path / 'digits') / 'first').exists()
    assert [p.name for p in tmp_path.iterdir()] == ['digits']


def test_other_pictures_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'build_digits', lambda root: 'another digest')
    with pytest.warns(UserWarning, match='another digest'):
        ensure_digits(tmp_path / 'digits')
