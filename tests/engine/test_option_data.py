"""`--data` and `--epochs` on configs of every kind."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image

from sbzoo.data.coco import read_folder
from sbzoo.engine.options.config import load_config
from sbzoo.engine.options.data import set_data
from sbzoo.engine.options.parts import leaf
from sbzoo.engine.options.schedule import check_spans, set_epochs
from sbzoo.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """Two images with a box and a mask each, as train and as val."""
    root = tmp_path_factory.mktemp('coco')
    mask = [[2, 2, 8, 2, 8, 8, 2, 8]]
    for split in ('train', 'val'):
        (root / split).mkdir()
        images = [dict(id=i, file_name=f'{i}.png', width=40, height=40) for i in (1, 2)]
        boxes = [
            dict(id=i, image_id=i, category_id=1, bbox=[2, 2, 6, 6], area=36, segmentation=mask)
            for i in (1, 2)
        ]
        for image in images:
            Image.new('RGB', (40, 40)).save(root / split / image['file_name'])
        (root / 'annotations').mkdir(exist_ok=True)
        content = dict(
            images=images,
            annotations=[dict(box, iscrowd=0) for box in boxes],
            categories=[dict(id=1, name='thing')],
        )
        (root / f'annotations/{split}.json').write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ('name', 'metric'),
    [
        ('pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py', ['bbox']),
        ('solo/solo_r50_fpn_1x_coco.py', ['segm']),
        ('yolact/yolact_r50_1xb8-55e_coco.py', ['bbox', 'segm']),
        ('rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', ['bbox', 'segm']),
        ('lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py', ['bbox', 'segm']),
        ('yolox/yolox_tiny_8xb8-300e_coco.py', ['bbox']),
    ],
)
def test_any_mmdetection_config_reads_the_folder(coco, name, metric):
    cfg = load_config(f'mmdet::{name}')
    before = leaf(cfg.train_dataloader.dataset)
    set_data(cfg, str(coco))
    assert cfg.val_evaluator == dict(
        type='CocoAP', ann_file=str(coco / 'annotations/val.json'), metric=metric
    )
    after = leaf(cfg.train_dataloader.dataset)
    assert after.type == 'CocoDataset'
    assert after.get('filter_cfg') == before.get('filter_cfg')
    assert after.pipeline
    assert 'datasets' not in str(cfg.train_dataloader)


def changed(coco: Path, root: Path, **values) -> str:
    """A folder with other values in its first annotation; None takes the field away."""
    content = json.loads((coco / 'annotations/train.json').read_text())
    first = content['annotations'][0]
    first.update(values)
    content['annotations'][0] = {k: v for k, v in first.items() if v is not None}
    (root / 'annotations').mkdir(exist_ok=True)
    for split in ('train', 'val'):
        (root / split).symlink_to(coco / split)
        (root / f'annotations/{split}.json').write_text(json.dumps(content))
    return str(root)


@pytest.mark.parametrize('iscrowd', [0, 1])
def test_masks_that_are_learned_have_to_be_there(coco, tmp_path, iscrowd):
    """Those of crowds, too: MMDetection's reader knows no other."""
    root = changed(coco, tmp_path, segmentation=None, iscrowd=iscrowd)
    with pytest.raises(UserError, match='predicts masks, the annotations have none or not all'):
        set_data(load_config('mmdet::solo/solo_r50_fpn_1x_coco.py'), root)


def test_masks_have_to_be_in_a_form_that_is_read(coco, tmp_path):
    """With poly2mask=False MMDetection ignores what has run lengths."""
    root = changed(coco, tmp_path, segmentation=dict(size=[40, 40], counts=[99, 1501]))
    set_data(load_config('mmdet::solo/solo_r50_fpn_1x_coco.py'), root)
    with pytest.raises(UserError, match='run lengths, and this config reads polygons alone'):
        set_data(load_config('mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py'), root)


def test_pictures_that_the_config_leaves_out(coco):
    cfg = load_config('configs/retinanet_gn_b2.py')
    cfg.train_dataloader.dataset.filter_cfg = dict(min_size=41)
    with pytest.raises(UserError, match='images with a side below 41 pixels, and one has 40'):
        set_data(cfg, str(coco))


def test_leaks_may_be_allowed(coco, tmp_path):
    root = changed(coco, tmp_path)
    (tmp_path / 'val').unlink()
    (tmp_path / 'val').symlink_to(coco / 'train')
    cfg = load_config('configs/retinanet_gn_b2.py')
    with pytest.raises(UserError, match=r'image 1 \(1.png\): the same file is in .*train.json'):
        set_data(cfg, root)
    set_data(cfg, root, allow_leaks=True)
    assert cfg.val_dataloader.dataset.ann_file == f'{root}/annotations/val.json'


def test_a_crowd_is_0_or_1_where_it_is_said(coco, tmp_path):
    content = json.loads((coco / 'annotations/train.json').read_text())
    for split, flags in (('train', (None, 0)), ('val', (1, 0))):
        for annotation, flag in zip(content['annotations'], flags, strict=True):
            annotation['iscrowd'] = flag
        (tmp_path / split).symlink_to(coco / split)
        (tmp_path / 'annotations').mkdir(exist_ok=True)
        (tmp_path / f'annotations/{split}.json').write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'1 problem .*\n.*iscrowd is None, not 0 or 1'):
        read_folder(tmp_path)


def images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(folder / f'{index}.png')


def test_translations_are_measured_against_the_domain_of_the_folder(tmp_path):
    for name, count in (('trainA', 3), ('trainB', 4), ('testA', 2), ('testB', 3)):
        images(tmp_path / name, count)
    cfg = load_config('configs/cyclegan_in_b1.py')
    set_data(cfg, str(tmp_path))
    assert len(DATASETS.build(cfg.val_evaluator.real)) == 3
    assert cfg.test_evaluator.real.data_root == str(tmp_path / 'testB')


def test_both_domains_are_tested(tmp_path):
    for name in ('trainA', 'trainB', 'testA'):
        images(tmp_path / name, 2)
    with pytest.raises(UserError, match='testB: no such folder'):
        set_data(load_config('configs/cyclegan_in_b1.py'), str(tmp_path))


def test_pairs_to_test_with_are_not_trained_on(tmp_path):
    for name in ('A', 'B'):
        images(tmp_path / 'test' / name, 2)
    with pytest.raises(UserError, match='a folder test, and no folder train'):
        set_data(load_config('configs/pix2pix_ln_b1.py'), str(tmp_path))


def test_cifar_is_where_one_says():
    cfg = load_config('configs/gan/sngan_cifar10_gn_b8.py')
    set_data(cfg, '/mine')
    assert cfg.train_dataloader.dataset.data_root == '/mine'
    assert cfg.val_evaluator.real.data_root == cfg.test_evaluator.real.data_root == '/mine'


def test_no_classes_are_no_condition(tmp_path):
    images(tmp_path / 'flat', 3)
    cfg = load_config('configs/dcgan_in_b2.py')
    cfg.model.generator.num_classes = 0
    set_data(cfg, str(tmp_path / 'flat'))
    assert cfg.train_dataloader.dataset.labels is False


def test_what_comes_late_in_a_schedule_is_stretched_with_it():
    cfg = load_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    set_epochs(cfg, 30)
    (switch,) = (hook for hook in cfg.custom_hooks if 'switch_epoch' in hook)
    assert switch.switch_epoch == 28  # of 280 in 300
    assert cfg.train_cfg.dynamic_intervals == [(28, 1)]
    cfg = load_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py')
    set_epochs(cfg, 60)
    (switch,) = (hook for hook in cfg.custom_hooks if 'num_last_epochs' in hook)
    assert switch.num_last_epochs == 3


def test_schedules_of_both_networks_are_stretched():
    cfg = load_config('configs/gan/cyclegan_horse2zebra_in_b1.py')
    before = cfg.param_scheduler.generator[0]
    set_epochs(cfg, 20)
    assert cfg.param_scheduler.generator[0].begin == before.begin == 10


def test_parts_of_a_schedule_shorter_than_a_step():
    """As mmengine counts them: whole steps."""
    cfg = load_config('configs/retinanet_gn_b2.py')
    check_spans(cfg, 4)  # a quarter of an epoch is a step
    set_epochs(cfg, 1)
    with pytest.raises(UserError, match=r'LinearLR .* for 0.0833 epochs, and an epoch has 4 step'):
        check_spans(cfg, 4)
    check_spans(cfg, 12)
