"""tools/predict.py and `sbzoo.load` of a run, by the weights of a card on the embedded pictures."""

import json
import os
import re
import shutil
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import torch
from forks import ROOT, Ended, fork, script, tool
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_detectors import build

import sbzoo
from sbzoo import UserError
from sbzoo.checkpoint.io import load as load_checkpoint
from sbzoo.data.frames import open_input, read_pixels
from sbzoo.engine.model import classes_of
from sbzoo.engine.options.config import load_config
from sbzoo.engine.visualize import draw_found, painter
from sbzoo.zoo.load import Detections, Detector, open_model
from sbzoo.zoo.predict import _instances, coco_results

CARD, NUM = 'retinanet_gn_b2', 12
CONFIG = f'configs/{CARD}.py'


def content(path: Path) -> list | dict:
    return json.loads(path.read_text())


def calls(*arguments: tuple) -> list[Ended]:
    """Several runs of the tool at a time."""
    return fork(*(script('tools/predict.py', *each) for each in arguments))


@pytest.fixture(scope='module')
def photos(digits, tmp_path_factory) -> Path:
    """The first validation pictures, in a folder and one below, and three files that are none."""
    folder = tmp_path_factory.mktemp('photos')
    (folder / 'a <b> #é').mkdir()
    for index, path in enumerate(sorted((digits / 'val').iterdir())[:NUM]):
        shutil.copy(path, folder if index % 2 else folder / 'a <b> #é')
    (folder / 'text.jpg').write_text('no picture')
    (folder / 'empty.png').touch()
    Image.effect_noise((64, 64), 50).save(folder / 'cut.png')
    os.truncate(folder / 'cut.png', 2000)
    return folder


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory) -> Path:
    """What a run leaves, with the weights of the card."""
    folder = tmp_path_factory.mktemp('run')
    load_config(str(ROOT / CONFIG)).dump(folder / f'{CARD}.py')
    weights = load_checkpoint(f'card://{CARD}')['state_dict']
    meta = dict(dataset_meta=dict(classes=tuple('abcdefghij'), palette=[(1, 2, 3)]))
    torch.save(dict(state_dict=weights, meta=meta), folder / 'epoch_3.pth')
    return folder


@pytest.fixture(scope='module')
def predicted(photos, work_dir, tmp_path_factory) -> tuple[list[Path], list[Ended]]:
    """The folder: all detections at batch 1; at batch 4, by the run and by a glob the best."""
    outs = [tmp_path_factory.mktemp('out') / name for name in ('one', 'four', 'run', 'glob')]
    ended = calls(
        ('--card', CARD, '--input', photos, '--out', outs[0], '--score', 0),
        (f'card://{CARD}', '--input', photos, '--out', outs[1], '--batch', 4),
        (work_dir, '--input', photos, '--out', outs[2], '--device', 'cpu'),
        (CONFIG, work_dir, '--input', photos / '**/*.bmp', '--out', outs[3]),
    )
    return outs, ended


def average_precision(out: Path, ann_file: Path) -> float:
    """By pycocotools, of the pictures whose names are in both."""
    ours = {
        Path(entry['file_name']).name: entry['id']
        for entry in content(out / 'images.json')['images']
    }
    theirs = {ours.get(entry['file_name']): entry['id'] for entry in content(ann_file)['images']}
    results = content(out / 'predictions.json')
    found = [result | dict(image_id=theirs[result['image_id']]) for result in results]
    truth = COCO(ann_file)
    evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
    evaluation.params.imgIds = [theirs[number] for number in ours.values()]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def test_ap_is_that_of_the_test(predicted, digits, tmp_path):
    (one, *_), _ = predicted
    options = (
        f'test_dataloader.dataset.indices={NUM}',
        f'test_evaluator.ann_file={tmp_path}/val.json',
    )
    val = content(digits / 'annotations/val.json')
    val['images'] = val['images'][:NUM]
    kept = {entry['id'] for entry in val['images']}
    val['annotations'] = [entry for entry in val['annotations'] if entry['image_id'] in kept]
    (tmp_path / 'val.json').write_text(json.dumps(val))
    tested = tool(
        'test', CONFIG, '--card', CARD, '--work-dir', tmp_path / 'test', '--cfg-options', *options
    )
    assert tested.status == 0, tested.errors
    metrics = content(tmp_path / 'test/result.json')['metrics']
    found = average_precision(one, tmp_path / 'val.json')
    assert found > 0.4
    assert found == pytest.approx(metrics['coco/bbox_mAP'], abs=1e-6)


def test_batch_run_and_glob_find_the_same(predicted):
    (one, *others), _ = predicted
    everything = content(one / 'predictions.json')
    expected = [result for result in everything if result['score'] >= 0.3]
    assert 20 < len(expected) < len(everything)
    names = {entry['id']: entry['file_name'] for entry in content(one / 'images.json')['images']}
    for out in others:
        found = content(out / 'predictions.json')
        own = {entry['id']: entry['file_name'] for entry in content(out / 'images.json')['images']}
        assert list(own.values()) == list(names.values())
        for mine, theirs in zip(found, expected, strict=True):
            assert own[mine['image_id']] == names[theirs['image_id']]
            assert mine['category_id'] == theirs['category_id']
            assert mine['score'] == pytest.approx(theirs['score'], abs=1e-4)
            assert mine['bbox'] == pytest.approx(theirs['bbox'], abs=1e-2)


def test_what_is_no_picture_is_named_and_the_rest_predicted(predicted, photos):
    (one, *_), (ended, *_, by_glob) = predicted
    assert ended.status == 1
    assert ended.errors.splitlines() == [
        f'error: 3 of {NUM + 3} pictures could not be read',
        f'  {photos}/cut.png: the file is cut short',
        f'  {photos}/empty.png: the file is empty',
        f'  {photos}/text.jpg: not an image',
    ]
    assert len(content(one / 'images.json')['images']) == NUM
    assert (by_glob.status, by_glob.errors) == (0, '')


def test_the_page_shows_all_pictures_and_faults(predicted):
    (one, *_), _ = predicted
    text = (one / 'index.html').read_text()
    sources = [unquote(unescape(source)) for source in re.findall(r'src="(.+?)"', text)]
    assert len(sources) == len(set(sources)) == NUM
    sizes = {Image.open(one / source).size for source in sources}
    assert sizes == {(288, 288)}  # three times as large
    assert 'a &lt;b&gt; #é/' in text
    assert all(f'{name}: ' in text for name in ('empty.png', 'cut.png', 'text.jpg'))


def test_what_is_printed(predicted, work_dir):
    outs, ended = predicted
    printed = [each.printed.splitlines() for each in ended]
    total = len(content(outs[0] / 'predictions.json'))
    assert re.search(rf'all +│ {total} +│ {NUM} ', ended[0].printed)
    config = work_dir / f'{CARD}.py'
    assert [lines[-1] for lines in printed] == [
        *[f'next:    python tools/test.py sbzoo::{CARD}.py --card {CARD}'] * 2,
        f'next:    python tools/test.py {config} {work_dir}',
        f'next:    python tools/test.py {CONFIG} {work_dir}',
    ]
    assert re.search(r'│ j +│', ended[2].printed)  # names of classes are the checkpoint's


def test_a_run_is_loaded_as_a_card_is(work_dir, photos, monkeypatch):
    picture = next(photos.glob('*.bmp'))
    run, card = sbzoo.load(work_dir), sbzoo.load(CARD)
    assert type(run) is type(card)
    assert (run.classes, card.classes) == (tuple('abcdefghij'), tuple('0123456789'))
    assert (run.card, card.card.name) == (None, CARD)
    ours, theirs = run.predict(picture), card.predict(picture)
    assert len(ours) > 0
    assert torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.scores, theirs.scores)
    work_dir.with_name(CARD).symlink_to(work_dir)
    monkeypatch.chdir(work_dir.parent)
    assert sbzoo.load(CARD).card == card.card
    assert sbzoo.load(f'./{CARD}').card is sbzoo.load(Path(CARD)).card is None


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(UserError, match='none: no such work directory'):
        sbzoo.load(tmp_path / 'none')
    with pytest.raises(UserError, match='leaves one config in its folder, and here are: none'):
        sbzoo.load(str(tmp_path))
    for name in ('a.py', 'b.py'):
        shutil.copy(ROOT / CONFIG, tmp_path / name)
    with pytest.raises(UserError, match=r'here are: a.py, b.py; give the config and the check'):
        sbzoo.load(tmp_path)


def test_names_of_classes(work_dir):
    """They are the checkpoint's, or else the config's, and as many as the head has."""
    cfg = load_config(str(ROOT / CONFIG))
    cfg.train_dataloader.dataset.metainfo = dict(classes=['cat', 'dog'])
    assert open_model(cfg, work_dir).classes == tuple('abcdefghij')
    message = f'card://{CARD}: the model has 10 classes, and its checkpoint and config name 2; '
    with pytest.raises(UserError, match=message + 'name them by --classes'):
        open_model(cfg, f'card://{CARD}')
    cascade = build('cascade')
    cascade.dataset_meta = dict(classes='abcd')
    assert classes_of(cascade, '') == tuple('abcd')
    cascade.dataset_meta = {}
    with pytest.raises(UserError, match='has 4 classes, and its checkpoint and config name none'):
        classes_of(cascade, 'x.pth')


def test_names_of_mmdetection_2(work_dir, tmp_path):
    saved = torch.load(work_dir / 'epoch_3.pth', weights_only=True)
    names = tuple('klmnopqrst')
    torch.save(dict(state_dict=saved['state_dict'], meta=dict(CLASSES=names)), tmp_path / 'old.pth')
    assert open_model(load_config(str(ROOT / CONFIG)), tmp_path / 'old.pth').classes == names


@pytest.fixture(scope='module')
def film(digits, tmp_path_factory) -> Path:
    """Five frames."""
    path = tmp_path_factory.mktemp('film') / 'film.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5.0, (96, 96))
    for picture in sorted((digits / 'val').iterdir())[:5]:
        writer.write(cv2.imread(str(picture)))
    writer.release()
    return path


def test_a_video(film, digits, tmp_path):
    ended = tool(
        'predict', '--card', CARD, '--input', film, '--out', tmp_path / 'out', '--batch', 2
    )
    assert (ended.status, ended.errors) == (0, '')
    drawn = cv2.VideoCapture(str(tmp_path / 'out/film.mp4'))
    frames = []
    while (read := drawn.read())[0]:
        frames.append(read[1])
    assert (len(frames), frames[0].shape, drawn.get(cv2.CAP_PROP_FPS)) == (5, (288, 288, 3), 5.0)
    known, results = (content(tmp_path / f'out/{name}.json') for name in ('images', 'predictions'))
    assert [entry['frame_id'] for entry in known['images']] == [0, 1, 2, 3, 4]
    assert {entry['file_name'] for entry in known['images']} == {'film.avi'}
    first = sbzoo.load(CARD).predict(sorted((digits / 'val').iterdir())[4])
    assert len([r for r in results if r['image_id'] == 5]) == pytest.approx(len(first), abs=1)
    assert not (tmp_path / 'out/index.html').exists()


@pytest.mark.parametrize('kind', ['empty', 'text', 'without frames'])
def test_videos_that_are_none(kind, tmp_path):
    path = tmp_path / 'film.avi'
    path.write_text('no film' * (kind == 'text'))
    if kind == 'without frames':
        cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5.0, (96, 96)).release()
    reason = {
        'empty': 'the file is empty',
        'text': 'not a video that OpenCV can read',
        'without frames': 'a video without frames',
    }
    with pytest.raises(UserError, match=f'film.avi: {reason[kind]}$'):
        open_input([str(path)])


def test_inputs(photos, film, tmp_path):
    with pytest.raises(UserError, match=r'none/\*.jpg: no such picture, folder or video, nor does'):
        open_input([str(tmp_path / 'none/*.jpg')])
    with pytest.raises(UserError, match=f'{tmp_path}: no images'):
        open_input([str(tmp_path)])
    with pytest.raises(UserError, match=r'film.avi: a video is predicted by itself; 16 files are'):
        open_input([str(photos), str(film)])


def test_pixels_are_those_that_mmdetection_reads(photos):
    path = next(photos.glob('*.bmp'))
    assert np.array_equal(read_pixels(path), np.asarray(Image.open(path).convert('RGB')))


def test_masks_are_run_lengths_of_the_picture_and_drawn():
    mask = np.zeros((2, 30, 20), bool)
    mask[0, 3:9, 2:5] = mask[1, 20:, 10:] = True
    boxes = torch.tensor([[2.0, 3, 5, 9], [10, 20, 20, 30]])
    labels = torch.tensor([1, 0])
    found = Detections(boxes, torch.tensor([0.9, 0.5]), labels, ('a', 'b'), torch.from_numpy(mask))
    first, second = json.loads(json.dumps(coco_results(7, found, [10, 20])))
    assert (first['image_id'], first['category_id'], first['bbox']) == (7, 20, [2, 3, 3, 6])
    decoded = coco_mask.decode([first['segmentation'], second['segmentation']])
    assert np.array_equal(decoded.transpose(2, 0, 1), mask)
    grey = np.full((30, 20, 3), 90, np.uint8)
    drawn = np.asarray(draw_found(painter(found.classes, None), grey, _instances(found)))
    assert drawn.shape == (270, 180, 3)
    assert drawn[225, 18].tolist() == [90, 90, 90]
    assert drawn[250, 135].tolist() != [90, 90, 90]  # in the second mask, off its text


def test_mask_rcnn_of_mmdetection():
    """Masks are of the pictures' sizes, which differ, and lie in their boxes."""
    options = {'test_cfg.rcnn.score_thr': 0.0, 'test_cfg.rcnn.max_per_img': 3}
    model = build('mask', **options).eval()
    model.cfg = load_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    model.cfg.test_dataloader.dataset.pipeline[1].scale = (128, 128)
    detector = Detector(None, model, tuple('abcd'))
    pictures = [np.random.randint(0, 256, size, np.uint8) for size in ((90, 60, 3), (64, 96, 3))]
    for picture, found in zip(pictures, detector.predict_batch(pictures, score=0), strict=True):
        assert found.masks.shape == (3, *picture.shape[:2])
        assert found.masks.any()
        for result, mask in zip(coco_results(1, found, [1, 2, 3, 4]), found.masks, strict=True):
            assert coco_mask.area(result['segmentation']) == mask.sum()
            left, top, width, height = result['bbox']
            rows, columns = np.nonzero(mask.numpy())
            assert all((left - 1 <= columns) & (columns <= left + width + 1))
            assert all((top - 1 <= rows) & (rows <= top + height + 1))


def test_a_model_without_boxes_is_refused(work_dir, photos, monkeypatch):
    detector = sbzoo.load(work_dir)
    monkeypatch.setattr(detector.model, 'test_step', lambda batch: batch['data_samples'])
    with pytest.raises(UserError, match='RetinaNet: this model predicts no boxes'):
        detector.predict(next(photos.glob('*.bmp')))


def test_what_the_options_may_not_be(work_dir, photos, tmp_path):
    given = '--input', photos, '--out', tmp_path / 'out'
    refused = calls(
        (CONFIG, *given),
        (CONFIG, work_dir, '--classes', *'0123456789', *given),
        ('--card', 'dcgan_in_b2', *given),
        (work_dir, *given[:2], '--out', work_dir),
    )
    assert [ended.status for ended in refused] == [1, 1, 1, 1]
    assert [ended.errors for ended in refused] == [
        'error: give a config and a checkpoint, a work directory, or --card NAME\n',
        f'error: --classes: {work_dir} names its classes itself: {", ".join("abcdefghij")}\n',
        'error: dcgan_in_b2: a generator, no detector\n',
        f'error: {work_dir}: exists already; give a new folder by --out\n',
    ]
    assert not (tmp_path / 'out').exists()


def test_names_of_classes_that_are_given(photos, tmp_path):
    """They are in no annotation file, so their category ids count from 1."""
    given = '--input', next(photos.glob('*.bmp')), '--out', tmp_path / 'out'
    ended = tool('predict', CONFIG, f'card://{CARD}', *given, '--classes', *'klmnopqrst')
    assert (ended.status, ended.errors) == (0, '')
    known = content(tmp_path / 'out/images.json')['categories']
    assert {entry['id']: entry['name'] for entry in known} == dict(enumerate('klmnopqrst', 1))
    assert f'written: {tmp_path}/out/pictures/' in ended.printed
