"""Writes a folder of the COCO format in the YOLO and the Pascal VOC format, to be read back."""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as masks
from skimage.measure import find_contours

VOC = """<annotation>
<filename>{name}.bmp</filename>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}
</annotation>
"""
OBJECT = """<object>
<name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>
</object>"""


def objects_of(root: Path, split: str, count: int) -> list[tuple[dict, Path, list[dict]]]:
    """The first images of a split with their files and annotations, which have a class name."""
    coco = json.loads((root / f'annotations/{split}.json').read_text())
    names = {c['id']: c['name'] for c in coco['categories']}
    found = {i['id']: (i, root / split / i['file_name'], []) for i in coco['images'][:count]}
    for annotation in coco['annotations']:
        if annotation['image_id'] in found:
            found[annotation['image_id']][2].append(
                annotation | dict(name=names[annotation['category_id']])
            )
    return [*found.values()]


def write_yolo(root: Path, coco: Path, count: int, polygons: bool = False) -> Path:
    """`images/SPLIT`, which are links, `labels/SPLIT` and data.yaml."""
    for split in ('train', 'val'):
        for kind in ('images', 'labels'):
            (root / kind / split).mkdir(parents=True)
        for image, file, found in objects_of(coco, split, count):
            (root / 'images' / split / file.name).symlink_to(file)
            lines = [_polygon_line(a, image) if polygons else _box_line(a, image) for a in found]
            (root / 'labels' / split / f'{file.stem}.txt').write_text('\n'.join(lines))
    names = ''.join(f'  {i}: "{i}"\n' for i in range(10))
    (root / 'data.yaml').write_text(f'train: images/train\nval: images/val\nnames:\n{names}')
    return root


def _box_line(annotation: dict, image: dict) -> str:
    x, y, w, h = annotation['bbox']
    width, height = image['width'], image['height']
    values = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
    return ' '.join([annotation['name'], *(f'{v:.6f}' for v in values)])


def _polygon_line(annotation: dict, image: dict) -> str:
    """The longest outline of a mask, through the edges of its pixels."""
    rle = annotation['segmentation']
    mask = np.pad(masks.decode(masks.frPyObjects(rle, *rle['size'])), 1)
    outline = max(find_contours(mask, 0.5), key=len)[:-1, ::-1] - 0.5
    fractions = (outline / [image['width'], image['height']]).clip(0, 1)
    return ' '.join([annotation['name'], *(f'{v:.6f}' for v in fractions.ravel())])


def write_voc(root: Path, coco: Path, count: int) -> Path:
    """`JPEGImages`, which are links, `Annotations` and `ImageSets/Main`."""
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True)
    for split in ('train', 'val'):
        names = []
        for image, file, found in objects_of(coco, split, count):
            name = f'{split}_{file.stem}'
            names.append(name)
            (root / 'JPEGImages' / f'{name}{file.suffix}').symlink_to(file)
            objects = '\n'.join(map(_voc_object, found))
            text = VOC.format(**image, name=name, objects=objects)
            (root / 'Annotations' / f'{name}.xml').write_text(text)
        (root / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names))
    return root


def _voc_object(annotation: dict) -> str:
    x, y, w, h = annotation['bbox']
    corners = dict(xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
    return OBJECT.format(name=annotation['name'], difficult=annotation['iscrowd'], **corners)
