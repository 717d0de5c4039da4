"""What a data set is like, by closed forms."""

from pathlib import Path

import numpy as np
import pytest
from forks import tool
from PIL import Image

from sbzoo.data.detection_folder import read_detection_folder
from sbzoo.data.summary import duplicates, padding, scaled, summaries


def test_padding_of_pairs():
    assert padding(np.array([[640, 480]] * 3)) == 0
    assert padding(np.array([[640, 480], [480, 640]])) == 0  # never in one batch
    # Of two sizes, half of the pairs are mixed: (2 ab - a - b) / 2 ab of it is padding.
    mixed = 1 - (100 * 50 + 50 * 40) / (2 * 100 * 50)
    assert padding(np.array([[100, 50], [50, 40]])) == pytest.approx(mixed / 2, abs=0.002)
    upright = np.array([[50, 100], [40, 50], [60, 40]])
    assert padding(upright) == pytest.approx(mixed / 2 * 2 / 3, abs=0.002)


def test_scaled_sizes_are_those_of_mmdetections_resize():
    from mmdet.datasets.transforms import Resize

    sizes = np.array([[640, 480], [480, 640], [2000, 300], [96, 96]])
    resize = Resize(scale=(1333, 800), keep_ratio=True)
    for size, ours in zip(sizes, scaled(sizes), strict=True):
        found = resize(dict(img=np.zeros((size[1], size[0], 3), np.uint8)))
        np.testing.assert_allclose(found['img_shape'][::-1], ours, atol=0.51)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """YOLO: 1 and 2 of `train` are one picture, and so are 3 of `train` and 1 of `val`."""
    root = tmp_path_factory.mktemp('yolo')
    labels = '0 0.5 0.5 0.05 0.5\n0 0.5 0.5 1 1\n2 0.5 0.5 0.3 0.3\n'
    for split, shades in (('train', (1, 1, 2, 3)), ('val', (2,))):
        for kind in ('images', 'labels'):
            (root / kind / split).mkdir(parents=True)
        for i, shade in enumerate(shades, 1):
            Image.new('L', (100, 50), shade).save(root / f'images/{split}/{i}.bmp')
            (root / f'labels/{split}/{i}.txt').write_text(labels if i < 4 else '')
    (root / 'classes.txt').write_text('cat\ndog\n[cow]\n')
    return root


@pytest.fixture(scope='module')
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SBZOO_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.mark.usefixtures('_cache')
def test_counts(folder):
    train, val = summaries(read_detection_folder(folder))
    assert train.boxes_by_class == [6, 0, 3]
    assert (train.empty, train.tiny, train.huge) == (1, 3, 3)
    assert train.aspect_ratios.tolist() == [2] * 4
    assert (len(val.boxes), val.empty) == (3, 0)


@pytest.mark.usefixtures('_cache')
def test_equal_pictures(folder):
    found = duplicates(summaries(read_detection_folder(folder)))
    named = [sorted((split, Path(path).name) for split, path in group) for group in found]
    assert sorted(named) == [
        [('train', '1.bmp'), ('train', '2.bmp')],
        [('train', '3.bmp'), ('val', '1.bmp')],
    ]


@pytest.mark.usefixtures('_cache')
def test_the_tool(folder):
    ended = tool('data', folder)
    assert ended.status == 1  # a picture is in both splits
    assert ended.errors.splitlines()[-1].startswith(f'error: {folder}: 1 picture is in both splits')
    assert 'same picture: images/train/3.bmp (train), images/val/1.bmp (val)' in ended.printed
    ended = tool('data', folder, '--allow-leaks')
    assert (ended.status, ended.errors) == (0, '')
    shown = [[cell.strip() for cell in line.split('│')[1:-1]] for line in ended.printed.split('\n')]
    assert ['pictures', '4', '1'] in shown
    assert ['copies', '1', '0'] in shown
    assert ['width / height', '2.00', '2.00'] in shown
    assert ['[cow]', '3 (33.3%)', '1 (33.3%)'] in shown
    assert '\nimbalance: cat has 6 boxes, dog 0\n' in ended.printed
    assert ended.printed.splitlines()[-1].startswith('next:    python ')


@pytest.mark.usefixtures('_cache')
def test_the_tool_lists_faults(folder, tmp_path):
    (tmp_path / 'images').symlink_to(folder / 'images')
    for split in ('train', 'val'):
        (tmp_path / f'labels/{split}').mkdir(parents=True)
        (tmp_path / f'labels/{split}/1.txt').write_text('0 1 2 3\n')
    ended = tool('data', tmp_path)
    assert ended.status == 1
    assert f'error: {tmp_path}: 2 problems in the YOLO labels' in ended.errors
    assert '\n  labels/val/1.txt:1: 4 numbers; ' in ended.errors
