"""Detections in pictures or a video: drawn, as COCO results, and on a page to look through."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from mmdet.structures.mask import encode_mask_results
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image

from sbzoo.data.frames import Frame, Pictures, Video
from sbzoo.engine.options.parts import dataset_of
from sbzoo.engine.visualize import draw_found, painter
from sbzoo.errors import UserError
from sbzoo.files import new_folder, write
from sbzoo.images import renamed
from sbzoo.zoo.load import Detections, Detector

RESULTS, IMAGES, PAGE = 'predictions.json', 'images.json', 'index.html'
TEMPLATE = 'predictions.html.jinja'
QUALITY = 95  # of JPEG
Save = Callable[[Frame, Image.Image], str]  # returns where, relative to the output


class Shown(NamedTuple):
    """A picture that was predicted: COCO's entry of it, its COCO results, and its drawing."""

    entry: dict
    results: list[dict]
    drawing: str

    def counts(self, names: dict[int, str]) -> dict[str, int]:
        """Detections by class, in the order of the classes."""
        found = Counter(result['category_id'] for result in self.results)
        return {name: found[number] for number, name in names.items() if found[number]}


def predict(
    detector: Detector, frames: Iterable[Frame], score: float, batch: int
) -> Iterator[tuple[Frame, Detections]]:
    """Find objects in one batch of frames after the other."""
    frames = iter(frames)
    while chunk := list(islice(frames, batch)):
        found = detector.predict_batch([frame.pixels for frame in chunk], score)
        yield from zip(chunk, found, strict=True)


def write_predictions(
    detector: Detector,
    source: Pictures | Video,
    predicted: Iterable[tuple[Frame, Detections]],
    out: Path,
) -> list[Shown]:
    """Write a new folder of drawings, COCO results, what their ids stand for, and a page.

    `predictions.json` has a result for each detection, and `images.json` the sections `images` and
    `categories` of the COCO format, so that pycocotools loads the one on top of the other.

    Raises:
        UserError: No picture could be read.
    """
    names = categories(detector)
    with new_folder(out) as folder, ExitStack() as held:
        save = (
            _pictures(source, folder)
            if isinstance(source, Pictures)
            else _video(source, folder, held)
        )
        shown = list(_shown(detector, predicted, list(names), save))
        held.close()
        if not shown:
            raise UserError('\n'.join(source.faults))
        _write_json(folder, shown, names)
        if len(source) > 1 and isinstance(source, Pictures):
            write(folder / PAGE, page(shown, names, source.faults).encode())
    return shown


def _shown(
    detector: Detector,
    predicted: Iterable[tuple[Frame, Detections]],
    numbers: list[int],
    save: Save,
) -> Iterator[Shown]:
    visualizer = painter(detector.classes, detector.model.dataset_meta.get('palette'))
    for frame, found in predicted:
        drawing = draw_found(visualizer, frame.pixels, _instances(found))
        results = coco_results(frame.entry['id'], found, numbers)
        yield Shown(frame.entry, results, save(frame, drawing))


def _instances(found: Detections) -> InstanceData:
    masks = {} if found.masks is None else dict(masks=found.masks)
    return InstanceData(bboxes=found.boxes, scores=found.scores, labels=found.labels, **masks)


def coco_results(image_id: int, found: Detections, numbers: list[int]) -> list[dict]:
    """Detections in COCO's result format: boxes are left, top, width and height in pixels.

    Args:
        image_id: Of their picture.
        found: The detections.
        numbers: The category id of each class.
    """
    corners = found.boxes.double().numpy()
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()
    results = [
        dict(image_id=image_id, category_id=numbers[label], bbox=box, score=score)
        for label, box, score in zip(found.labels, boxes, found.scores.tolist(), strict=True)
    ]
    if found.masks is not None:
        for result, mask in zip(results, encode_mask_results(found.masks.numpy()), strict=True):
            result['segmentation'] = mask | dict(counts=mask['counts'].decode())
    return results


def categories(detector: Detector) -> dict[int, str]:
    """The classes by category id: that of the config's annotations where these are there.

    Elsewhere they are counted from 1, in the order of the labels.
    """
    for split in ('test', 'train'):
        known = _annotated(detector.model.cfg, split)
        if set(detector.classes) <= known.keys():
            return {known[name]: name for name in detector.classes}
    return dict(enumerate(detector.classes, start=1))


def _annotated(cfg: Config, split: str) -> dict[str, int]:
    """The ids of the categories in an annotation file by their names."""
    dataset = dataset_of(cfg, split)
    path = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '').expanduser()
    if path.suffix != '.json' or not path.is_file():
        return {}
    listed = json.loads(path.read_text(encoding='utf-8')).get('categories', [])
    return {entry['name']: entry['id'] for entry in listed}


def _pictures(source: Pictures, folder: Path) -> Save:
    """Write drawings as JPEG, named as their sources."""
    drawings = dict(zip(source.names, renamed(source.names, '.jpg'), strict=True))

    def save(frame: Frame, image: Image.Image) -> str:
        path = folder / 'pictures' / drawings[frame.entry['file_name']]
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=QUALITY)
        return path.relative_to(folder).as_posix()

    return save


def _video(source: Video, folder: Path, held: ExitStack) -> Save:
    """Write drawings as the frames of a video of the same speed, MPEG-4."""
    name, writers = f'{source.path.stem}.mp4', []

    def save(_: Frame, image: Image.Image) -> str:
        if not writers:
            code = cv2.VideoWriter_fourcc(*'mp4v')
            writers.append(cv2.VideoWriter(str(folder / name), code, source.fps, image.size))
            held.callback(writers[0].release)
        writers[0].write(np.asarray(image)[..., ::-1])
        return name

    return save


def _write_json(folder: Path, shown: list[Shown], names: dict[int, str]) -> None:
    results = [result for picture in shown for result in picture.results]
    known = dict(
        images=[picture.entry for picture in shown],
        categories=[dict(id=number, name=name) for number, name in names.items()],
    )
    for file, content in ((RESULTS, results), (IMAGES, known)):
        write(folder / file, json.dumps(content).encode())


def page(shown: list[Shown], names: dict[int, str], faults: list[str]) -> str:
    """All drawings with what is in them, and first what could not be read."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [(picture, picture.counts(names)) for picture in shown]
    return environment.get_template(TEMPLATE).render(rows=rows, faults=faults)
