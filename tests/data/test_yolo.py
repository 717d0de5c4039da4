"""The layouts of YOLO folders, and every fault in one by its line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sbzoo.data.detection_folder import read_detection_folder
from sbzoo.errors import UserError

BOX = '0 0.5 0.5 0.5 0.5\n'
LINE = 'a line is class cx cy w h (a box) or class x1 y1 x2 y2 x3 y3 ... (a polygon)'
FRACTION = 'coordinates are fractions of width and height, 0 to 1'
CLASSES = 'classes are whole numbers, 0 to 1'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path_factory.mktemp('cache')))


def picture(path: Path, labels: str | None = BOX, shade: int = 0) -> None:
    """A picture of 64x48 in a folder `images`, and its labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (64, 48), (shade,) * 3).save(path)
    if labels is not None:
        file = Path(str(path).replace('images', 'labels')).with_suffix('.txt')
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(labels)


@pytest.fixture
def folder(tmp_path):
    for split in ('train', 'val'):
        for name in ('a', 'b'):
            picture(tmp_path / f'images/{split}/{name}.png')
    (tmp_path / 'data.yaml').write_text('train: images/train\nval: images/val\nnames: [cat, dog]\n')
    return tmp_path


def problems(root: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_detection_folder(root)
    first, *others = str(caught.value).split('\n  ')
    assert str(root) in first
    return others or [first]


@pytest.mark.parametrize(
    ('line', 'fault'),
    [
        ('0 0.5 0.5 0.5', f'4 numbers; {LINE}'),
        ('0 0.5 0.5 0.5 0.5 0.9', f'6 numbers; {LINE}'),
        ('0 0.1 0.1 0.5 0.5 0.9 0.2 0.3', f'8 numbers; {LINE}'),
        ('0', f'1 number; {LINE}'),
        ('0 1.1 0.5 0.5 0.5', f'the coordinate 1.1; {FRACTION}'),
        ('0 0.5 -0.01 0.5 0.5', f'the coordinate -0.01; {FRACTION}'),
        ('0 32 24 32 24', f'the coordinate 32; {FRACTION}'),
        ('0 0.1 0.1 0.5 0.1 0.5 1.2', f'the coordinate 1.2; {FRACTION}'),
        ('2 0.5 0.5 0.5 0.5', f'class 2; {CLASSES}'),
        ('-1 0.5 0.5 0.5 0.5', f'class -1; {CLASSES}'),
        ('0.5 0.5 0.5 0.5 0.5', f'class 0.5; {CLASSES}'),
        ('0 nan 0.5 0.5 0.5', f"'nan' is no finite number; {LINE}"),
        ('0 0.5 inf 0.5 0.5', f"'inf' is no finite number; {LINE}"),
        ('cat 0.5 0.5 0.5 0.5', f"'cat' is no finite number; {LINE}"),
        ('0,0.5,0.5,0.5,0.5', f"'0,0.5,0.5,0.5,0.5' is no finite number; {LINE}"),
        ('\udcff\udcfe', f"'\ufffd\ufffd' is no finite number; {LINE}"),
    ],
)
def test_a_line_that_is_none(folder, line, fault):
    text = f'{BOX}\n{line}\n'.encode('utf-8', 'surrogateescape')
    (folder / 'labels/val/a.txt').write_bytes(text)
    assert problems(folder) == [f'labels/val/a.txt:3: {fault}']


def test_rounding_passes(folder):
    (folder / 'labels/train/a.txt').write_text('1.0 0.5 0.5 1.0000005 1\n')
    polygon = '1 -0.0000001 0 1.0009 0 1 1 0 1\n'
    (folder / 'labels/train/b.txt').write_text(polygon)
    box, outline = json.loads(read_detection_folder(folder).train.ann_file.read_text())[
        'annotations'
    ]
    assert box['bbox'] == [0, 0, 64, 48]
    assert outline['bbox'] == [0, 0, 64, 48]
    assert outline['segmentation'] == [[0, 0, 64, 0, 64, 48, 0, 48]]
    assert outline['area'] == 64 * 48


def test_many_faults_are_the_first_of_each_kind(folder):
    (folder / 'labels/train/a.txt').write_text('0 0.5 0.5 0.5\n' * 20 + '7 0.5 0.5 0.5 0.5\n')
    lines = problems(folder)
    assert lines[0] == f'labels/train/a.txt:1: 4 numbers; {LINE}'
    assert lines[10:] == ['... and 10 more', f'labels/train/a.txt:21: class 7; {CLASSES}']


def test_a_label_without_a_picture(folder):
    (folder / 'labels/train/c.txt').write_text(BOX)
    valid = 'pictures are looked for in images/train'
    assert problems(folder) == [f'labels/train/c.txt: no picture of that name; {valid}']


def test_pictures_without_labels_are_background_and_counted(folder):
    (folder / 'labels/train/a.txt').unlink()
    (folder / 'labels/val/b.txt').write_text('')
    found = read_detection_folder(folder)
    assert found.train.counts == 'train: 2 images, 1 of them without boxes, 1 box, 2 classes'
    assert found.val.counts == 'val: 2 images, 1 of them without boxes, 1 box, 2 classes'


def test_no_labels_at_all(folder):
    for name in ('a', 'b'):
        (folder / f'labels/val/{name}.txt').unlink()
    valid = 'labels are looked for in labels/val'
    assert problems(folder) == [f'val: 2 pictures and no label; {valid}']


def test_two_pictures_of_one_label(folder):
    picture(folder / 'images/train/a.bmp', None)
    valid = 'pictures of one name would share their labels'
    assert problems(folder) == [f'images/train/a.png: images/train/a.bmp; {valid}']


def test_a_picture_that_exif_turns_is_labelled_as_it_is_read(folder):
    path = folder / 'images/train/a.png'
    exif = Image.Exif()
    exif[0x0112] = 6
    path.unlink()
    Image.new('RGB', (64, 48)).save(path.with_suffix('.jpg'), exif=exif)
    content = json.loads(read_detection_folder(folder).train.ann_file.read_text())
    turned = next(i for i in content['images'] if i['file_name'].endswith('.jpg'))
    assert (turned['width'], turned['height']) == (48, 64)
    box = next(a['bbox'] for a in content['annotations'] if a['image_id'] == turned['id'])
    assert box == [12, 16, 24, 32]


@pytest.mark.parametrize('val', ['val', 'valid', 'validation', 'test'])
@pytest.mark.parametrize('layout', ['images/{}', '{}/images'])
def test_folders_without_data_yaml(tmp_path, layout, val):
    for split in ('train', val):
        picture(tmp_path / layout.format(split) / 'a.png', '10 0.5 0.5 0.5 0.5\n' + BOX)
    found = read_detection_folder(tmp_path)
    assert found.classes == ('0', '10')
    (tmp_path / 'classes.txt').write_text('\n'.join(f'c{i}' for i in range(11)))
    assert read_detection_folder(tmp_path).classes[10] == 'c10'


def test_a_class_that_training_lacks(tmp_path):
    picture(tmp_path / 'images/train/a.png')
    picture(tmp_path / 'images/val/a.png', '1 0.5 0.5 0.5 0.5\n')
    valid = 'the classes of the training split are 0'
    assert problems(tmp_path) == [f"labels/val/a.txt:1: class '1'; {valid}"]


@pytest.mark.parametrize(
    ('text', 'at'),
    [
        ('train: ../train/images\nval: ../valid/images', '{}/images'),  # Roboflow
        ('path: /nowhere\ntrain: images/train\nval: images/valid', 'images/{}'),
        ('path: sub\ntrain: [images/train]\nval: images/valid', 'sub/images/{}'),
        ('train: train.txt\nval: images/valid', 'images/{}'),
    ],
)
def test_places_in_data_yaml(tmp_path, text, at):
    root = tmp_path / 'set'
    for split in ('train', 'valid'):
        picture(root / at.format(split) / 'a.png')
    (root / 'train.txt').write_text('./images/train/a.png\n')
    (root / 'data.yaml').write_text(f'{text}\nnc: 1\nnames:\n  0: cat\n')
    for given in (root, root / 'data.yaml'):
        found = read_detection_folder(given)
        assert (found.classes, found.train.num_boxes, found.val.num_images) == (('cat',), 1, 1)


@pytest.mark.parametrize(
    ('text', 'fault'),
    [
        ('train: images/train\nnames: [cat, dog]', 'no validation split (looked for val, valid, '),
        (
            'train: images/train\nval: images/v\nnames: [cat]',
            "val is 'images/v', and there is no ",
        ),
        ('train: images/train\nval: images/val\nnames: [a, a]', "the class 'a' is there twice"),
        ('train: images/train\nval: images/val\nnames: 2', 'names is 2, not a list of the classes'),
        (
            'train: images/train\nval: images/val\nnames: {1: a}',
            'names has the keys [1], not 0, 1, 2',
        ),
        (
            'train: images/train\nval: images/val\nnc: 3\nnames: [a]',
            'nc is 3, and there are 1 name',
        ),
        ('train: [', 'not readable as YAML'),
    ],
)
def test_faults_of_data_yaml(folder, text, fault):
    (folder / 'data.yaml').write_text(text)
    (line,) = problems(folder)
    assert fault in line


def test_how_to_make_a_validation_split(tmp_path):
    picture(tmp_path / 'images/train/a.png')
    assert problems(tmp_path) == [
        f'{tmp_path}: no validation split (looked for val, valid, validation, test): put pictures '
        'into images/train and images/val, labels into labels/train and labels/val'
    ]


def test_several_data_yaml(folder):
    (folder / 'other.yaml').write_text((folder / 'data.yaml').read_text())
    (line,) = problems(folder)
    assert line.endswith(
        f'several of data.yaml, other.yaml; give one: --data {folder / "data.yaml"}'
    )
    assert read_detection_folder(folder / 'other.yaml').train.num_images == 2
