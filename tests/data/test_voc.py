"""The layouts of Pascal VOC folders, and every fault in one by its line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sbzoo.data.detection_folder import read_detection_folder
from sbzoo.errors import UserError

XML = """<annotation>
<size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>41</xmax><ymax>26</ymax></bndbox>
</object>
</annotation>"""
MAIN = 'ImageSets/Main/{}.txt'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path_factory.mktemp('cache')))


def write(path: Path, xml: Path | None, text: str = XML) -> None:
    """A picture of 64x48 and its annotation."""
    for file in (path, xml or path):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (64, 48)).save(path)
    if xml:
        xml.write_text(text)


@pytest.fixture
def folder(tmp_path):
    for split, names in (('train', ('a', 'b')), ('val', ('c',))):
        for name in names:
            write(tmp_path / f'JPEGImages/{name}.jpg', tmp_path / f'Annotations/{name}.xml')
        file = tmp_path / MAIN.format(split)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('\n'.join(names))
    return tmp_path


def edit(folder: Path, old: str, new: str, name: str = 'a') -> None:
    file = folder / f'Annotations/{name}.xml'
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def problems(root: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_detection_folder(root)
    first, *others = str(caught.value).split('\n  ')
    assert str(root) in first
    return others or [first]


def boxes(root: Path) -> list[list[float]]:
    content = json.loads(read_detection_folder(root).train.ann_file.read_text())
    return [a['bbox'] for a in content['annotations']]


def test_boxes_are_counted_from_one(folder):
    assert boxes(folder) == [[10, 5, 30, 20]] * 2


@pytest.mark.parametrize(
    ('old', 'new', 'fault'),
    [
        (
            '<xmax>41',
            '<xmax>65',
            '3: xmin 11, ymin 6, xmax 65, ymax 26 of 64x48; a box is in its picture',
        ),
        (
            '<ymin>6',
            '<ymin>-2',
            '3: xmin 11, ymin -2, xmax 41, ymax 26 of 64x48; a box is in its picture',
        ),
        (
            '<xmax>41',
            '<xmax>9',
            '3: xmin 11, ymin 6, xmax 9, ymax 26; xmin is below xmax, and ymin below ymax',
        ),
        ('<xmax>41', '<xmax>nan', "3: xmax is 'nan'; corners are finite numbers"),
        ('<xmax>41</xmax>', '', "3: xmax is ''; corners are finite numbers"),
        (
            'bndbox',
            'robndbox',
            '3: no <bndbox>; an object has a bndbox with xmin, ymin, xmax, ymax',
        ),
        ('cat', ' ', '3: no <name>; an object has the name of its class'),
        ('<difficult>0', '<difficult>no', "3: difficult is 'no'; difficult is 0 or 1"),
        (
            '<width>64',
            '<width>48',
            '2: size is 48x48, and the picture is 64x48; the size is that of the picture as it is '
            'read, upright by its EXIF',
        ),
        (
            '</object>',
            '',
            ' not readable as XML: mismatched tag: line 6, column 2; it has to be well-formed',
        ),
    ],
)
def test_a_fault(folder, old, new, fault):
    edit(folder, old, new)
    assert problems(folder) == [f'Annotations/a.xml:{fault}']


def test_a_class_that_training_lacks(folder):
    edit(folder, 'cat', 'cow', 'c')
    valid = 'the classes of the training split are cat'
    assert problems(folder) == [f"Annotations/c.xml:3: class 'cow'; {valid}"]


def test_difficult_objects_are_left_out_of_training_and_evaluation(folder):
    edit(folder, '<difficult>0', '<difficult>1')
    found = read_detection_folder(folder).train
    assert found.counts == 'train: 2 images, 1 of them without boxes, 1 box, 1 crowd, 1 class'


def test_what_may_be_left_out(folder):
    edit(folder, '<difficult>0</difficult>', '')
    edit(folder, '<size><width>64</width><height>48</height><depth>3</depth></size>', '')
    edit(folder, '<xmin>11', '<xmin>0')  # many tools count from 0
    assert boxes(folder) == [[-1, 5, 41, 20], [10, 5, 30, 20]]


def test_names_in_a_list(folder):
    with (folder / MAIN.format('train')).open('a') as file:
        file.write('\nnone\n')
    valid = 'names are of pictures in JPEGImages'
    assert problems(folder) == [f"ImageSets/Main/train.txt:3: no picture 'none'; {valid}"]
    write(folder / 'JPEGImages/none.jpg', None)
    valid = 'a picture without objects has one without <object>'
    assert problems(folder) == [f'ImageSets/Main/train.txt:3: no Annotations/none.xml; {valid}']


def test_a_list_that_is_no_text(folder):
    (folder / MAIN.format('val')).write_bytes(b'c\xff')
    (line,) = problems(folder)
    assert 'val.txt: not a list in UTF-8: ' in line


def test_trainval_and_test(folder):
    (folder / MAIN.format('train')).rename(folder / MAIN.format('trainval'))
    (folder / MAIN.format('val')).rename(folder / MAIN.format('test'))
    assert read_detection_folder(folder).train.num_images == 2


def test_how_to_make_a_validation_split(folder, tmp_path):
    (folder / MAIN.format('val')).unlink()
    (line,) = problems(folder)
    assert line.startswith(f'{folder}: no validation split (looked for ImageSets/Main/val.txt, ')
    assert line.endswith(': move some of the names of another list to val.txt, one a line')


@pytest.mark.parametrize(
    ('pictures', 'labels'),
    [('{}', '{}'), ('JPEGImages/{}', 'Annotations/{}'), ('images/{}', 'Annotations/{}')],
)
def test_folders(tmp_path, pictures, labels):
    for split in ('train', 'valid'):
        root, other = (tmp_path / p.format(split) for p in (pictures, labels))
        write(root / 'a.png', other / 'a.xml')
        write(root / 'b.png', None)
    found = read_detection_folder(tmp_path)
    assert found.train.counts == 'train: 2 images, 1 of them without boxes, 1 box, 1 class'
    (other / 'c.xml').write_text(XML)
    (line,) = problems(tmp_path)
    assert line.startswith(f'{labels.format("valid")}/c.xml: no picture of that name; pictures (')


def test_one_name_twice(folder, tmp_path):
    for name in ('x/a', 'y/a'):
        write(tmp_path / f'set/train/{name}.png', tmp_path / f'set/train/{name}.xml')
    write(tmp_path / 'set/val/a.png', tmp_path / 'set/val/a.xml')
    lines = problems(tmp_path / 'set')
    valid = 'names are those of one file in a split'
    assert lines[0] == f'train/y/a.png: train/x/a.png; {valid}'


def test_plain_folder_without_splits(tmp_path):
    write(tmp_path / 'a.png', tmp_path / 'a.xml')
    (line,) = problems(tmp_path)
    assert 'no training split (looked for train)' in line
    assert line.endswith('folder train, or list names in ImageSets/Main')
