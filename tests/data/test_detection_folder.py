"""COCO, YOLO and Pascal VOC folders of the same scenes are the same data set."""

import json

import numpy as np
import pytest
from mmdet.datasets import VOCDataset, XMLDataset
from mmengine.registry import DATASETS
from other_formats import objects_of, write_voc, write_yolo
from pycocotools import mask as masks

from sbzoo.data import conversion
from sbzoo.data.coco import read_folder
from sbzoo.data.conversion import polygon_area
from sbzoo.data.detection_folder import read_detection_folder
from sbzoo.engine.options.config import load_config
from sbzoo.engine.options.data import set_data
from sbzoo.engine.options.parts import leaf
from sbzoo.errors import UserError

COUNT = 12  # of images in each split


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def yolo(tmp_path, digits):
    return write_yolo(tmp_path / 'yolo', digits, COUNT)


@pytest.fixture
def voc(tmp_path, digits):
    return write_voc(tmp_path / 'voc', digits, COUNT)


def entries(split) -> dict:
    return json.loads(split.ann_file.read_text())


def boxes_by_image(split) -> list[list]:
    """The boxes of each image, in the order of files, with their class."""
    content = entries(split)
    names = {c['id']: c['name'] for c in content['categories']}
    found = {image['id']: [] for image in content['images']}
    for a in content['annotations']:
        found[a['image_id']].append((names[a['category_id']], a['bbox'], a['iscrowd']))
    return [*found.values()]


def theirs(digits, name: str) -> list[list]:
    return [
        [(a['name'], a['bbox'], a['iscrowd']) for a in found]
        for *_, found in objects_of(digits, name, COUNT)
    ]


def test_boxes_of_yolo_are_those_of_coco(yolo, digits):
    folder = read_detection_folder(yolo)
    assert folder.kind == 'YOLO'
    assert folder.classes == read_folder(digits).classes
    for name, split in (('train', folder.train), ('val', folder.val)):
        for ours, coco in zip(boxes_by_image(split), theirs(digits, name), strict=True):
            assert [o[0] for o in ours] == [c[0] for c in coco]
            np.testing.assert_allclose([o[1] for o in ours], [c[1] for c in coco], atol=2e-4)
        assert not split.has_masks
        assert split.unmasked == f'labels/{name}/000001.txt:1'


def test_boxes_of_voc_are_those_of_coco_but_for_the_last_pixel(voc, digits):
    folder = read_detection_folder(voc)
    assert (folder.kind, folder.classes) == ('VOC', read_folder(digits).classes)
    for name, split in (('train', folder.train), ('val', folder.val)):
        wanted = [
            [(name, [x, y, w - 1, h - 1], crowd) for name, (x, y, w, h), crowd in found]
            for found in theirs(digits, name)
        ]
        assert boxes_by_image(split) == wanted


def test_boxes_of_voc_are_those_of_mmdetection(voc):
    """Also where corners are fractions and an object is difficult, which is no crowd there."""
    file = voc / 'Annotations/train_000001.xml'
    text = file.read_text().replace('<difficult>0', '<difficult>1', 1)
    file.write_text(text.replace('</xmax>', '.7</xmax>', 1))
    folder = read_detection_folder(voc)
    for file in (voc / 'JPEGImages').iterdir():
        file.rename(file.with_suffix('.jpg'))  # the only ending that MMDetection's reader knows
    dataset = XMLDataset(
        ann_file=str(voc / 'ImageSets/Main/train.txt'),
        data_prefix=dict(sub_data_root=str(voc)),
        metainfo=dict(classes=folder.classes),
        pipeline=[],
    )
    assert issubclass(VOCDataset, XMLDataset)
    ours = loaded(folder.train, folder.classes)
    assert len(dataset) == COUNT
    flags = []
    for index, item in enumerate(ours):
        wanted = dataset.get_data_info(index)['instances']
        for one, other in zip(item, wanted, strict=True):
            assert one['bbox'] == other['bbox']
            assert one['bbox_label'] == other['bbox_label']
            assert one['ignore_flag'] == other['ignore_flag']
            flags.append(one['ignore_flag'])
    assert sum(flags) == 1


def loaded(split, classes) -> list[list[dict]]:
    """The instances that MMDetection's CocoDataset reads."""
    dataset = DATASETS.build(
        dict(
            type='mmdet.CocoDataset',
            ann_file=str(split.ann_file),
            data_prefix=dict(img=f'{split.image_dir}/'),
            metainfo=dict(classes=classes),
            pipeline=[],
        )
    )
    return [dataset.get_data_info(i)['instances'] for i in range(len(dataset))]


def test_polygons_are_the_masks_that_they_outline(tmp_path, digits):
    root = write_yolo(tmp_path / 'polygons', digits, COUNT, polygons=True)
    folder = read_detection_folder(root)
    assert folder.train.has_masks
    assert not folder.train.has_rle
    overlaps = []
    found = iter(entries(folder.train)['annotations'])
    for image, _, objects in objects_of(digits, 'train', COUNT):
        size = image['height'], image['width']
        for coco, ours in zip(objects, found, strict=False):
            one = masks.merge(masks.frPyObjects(ours['segmentation'], *size))
            other = masks.frPyObjects(coco['segmentation'], *size)
            overlaps.append(masks.iou([one], [other], [0])[0, 0])
            x, _, w, _ = coco['bbox']
            assert ours['bbox'][0] >= x - 0.501
            assert ours['bbox'][0] + ours['bbox'][2] <= x + w + 0.501
            assert ours['area'] == pytest.approx(polygon_area(ours['segmentation'][0]), abs=0.1)
    assert len(overlaps) == folder.train.num_boxes
    assert np.median(overlaps) > 0.85


def test_area_of_a_polygon():
    assert polygon_area([0, 0, 4, 0, 4, 3]) == 6
    assert polygon_area([4, 3, 4, 0, 0, 0]) == 6
    assert polygon_area([1, 1, 3, 1, 3, 3, 1, 3]) == 4


def test_training_reads_the_same_from_yolo_as_from_coco(yolo, digits):
    """The whole pipeline of a config, to the tensors of its first pictures."""
    items = []
    for root in (str(digits), str(yolo)):
        cfg = load_config('configs/retinanet_gn_b2.py')
        set_data(cfg, root)
        assert cfg.val_evaluator.ann_file == cfg.val_dataloader.dataset.ann_file
        dataset = leaf(cfg.train_dataloader.dataset)
        dataset.pipeline = [step for step in dataset.pipeline if 'Random' not in step.type]
        built = DATASETS.build(dataset)
        items.append([built[i] for i in range(COUNT)])
    for one, other in zip(*items, strict=True):
        assert one['inputs'].equal(other['inputs'])
        ours, wanted = (i['data_samples'].gt_instances for i in (other, one))
        assert ours.labels.equal(wanted.labels)
        np.testing.assert_allclose(ours.bboxes.tensor, wanted.bboxes.tensor, atol=1e-3)


def test_it_is_converted_once_and_anew_after_a_change(yolo, monkeypatch):
    read, calls = conversion._write, []
    monkeypatch.setattr(conversion, '_write', lambda *a: calls.append(a) or read(*a))
    first = read_detection_folder(yolo)
    assert read_detection_folder(yolo) == first
    assert len(calls) == 1
    (yolo / 'labels/train/000001.txt').write_text('3 0.5 0.5 0.2 0.2\n')
    second = read_detection_folder(yolo)
    assert len(calls) == 2
    assert second.train.ann_file != first.train.ann_file
    assert second.train.num_boxes < first.train.num_boxes
    assert entries(second.train)['annotations'][0]['bbox'] == [38.4, 38.4, 19.2, 19.2]


def test_a_file_that_is_no_picture_is_named_and_nothing_is_kept(yolo, tmp_path):
    file = yolo / 'images/train/000002.bmp'
    file.unlink()
    file.write_bytes(b'')
    with pytest.raises(UserError) as caught:
        read_detection_folder(yolo)
    line = 'images/train/000002.bmp: the file is empty; a picture has to be whole'
    assert str(caught.value) == f'{yolo}: 1 problem in the YOLO labels\n  {line}'
    assert [*(tmp_path / 'cache/converted').iterdir()] == []


def test_the_checks_of_coco_name_the_line(yolo):
    file = yolo / 'labels/train/000001.txt'
    file.write_text('3 0.5 0.5 0 0.2\n' + file.read_text())
    with pytest.raises(UserError) as caught:
        read_detection_folder(yolo)
    assert ': labels/train/000001.txt:1: box [48.0, 38.4, 0.0, 19.2] has no area' in str(
        caught.value
    )
    assert read_detection_folder(yolo, drop_empty_boxes=True).train.num_images == COUNT


def test_pictures_in_both_splits(voc):
    (voc / 'ImageSets/Main/val.txt').write_text('train_000001\n')
    with pytest.raises(UserError, match=r'train_000001.bmp\): the same file is in train '):
        read_detection_folder(voc)
    assert read_detection_folder(voc, allow_leaks=True).val.num_images == 1


def test_masks_are_refused_where_boxes_and_polygons_are_mixed(tmp_path, digits):
    root = write_yolo(tmp_path / 'mixed', digits, 2, polygons=True)
    file = root / 'labels/val/000002.txt'
    lines = file.read_text().splitlines()
    file.write_text('\n'.join([*lines, '0 0.5 0.5 0.5 0.5']))
    set_data(load_config('configs/retinanet_gn_b2.py'), str(root))
    with pytest.raises(UserError, match=rf'000002.txt:{len(lines) + 1}$'):
        set_data(load_config('mmdet::solo/solo_r50_fpn_1x_coco.py'), str(root))


def test_what_is_in_no_format(tmp_path):
    (tmp_path / 'cats').mkdir()
    with pytest.raises(UserError, match=r'not in the format COCO .* YOLO .* the folder holds cats'):
        read_detection_folder(tmp_path)
    with pytest.raises(UserError, match='nowhere: no such folder'):
        read_detection_folder(tmp_path / 'nowhere')
