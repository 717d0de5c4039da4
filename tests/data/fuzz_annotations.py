"""Random faults in a COCO-format folder: each is refused by name, or all of it can be trained on.

A fault is in the JSON text, in its values or in a picture, and follows from its seed.

    python tests/data/fuzz_annotations.py --count 500

runs each in a process of its own, whose memory is measured. What is accepted is read through
MMDetection's data set and pipeline, masks included, and evaluated; a detector takes a step on it.
The first 60 are a test.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, METRICS, MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.dataset import pseudo_collate
from PIL import Image
from pycocotools import mask as rle

from sbzoo.data.coco import CocoSplit, read_folder
from sbzoo.engine.options.config import load_config
from sbzoo.errors import UserError

LIMIT = 2 * 2**30  # bytes that a process may take
SECONDS = 60
WIDTH, HEIGHT = 64, 48
BOXES = [[4, 4, 20, 10], [30, 8, 12, 12], [2, 3, 50, 40]]
VALUES = [
    None, True, False, 0, 1, -1, 2, 0.5, 1.0, -0.0, 1e-9, 1e9, 1e18, 1e300, 10**30, 2**31, 2**53,
    2**63, 2**64, -(2**63), 10**400, float('nan'), float('inf'), float('-inf'), 'INFINITE',
    '', 'x', '1', 'é', '\ud800', '\0', '../..', '/etc/passwd', 'a' * 10_000, 'train/1.jpg',
    [], [[]], [[[]]], [0], [1, 2], [1, 2, 3, 4], [[1, 2, 3, 4]], [None] * 4, ['1'] * 4, [[1] * 6],
    {}, {'id': 1}, {'size': [48, 64]}, {'counts': []}, {'size': [HEIGHT, WIDTH], 'counts': 'abc'},
]  # fmt: skip
SEGMENTATIONS = [
    [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5, 6, 7]],
    [[1, 2, 3, 4, 5, float('nan')]], [[1, 2, 3, float('inf'), 5, 6]], [[1, 2, 3, 4, 5, 1e9]],
    [[1, 2, 3, 4, 5, -1e300]], [[1, 2, 3, 4, 5, 10**30]], [['a'] * 6], [[None] * 6], [[], [1] * 6],
    [[[1, 2], [3, 4], [5, 6]]], [[0] * 6], [[1, 1, 9, 9, 1, 1]], [[-60, -40, 120, 5, 9, 90]],
    {'size': [10**9, 10**9], 'counts': [10**18]}, {'size': [10**9, 10**9], 'counts': '0PP3'},
    {'size': [48, 64], 'counts': [48 * 64]}, {'size': [48, 64], 'counts': '0PP3'},
    {'size': [48, 64], 'counts': [0, 2**32 + 48 * 64]}, {'size': [48, 64], 'counts': [-1, 3073]},
    {'size': [64, 48], 'counts': [3072]}, {'size': [48.0, 64.0], 'counts': [3072]},
    {'size': [48, 64], 'counts': [3072.0]}, {'size': [48, 64], 'counts': 'p' * 5000},
    {'size': [48, 64], 'counts': 'o' * 5000}, {'size': [48, 64], 'counts': 'é'},
    {'size': [48, 64], 'counts': []}, {'size': [48, 64]}, {'counts': [3072]}, {'size': 48},
    'polygon', 7, True, [], [[]], {}, None, '',
]  # fmt: skip
TEXTS: list[Callable[[bytes, random.Random], bytes]] = [
    lambda text, rng: text[: rng.randrange(len(text))],
    lambda text, rng: text[rng.randrange(len(text)) :],
    lambda text, rng: b''.join((text[: (i := rng.randrange(len(text)))], text[i + 9 :])),
    lambda text, rng: text.replace(rng.choice(b'0123456789').to_bytes(1, 'big'), b'-', 1),
    lambda text, rng: b''.join((text[: (i := rng.randrange(len(text)))], b'\xff', text[i + 1 :])),
    lambda text, rng: b''.join((text[: (i := rng.randrange(len(text)))], b'"', text[i + 1 :])),
    lambda text, _: b'\xef\xbb\xbf' + text,
    lambda text, _: text.decode().encode('utf-16'),
    lambda text, _: text.replace(b'"dog"', '"hündchen"'.encode('latin-1')),
    lambda text, _: b'[' * 100_000 + text,
    lambda text, _: text.replace(b'"dog"', b'[' * 100_000 + b']' * 100_000),
    lambda text, _: b'[' + text + b']',
    lambda text, _: text + text,
    lambda text, _: text[:-1] + b', "annotations": []}',
    lambda text, _: text.replace(b'"bbox"', b'"bbox": [1, 1, 9, 9], "bbox"', 1),
    lambda text, rng: text.replace(b'"area": ', b'"area": ' + b'9' * rng.choice((400, 5000)), 1),
    lambda text, _: text.replace(b'"area": ', b'"area": 0', 1),
    lambda text, _: b'',
    lambda text, _: b'null',
]


def annotation(number: int, image: int, box: list[int]) -> dict:
    x, y, w, h = box
    return dict(
        id=number,
        image_id=image,
        category_id=(7, 3)[number % 2],
        bbox=box,
        area=w * h,
        iscrowd=0,
        segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
    )


def sound_folder(root: Path) -> None:
    """Two splits of three pictures, with polygons, run lengths of both kinds and a crowd."""
    (root / 'annotations').mkdir(parents=True)
    for name in ('train', 'val'):
        (root / name).mkdir()
        files = [f'{i}.{ending}' for i, ending in enumerate(('jpg', 'png', 'bmp'), 1)]
        for file in files:
            pixels = np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / file)
        found = [annotation(1 + i, 1 + i % 3, box) for i, box in enumerate(BOXES * 2)]
        coded = rle.frPyObjects(found[1]['segmentation'], HEIGHT, WIDTH)[0]
        found[1]['segmentation'] = dict(size=coded['size'], counts=coded['counts'].decode())
        found[2]['segmentation'] = dict(size=[HEIGHT, WIDTH], counts=[99, HEIGHT * WIDTH - 99])
        found[5] |= dict(iscrowd=1, segmentation=dict(size=[HEIGHT, WIDTH], counts=[0, 3072]))
        content = dict(
            images=[
                dict(id=i, file_name=file, width=WIDTH, height=HEIGHT)
                for i, file in enumerate(files, 1)
            ],
            annotations=found,
            categories=[dict(id=7, name='dog'), dict(id=3, name='cat')],
        )
        (root / f'annotations/{name}.json').write_text(json.dumps(content))


def spoil(root: Path, seed: int) -> str:
    """Put the fault of a seed into a sound folder, and tell what it is."""
    rng = random.Random(seed)
    path = root / f'annotations/{rng.choice(("train", "train", "val"))}.json'
    kind = rng.choice((text_fault, *[value_fault] * 4, *[box_fault] * 2, *[mask_fault] * 2))
    return picture_fault(path, rng) if seed % 5 == 4 else kind(path, rng)


def text_fault(path: Path, rng: random.Random) -> str:
    which = rng.randrange(len(TEXTS))
    path.write_bytes(TEXTS[which](path.read_bytes(), rng))
    return f'text {which}'


def value_fault(path: Path, rng: random.Random) -> str:
    """Another value somewhere in the tree, of one entry or of all, or none."""
    content = json.loads(path.read_text())
    section = rng.choice(('images', 'annotations', 'annotations', 'categories'))
    name = rng.choice((None, *content[section][0], 'ignore'))
    value = rng.choice(VALUES)
    entries = content[section] if rng.random() < 0.3 else [rng.choice(content[section])]
    how = rng.choice(('set', 'set', 'set', 'drop', 'repeat', 'inside'))
    if name is None:
        content[section] = dict(set=value, drop=[], repeat=content[section] * 2).get(how, [value])
    else:
        for entry in entries:
            change(entry, name, how, value, rng)
    if how == 'repeat':
        content[section].append(entries[0])
    write(path, content)
    return f'{how} {section} {name} {value!r:.40}'


def change(entry: dict, name: str, how: str, value: object, rng: random.Random) -> None:
    inside = entry.get(name)
    if how == 'inside' and isinstance(inside, list) and inside:
        inside[rng.randrange(len(inside))] = value
    elif how == 'drop':
        entry.pop(name, None)
    elif how != 'repeat':
        entry[name] = value


def box_fault(path: Path, rng: random.Random) -> str:
    """Numbers in the form of boxes, of one annotation or of all."""
    content = json.loads(path.read_text())
    kinds = {
        'corners': lambda x, y, w, h: [x, y, x + w, y + h],
        'fractions': lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT],
        'negative': lambda x, y, w, h: [x, y, -w, -h],
        'thin': lambda x, y, w, h: [x, y, 0.4, h],
        'shifted': lambda x, y, w, h: [x + 1000, y, w, h],
        'huge': lambda x, y, w, h: [x, y, w * 10 ** rng.randrange(300), h],
        'overhang': lambda x, y, w, h: [x - 20, y, w + 50, h],
        'any': lambda *_: [rng.choice((*VALUES[3:23], 9, 20, 33)) for _ in range(4)],
    }
    name = rng.choice(list(kinds))
    found = content['annotations']
    for one in found if rng.random() < 0.5 else rng.sample(found, 1):
        one['bbox'] = kinds[name](*one['bbox'])
        one['area'] = rng.choice((one['area'], one['area'], 0, -1, 1e300))
    write(path, content)
    return f'boxes: {name}'


def mask_fault(path: Path, rng: random.Random) -> str:
    content = json.loads(path.read_text())
    value = rng.choice(SEGMENTATIONS)
    for one in content['annotations'] if rng.random() < 0.2 else content['annotations'][:1]:
        one['segmentation'] = value
    write(path, content)
    return f'segmentation {value!r:.40}'


def picture_fault(path: Path, rng: random.Random) -> str:
    """A picture that is cut, damaged, none, of another size, turned or of another format."""
    picture = rng.choice(sorted((path.parent.parent / path.stem).iterdir()))
    data = picture.read_bytes()
    image, exif = Image.open(picture).copy(), Image.Exif()
    exif[0x112] = rng.randrange(10)
    lying = image.transpose(Image.Transpose.ROTATE_90)
    form, at = rng.choice(('JPEG', 'PNG', 'TIFF', 'WEBP', 'GIF', 'ICO', 'PPM')), len(data) - 1
    kinds = {
        'cut': lambda: picture.write_bytes(data[: rng.randrange(at)]),
        'cut at the end': lambda: picture.write_bytes(data[: -rng.randrange(1, 9)]),
        'zeros': lambda: picture.write_bytes(data[: (i := rng.randrange(at))] + bytes(at - i)),
        'text': lambda: picture.write_text('<html>not found</html>'),
        'another size': lambda: lying.save(picture),
        'turned': lambda: image.save(picture, form, exif=exif),
        'turned to its annotation': lambda: lying.save(picture, form, exif=exif),
        'grey': lambda: image.convert(rng.choice('LP1')).save(picture, 'PNG'),
        'appended': lambda: picture.write_bytes(data + bytes(100_000)),
        'bomb': lambda: picture.write_bytes(b'P6 20000 20000 255\n'),
        'header that lies': lambda: picture.write_bytes(b'P6 13000 13000 255\n'),
        'folder': lambda: (picture.unlink(), picture.mkdir()),
        'pipe': lambda: (picture.unlink(), os.mkfifo(picture)),
    }
    name = rng.choice(list(kinds))
    kinds[name]()
    return f'{picture.name}: {name}'


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content).replace('"INFINITE"', '1e400'))


def load_all(split: CocoSplit) -> None:
    """Read every picture, box and mask of a split as MMDetection does, and find all in the AP."""
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=split.has_masks)
    dataset = DATASETS.build(
        dict(
            type='CocoDataset',
            ann_file=str(split.ann_file),
            data_prefix=dict(img=f'{split.image_dir}/'),
            metainfo=dict(classes=split.classes),
            pipeline=[dict(type='LoadImageFromFile'), load, dict(type='PackDetInputs')],
        )
    )
    assert len(dataset) == split.num_images
    kept = sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset)))
    assert kept == split.num_boxes, f'{split.num_boxes - kept} boxes dropped without a word'
    samples = [dataset[i]['data_samples'] for i in range(len(dataset))]
    assert all(sample.ori_shape == (HEIGHT, WIDTH) for sample in samples)
    kinds = ['bbox', 'segm'] if split.has_masks else ['bbox']
    metric = METRICS.build(dict(type='CocoAP', ann_file=str(split.ann_file), metric=kinds))
    metric.dataset_meta = dataset.metainfo
    found = metric.compute_metrics([({}, as_prediction(sample)) for sample in samples])
    assert found['bbox_mAP'] > 0.999, f'AP of the truth is {found["bbox_mAP"]}'
    take_a_step(dataset)


def take_a_step(dataset: CocoDataset) -> None:
    """Losses and gradients of all pictures are finite."""
    cfg = load_config('configs/retinanet_gn_b2.py').model
    cfg.bbox_head.num_classes = len(dataset.metainfo['classes'])
    model = MODELS.build(cfg)
    batch = model.data_preprocessor(pseudo_collate([dataset[i] for i in range(len(dataset))]), True)
    losses, _ = model.parse_losses(model(**batch, mode='loss'))
    losses.backward()
    total = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None)
    assert total.isfinite(), 'gradients that are not finite'


def as_prediction(sample: DetDataSample) -> dict:
    truth = sample.gt_instances
    prediction = dict(
        img_id=sample.img_id,
        bboxes=truth.bboxes.tensor.numpy(),
        labels=truth.labels.numpy(),
        scores=np.ones(len(truth)),
    )
    if 'masks' in truth:
        prediction['masks'] = [rle.encode(np.asfortranarray(m)) for m in truth.masks.masks]
    return prediction


def outcome(seed: int) -> str:
    """What becomes of a fault: `refused: ...`, `accepted`, or a bare error."""
    root = Path(tempfile.mkdtemp(prefix='fuzz-'))
    os.environ['SBZOO_CACHE'] = str(root / 'cache')
    sound_folder(root / 'data')
    what = spoil(root / 'data', seed)
    try:
        folder = read_folder(root / 'data')
        for split in (folder.train, folder.val):
            load_all(split)
        return f'accepted {what}'
    except UserError as error:
        lines = str(error).splitlines()
        return f'refused {what}: {lines[min(1, len(lines) - 1)].strip()}'
    except Exception as error:
        return f'BARE {what}: {type(error).__name__}: {error}'
    finally:
        shutil.rmtree(root)


def isolated(seed: int) -> tuple[str, int]:
    """The outcome in a process of its own, and the bytes of memory that it took at most."""
    read, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.write(write_end, outcome(seed).encode('utf-8', 'replace')[:1000])
        os._exit(0)
    os.close(write_end)
    deadline = time.monotonic() + SECONDS
    while not (done := os.wait4(child, os.WNOHANG))[0]:
        time.sleep(0.005)
        if time.monotonic() > deadline:
            os.kill(child, 9)
    with os.fdopen(read, 'rb') as file:
        text = file.read().decode() or f'CRASH of seed {seed}: status {done[1]}'
    return text, done[2].ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=500)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('--show', action='store_true', help='every outcome')
    args = parser.parse_args()
    register_all_modules(init_default_scope=True)
    kinds, most = Counter(), 0
    for seed in range(args.first, args.first + args.count):
        text, memory = isolated(seed)
        kind = 'MEMORY' if memory > LIMIT else text.split()[0]
        kinds[kind] += 1
        most = max(most, memory)
        if args.show or kind.isupper():
            print(f'{seed}: {text}')
    print(f'{dict(kinds)}; at most {most / 2**20:.0f} MB')
    sys.exit(any(kind.isupper() for kind in kinds))


if __name__ == '__main__':
    main()
