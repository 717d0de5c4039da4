"""What is found in a COCO-format folder, and every fault by its exact line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sbzoo.data.coco import CocoSplit, read_folder
from sbzoo.errors import UserError

Change = Callable[[dict], Any]

TRAIN = 'annotations/instances_train.json'
VAL = 'annotations/instances_val.json'
LEAK = f'the same file is in {TRAIN} (--allow-leaks lets it pass)'
LAYOUTS = {
    'coco': ('annotations/instances_{}2017.json', '{}2017'),
    'coco 2014 in images': ('annotations/instances_{}2014.json', 'images/{}2014'),
    'plain names': (TRAIN.replace('train', '{}'), 'images/{}'),
    'year in the annotations only': ('annotations/instances_{}2017.json', '{}'),
    'one folder of images': ('annotations/{}.json', 'images'),
    'images below the split': ('annotations/{}.json', '{}/images'),
    'images in the root': ('annotations/{}.json', '.'),
    'images beside the annotations': ('{}/_annotations.coco.json', '{}'),
    'labels and data': ('{}/labels.json', '{}/data'),
}


def polygon(x: int, y: int, w: int, h: int) -> list[list[int]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def content(first: int) -> dict:
    """Two images of 64x48, three annotations, and categories that are not in the order of id."""
    boxes = [[4, 4, 20, 10], [30, 8, 12, 12], [0, 0, 64, 48]]
    found = [
        {
            'id': first + i,
            'image_id': first + i % 2,
            'category_id': (7, 3, 3)[i],
            'bbox': box,
            'area': box[2] * box[3],
            'iscrowd': 0,
            'segmentation': polygon(*box),
        }
        for i, box in enumerate(boxes)
    ]
    found[2] |= {'iscrowd': 1, 'segmentation': {'counts': [0, 64 * 48], 'size': [48, 64]}}
    return {
        'images': [
            {'id': i, 'file_name': f'{i}.png', 'width': 64, 'height': 48}
            for i in (first, first + 1)
        ],
        'annotations': found,
        'categories': [{'id': 7, 'name': 'dog'}, {'id': 3, 'name': 'cat'}],
    }


def write_split(root: Path, name: str, data: dict, annotations: str, images: str) -> None:
    """Write one split, with a picture for each image that it lists."""
    path, folder = root / annotations.format(name), root / images.format(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1))
    for image in data['images']:
        picture = folder / image['file_name']
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (64, 48)).save(picture)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good folder: images 1 and 2 to train on, 101 and 102 to validate with."""
    for name, first in (('train', 1), ('val', 101)):
        write_split(tmp_path, name, content(first), 'annotations/instances_{}.json', '{}')
    return tmp_path


def edit(root: Path, change: Change, name: str = TRAIN) -> None:
    data = json.loads((root / name).read_text())
    change(data)
    (root / name).write_text(json.dumps(data))


def problems(root: Path) -> tuple[str, list[str]]:
    """The first line of the error that the folder raises, and the others."""
    with pytest.raises(UserError) as caught:
        read_folder(root)
    first, *others = str(caught.value).split('\n  ')
    return first, others


def test_a_good_folder(folder):
    found = read_folder(str(folder))
    assert found.root == folder
    assert found.classes == ('dog', 'cat')
    for split, file, name in ((found.train, TRAIN, 'train'), (found.val, VAL, 'val')):
        counts = f'{file}: 2 images, 2 boxes, 1 crowd, 2 classes'
        assert split == CocoSplit(
            folder / file, folder / name, ('dog', 'cat'), 2, 3, None, False, 48, counts
        )


def test_names_are_read_as_utf_8(folder):
    for name in (TRAIN, VAL):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace('"dog"', '"犬"'), encoding='utf-8')
    assert read_folder(folder).classes == ('犬', 'cat')


def test_counts_and_classes_are_those_of_pycocotools(folder):
    coco = pytest.importorskip('pycocotools.coco')
    for split in (read_folder(folder).train, read_folder(folder).val):
        theirs = coco.COCO(split.ann_file)
        labels = theirs.getCatIds(catNms=split.classes)
        assert tuple(category['name'] for category in theirs.loadCats(labels)) == split.classes
        assert len(theirs.getImgIds()) == split.num_images
        assert len(theirs.getAnnIds()) == split.num_boxes


@pytest.mark.parametrize('val', ['val', 'valid', 'validation', 'test'])
@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path, layout, val):
    for name, first in (('train', 1), (val, 101)):
        write_split(tmp_path, name, content(first), *layout)
    found = read_folder(tmp_path)
    for split, name in ((found.train, 'train'), (found.val, val)):
        assert split.ann_file == tmp_path / layout[0].format(name)
        assert split.image_dir == tmp_path / layout[1].format(name)


def test_file_names_may_lead_from_the_root(tmp_path):
    for name, first in (('train', 1), ('val', 101)):
        data = content(first)
        for image in data['images']:
            image['file_name'] = f'{name}/deep/{image["file_name"]}'
        write_split(tmp_path, name, data, 'annotations/instances_{}.json', '.')
    assert read_folder(tmp_path).train.image_dir == tmp_path


def test_val_is_preferred_to_test(folder):
    write_split(folder, 'test', content(201), 'annotations/instances_{}.json', '{}')
    assert read_folder(folder).val.ann_file == folder / VAL


@pytest.mark.parametrize(
    ('segmentation', 'iscrowd', 'has_masks'),
    [
        ({'counts': [0, 64 * 48], 'size': [48, 64]}, 0, True),
        ({'counts': '0PP3', 'size': [48, 64]}, 0, True),  # as pycocotools writes the same
        ([], 0, False),
        ([[]], 0, False),
        ({}, 0, False),
        (None, 0, False),
        (None, 1, False),
    ],
)
def test_masks(folder, segmentation, iscrowd, has_masks):
    change = {'segmentation': segmentation, 'iscrowd': iscrowd}
    edit(folder, lambda data: data['annotations'][0].update(change))
    assert read_folder(folder).train.has_masks is has_masks
    assert read_folder(folder).val.has_masks


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match='nowhere: no such folder'):
        read_folder(tmp_path / 'nowhere')


def test_nothing_found(tmp_path):
    (tmp_path / 'notes.txt').touch()
    first, (train, val) = problems(tmp_path)
    assert first == f'{tmp_path}: 2 problems in the layout'
    assert train == (
        'no annotations for train: looked for annotations/instances_train*.json,'
        ' annotations/train.json, train/_annotations.coco.json, train/labels.json;'
        ' the folder holds notes.txt'
    )
    assert 'valid/_annotations.coco.json' in val
    assert 'annotations/instances_test*.json' in val


def test_one_split_missing(folder):
    (folder / VAL).rename(folder / 'annotations/other.json')
    first, (line,) = problems(folder)
    assert first == f'{folder}: 1 problem in the layout'
    assert line.startswith('no annotations for val: looked for annotations/instances_val*.json,')
    assert line.endswith(f'; the folder holds {TRAIN}, annotations/other.json')


def test_two_files_for_one_split(folder):
    write_split(folder, 'train', content(1), '{}/_annotations.coco.json', '{}')
    _, lines = problems(folder)
    assert lines == [
        f'more than one annotation file for train: {TRAIN}, train/_annotations.coco.json'
    ]


def images(**values: Any) -> Change:
    return lambda data: data['images'][0].update(values)


def annotations(**values: Any) -> Change:
    return lambda data: data['annotations'][0].update(values)


def box(*values: Any) -> Change:
    return annotations(bbox=list(values))


def drop(section: str, field: str) -> Change:
    return lambda data: data[section][0].pop(field)


FAULTS = [
    (lambda data: data.pop('images'), 'no images'),
    (lambda data: data.pop('annotations'), 'no annotations'),
    (lambda data: data.update(images={}), 'images is {}, not a list with entries'),
    (lambda data: data.update(images=[]), 'images is [], not a list with entries'),
    (lambda data: data.update(annotations=[]), 'annotations is [], not a list with entries'),
    (lambda data: data.update(categories=None), 'categories is None, not a list with entries'),
    (
        lambda data: data['images'].append(dict(data['images'][0], file_name='2.png')),
        'image 1 (2.png): duplicate id 1',
    ),
    (
        lambda data: data['annotations'].append(data['annotations'][0]),
        'annotation 1 (image 1): duplicate id 1',
    ),
    (annotations(image_id=9), 'annotation 1 (image 9): image_id 9 is not in images'),
    (annotations(category_id=5), 'annotation 1 (image 1): category_id 5 is not in categories'),
    (drop('annotations', 'bbox'), 'annotation 1 (image 1): no bbox'),
    (drop('annotations', 'area'), 'annotation 1 (image 1): no area'),
    (drop('annotations', 'id'), 'annotation ? (image 1): no id in annotations[0]'),
    (annotations(image_id=[1]), 'annotation 1 (image [1]): image_id is [1], not a whole number'),
    (annotations(area='9'), "annotation 1 (image 1): area is '9', not a finite number"),
    (annotations(iscrowd=2), 'annotation 1 (image 1): iscrowd is 2, not 0 or 1'),
    (box(1, 2, 3), 'annotation 1 (image 1): bbox is [1, 2, 3], not four finite numbers'),
    (
        box(1, 2, 3, float('nan')),
        'annotation 1 (image 1): bbox is [1, 2, 3, nan], not four finite numbers',
    ),
    (
        box(1, 2, '3', 4),
        "annotation 1 (image 1): bbox is [1, 2, '3', 4], not four finite numbers",
    ),
    (box(10, 5, 0, 8), 'annotation 1 (image 1): box [10, 5, 0, 8] has no area'),
    (box(10, 5, 8, -8), 'annotation 1 (image 1): box [10, 5, 8, -8] has no area'),
    (box(10, 5, 0.5, 8), 'annotation 1 (image 1): box [10, 5, 0.5, 8] has a side below one pixel'),
    (
        annotations(area=0),
        'annotation 1 (image 1): area is 0, and MMDetection drops such boxes: give width x height',
    ),
    (
        annotations(area=1e11),
        'annotation 1 (image 1): area is 100000000000.0, and COCO evaluates up to 1e+10',
    ),
    (
        annotations(ignore=1),
        'annotation 1 (image 1): ignore is 1: MMDetection trains without this box, and evaluates'
        ' with it; iscrowd 1 leaves it out of both',
    ),
    (
        box(4, 4, 1e9, 8),
        'annotation 1 (image 1): box [4, 4, 1000000000.0, 8] reaches far past its 64x48 image',
    ),
    (
        annotations(segmentation=[[1, 2, 3, 4]]),
        'annotation 1 (image 1): polygon 1 has 4 number(s), not x and y of three points or more',
    ),
    (
        lambda data: [a.update(iscrowd=1) for a in data['annotations']],
        'no box to learn from: each is a crowd (iscrowd 1), ignored, empty or outside of its image',
    ),
    (
        lambda data: [a.update(bbox=[v / 64 for v in a['bbox']]) for a in data['annotations']],
        'boxes are fractions of their image, as no value is above 1; bbox is in pixels',
    ),
    (
        lambda data: [a.update(bbox=[40, 30, 30, 40]) for a in data['annotations'][:2]],
        '2 of 3 boxes reach past their image, the first is annotation 1, [40, 30, 30, 40] of 64x48:'
        ' bbox is x, y, width, height in pixels',
    ),
    (
        lambda data: [a.update(bbox=[40, 30, 60, 48]) for a in data['annotations']],
        '3 of 3 boxes reach past their image, the first is annotation 1, [40, 30, 60, 48] of 64x48:'
        ' they are corners x1, y1, x2, y2, it seems; bbox is x, y, width, height in pixels',
    ),
    (images(width=64.0), 'image 1 (1.png): width is 64.0, not a positive whole number'),
    (
        lambda data: data['images'][1].update(width=63),
        'image 2 (2.png): the picture is 64x48, and 63x48 is annotated',
    ),
    (box(64, 5, 8, 8), 'annotation 1 (image 1): box [64, 5, 8, 8] is outside its 64x48 image'),
    (box(5, 48, 8, 8), 'annotation 1 (image 1): box [5, 48, 8, 8] is outside its 64x48 image'),
    (box(-8, 5, 8, 8), 'annotation 1 (image 1): box [-8, 5, 8, 8] is outside its 64x48 image'),
    (box(5, -9, 8, 8), 'annotation 1 (image 1): box [5, -9, 8, 8] is outside its 64x48 image'),
    (drop('images', 'width'), 'image 1 (1.png): no width'),
    (images(height=0), 'image 1 (1.png): height is 0, not a positive whole number'),
    (drop('images', 'file_name'), 'image 1 (?): no file_name'),
    (images(file_name=''), "image 1 (): file_name is '', not a non-empty string"),
]


@pytest.mark.parametrize(('change', 'line'), FAULTS, ids=[line for _, line in FAULTS])
def test_a_fault_is_named(folder, change, line):
    edit(folder, change)
    assert problems(folder) == (
        f'{folder}: 1 problem in the annotations',
        [f'{TRAIN}: {line}'],
    )


@pytest.mark.parametrize(
    ('second', 'line'),
    [
        ({'id': 7, 'name': 'cat'}, 'category 7 (cat): duplicate id 7'),
        ({'id': 3, 'name': 'dog'}, "category 3 (dog): duplicate name 'dog'"),
    ],
)
def test_a_category_that_occurs_twice(folder, second, line):
    for name in (TRAIN, VAL):
        edit(folder, lambda data: data.update(categories=[data['categories'][0], second]), name)
        edit(folder, lambda data: [a.update(category_id=7) for a in data['annotations']], name)
    assert problems(folder)[1] == [f'{TRAIN}: {line}', f'{VAL}: {line}']


def test_a_category_without_a_name(folder):
    for name in (TRAIN, VAL):
        edit(folder, drop('categories', 'name'), name)
    assert problems(folder)[1] == [f'{name}: category 7 (?): no name' for name in (TRAIN, VAL)]


@pytest.mark.parametrize('change', [box(63.5, 47.5, 9, 9), box(-8, -8, 8.5, 8.5)])
def test_a_box_may_reach_over_the_edge(folder, change):
    edit(folder, change)
    read_folder(folder)


def test_an_image_may_have_no_boxes(folder):
    edit(folder, lambda data: [a.update(image_id=1) for a in data['annotations']])
    assert read_folder(folder).train.counts == (
        f'{TRAIN}: 2 images, 1 of them without boxes, 2 boxes, 1 crowd, 2 classes'
    )


def test_a_truncated_file(folder):
    text = (folder / TRAIN).read_text()
    (folder / TRAIN).write_text('\n'.join(text.splitlines()[:12]) + '\n  "id"')
    _, (line,) = problems(folder)
    assert line.startswith(f'{TRAIN}: not readable as JSON: ')
    assert 'line 13 column 7' in line


DEEP = b'[' * 100_000 + b']' * 100_000


@pytest.mark.parametrize('written', [b'', b'\xff\xd8\xff\xe0', b'train.json', DEEP])
def test_a_file_that_is_no_json(folder, written):
    (folder / TRAIN).write_bytes(written)
    _, (line,) = problems(folder)
    assert line.startswith(f'{TRAIN}: not readable as JSON: ')


def test_a_key_that_occurs_twice(folder):
    text = (folder / TRAIN).read_text()
    (folder / TRAIN).write_text(text.replace('"area"', '"area": 1, "area"', 1))
    line = "not readable as JSON: key 'area' occurs twice in one object"
    assert problems(folder)[1] == [f'{TRAIN}: {line}']


def test_a_file_that_is_a_bare_list(folder):
    (folder / TRAIN).write_text('[1, 2]')
    missing = [f'{TRAIN}: no {section}' for section in ('images', 'annotations', 'categories')]
    assert problems(folder)[1] == missing


def test_an_entry_that_is_no_object(folder):
    edit(folder, lambda data: data['annotations'].append(7))
    assert f'{TRAIN}: annotation ? (image ?): no id in annotations[3]' in problems(folder)[1]


def link(target: Path, path: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def test_a_missing_image(folder):
    (folder / 'train/2.png').unlink()
    assert problems(folder)[1] == [f'{TRAIN}: image 2 (2.png): no such file in {folder / "train"}']


@pytest.mark.parametrize('name', ['train/1.png', '1.png/', 'no\0path/1.png', '..'])
def test_a_name_that_leads_nowhere(folder, name):
    edit(folder, images(file_name=name))
    assert problems(folder)[1] == [f'{TRAIN}: image 1 ({name}): no such file in {folder / "train"}']


def test_a_dangling_link(folder):
    link(folder / 'gone.png', folder / 'train/2.png')
    assert problems(folder)[1] == [f'{TRAIN}: image 2 (2.png): no such file in {folder / "train"}']


@pytest.mark.parametrize(
    ('categories', 'lines'),
    [
        (
            [(7, 'dog'), (3, 'bird')],
            ['category 3 (bird) where {} has category 3 (cat)'],
        ),
        (
            [(3, 'cat'), (7, 'dog')],
            [
                'category 3 (cat) where {} has category 7 (dog)',
                'category 7 (dog) where {} has category 3 (cat)',
            ],
        ),
        ([(7, 'dog'), (3, 'cat'), (8, 'bird')], ['category 8 (bird) where {} has nothing']),
    ],
    ids=['another name', 'another order', 'one more'],
)
def test_splits_of_other_categories(folder, categories, lines):
    listed = [{'id': number, 'name': name} for number, name in categories]
    edit(folder, lambda data: data.update(categories=listed), VAL)
    assert problems(folder)[1] == [f'{VAL}: {line.format(TRAIN)}' for line in lines]


def test_one_file_in_both_splits(folder):
    link(folder / 'train/2.png', folder / 'val/101.png')
    assert problems(folder)[1] == [f'{VAL}: image 101 (101.png): {LEAK}']
    assert read_folder(folder, allow_leaks=True).val.num_images == 2


def turn(path: Path, orientation: int, size: tuple[int, int] = (64, 48)) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new('RGB', size).save(path, exif=exif)


def test_a_picture_that_is_turned_as_it_is_read(folder):
    turn(folder / 'train/1.png', 6)
    assert problems(folder)[1] == [
        f'{TRAIN}: image 1 (1.png): its EXIF orientation turns it from 64x48 to 48x64 as it is'
        ' read, and 64x48 is annotated: turn the boxes, or remove the orientation'
    ]
    turn(folder / 'train/1.png', 6, (48, 64))  # to what is annotated
    assert '1 of them turned upright by EXIF' in read_folder(folder).train.counts


@pytest.mark.parametrize('data', [b'hello', b''])
def test_a_picture_that_is_none(folder, data):
    (folder / 'val/101.png').write_bytes(data)
    fault = 'not an image' if data else 'the file is empty'
    assert problems(folder)[1] == [f'{VAL}: image 101 (101.png): {fault}']


def test_one_linked_image_folder_for_both_splits(folder):
    (folder / VAL).write_text((folder / TRAIN).read_text())
    (folder / 'val').rename(folder / 'other')
    (folder / 'val').symlink_to(folder / 'train')
    assert problems(folder)[1] == [f'{VAL}: image {i} ({i}.png): {LEAK}' for i in (1, 2)]


def test_one_image_folder_for_both_splits(tmp_path):
    for name in ('train', 'val'):
        write_split(tmp_path, name, content(1), 'annotations/instances_{}.json', 'images')
    assert problems(tmp_path)[1] == [f'{VAL}: image {i} ({i}.png): {LEAK}' for i in (1, 2)]


def test_one_name_in_both_splits_is_no_leak(tmp_path):
    for name in ('train', 'val'):
        write_split(tmp_path, name, content(1), 'annotations/instances_{}.json', '{}')
    read_folder(tmp_path)


def test_all_problems_are_listed_at_once(folder):
    edit(folder, lambda data: (box(1, 1, 0, 5)(data), annotations(category_id=5)(data)))
    edit(folder, lambda data: data['images'].pop(0), VAL)
    (folder / 'train/1.png').unlink()
    first, lines = problems(folder)
    assert first == f'{folder}: 5 problems in the annotations'
    assert lines == [
        f'{TRAIN}: annotation 1 (image 1): category_id 5 is not in categories',
        f'{TRAIN}: annotation 1 (image 1): box [1, 1, 0, 5] has no area',
        f'{TRAIN}: image 1 (1.png): no such file in {folder / "train"}',
        f'{VAL}: annotation 101 (image 101): image_id 101 is not in images',
        f'{VAL}: annotation 103 (image 101): image_id 101 is not in images',
    ]


def test_an_unreadable_file_does_not_hide_the_other(folder):
    (folder / TRAIN).write_text('{')
    edit(folder, annotations(bbox=[1, 1, 0, 5]), VAL)
    assert problems(folder)[1][1:] == [
        f'{VAL}: annotation 101 (image 101): box [1, 1, 0, 5] has no area'
    ]


def test_only_the_first_of_each_kind_are_shown(folder):
    extra = [dict(content(1)['annotations'][0], id=10 + i, bbox=[i, 0, 0, 1]) for i in range(33)]
    edit(folder, lambda data: data['annotations'].extend(extra))
    edit(folder, annotations(category_id=5))
    first, lines = problems(folder)
    assert first == f'{folder}: 34 problems in the annotations'
    assert lines[1:] == [
        f'{TRAIN}: annotation {10 + i} (image 1): box [{i}, 0, 0, 1] has no area' for i in range(10)
    ] + ['... and 23 more']


def test_a_folder_is_listed_once_however_many_files_it_holds(folder, monkeypatch):
    listed = []
    scandir = os.scandir
    monkeypatch.setattr('sbzoo.data.coco.os.scandir', lambda p: listed.append(p) or scandir(p))
    read_folder(folder)
    assert listed.count(str(folder / 'train')) == 1


def test_crowd_flag_may_be_absent(folder):
    edit(folder, lambda data: data['annotations'][0].pop('iscrowd'))
    assert read_folder(folder).train.has_masks


def test_empty_boxes_may_be_dropped(folder):
    edit(folder, box(10, 5, 0, 8))
    with pytest.raises(UserError, match='has no area'):
        read_folder(folder)
    edit(folder, annotations(area=0, bbox=[10, 5, 8, 8]), VAL)
    found = read_folder(folder, drop_empty_boxes=True)
    for split in (found.train, found.val):
        assert split.counts.endswith(
            '2 images, 1 of them without boxes, 1 box, 1 crowd, 1 dropped, 2 classes'
        )
