"""Pictures to predict on, in one order: files, folders and globs, or the frames of a video."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import NamedTuple

import cv2
import mmcv
import numpy as np

from sbzoo.errors import UserError
from sbzoo.images import SUFFIXES, find_images, read_header

VIDEOS = '.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv'
FPS = 25.0  # of a video that does not tell


class Frame(NamedTuple):
    """A picture, or one of a video.

    Attributes:
        entry: Its entry in COCO's section `images`: `id`, counted from 1 in the order of the
            input, `file_name`, `width` and `height`; of a video also `frame_id`, counted from 0.
        pixels: RGB uint8 [H, W, 3].
    """

    entry: dict
    pixels: np.ndarray


class Pictures:
    """Image files, named from the folder that all are in; what cannot be read is in `faults`."""

    def __init__(self, paths: Sequence[Path], root: str) -> None:
        self.paths, self.faults = paths, []
        self.names = [Path(os.path.relpath(path, root)).as_posix() for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        for number, path in enumerate(self.paths):
            try:
                pixels = read_pixels(path)
            except UserError as error:
                self.faults.append(str(error))
            else:
                yield _frame(pixels, number, file_name=self.names[number])


class Video:
    """The frames of a video.

    Raises:
        UserError: It cannot be read, or has no frames.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.faults = path, []
        with _opened(path) as capture:
            self.fps = capture.get(cv2.CAP_PROP_FPS) or FPS
            self._stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            if not capture.grab():
                raise UserError(f'{path}: a video without frames')

    def __len__(self) -> int:
        """As many as it says it has, which in some formats is a guess."""
        return max(self._stated, 1)

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        with _opened(self.path) as capture:
            while (read := capture.read())[0]:
                yield _frame(read[1][..., ::-1], number, file_name=self.path.name, frame_id=number)
                number += 1


def _frame(pixels: np.ndarray, number: int, **names: str | int) -> Frame:
    height, width = pixels.shape[:2]
    return Frame(dict(id=number + 1, **names, width=width, height=height), pixels)


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # errors are told here, in one line
    level = cv2.setLogLevel(0)
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            empty = not path.stat().st_size
            reason = 'the file is empty' if empty else 'not a video that OpenCV can read'
            raise UserError(f'{path}: {reason}')
        yield capture
    finally:
        capture.release()
        cv2.setLogLevel(level)


def open_input(sources: Sequence[str]) -> Pictures | Video:
    """Find the pictures that files, folders (with all below) and globs name, or a video's frames.

    Raises:
        UserError: There are none, or it is a video among other things.
    """
    found = {source: _find(source) for source in sources}
    paths = list(dict.fromkeys(path for some in found.values() for path in some))
    videos = [path for path in paths if path.suffix.lower() in VIDEOS]
    if videos and len(paths) > 1:
        raise UserError(
            f'{videos[0]}: a video is predicted by itself; {len(paths)} files are given'
        )
    if videos:
        return Video(videos[0])
    folders = [s if os.path.isdir(s) else path.parent for s, some in found.items() for path in some]
    return Pictures(paths, os.path.commonpath(map(os.path.abspath, folders)))


def _find(source: str) -> Sequence[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        return find_images(path)
    if path.exists():
        return [path]
    matches = [match for match in sorted(glob(str(path), recursive=True)) if os.path.isfile(match)]
    found = [Path(match) for match in matches if match.lower().endswith((*SUFFIXES, *VIDEOS))]
    if not found:
        raise UserError(f'{source}: no such picture, folder or video, nor does any match')
    return found


def read_pixels(path: str | Path) -> np.ndarray:
    """The pixels of an image file as MMDetection reads them, but RGB: uint8 [H, W, 3].

    Raises:
        UserError: There is no such file, it is no image, or it is cut short.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: no such image')
    try:
        read_header(path)
        pixels = mmcv.imread(path)
    except (ValueError, cv2.error) as error:
        raise UserError(f'{path}: {error}') from error
    if pixels is None:
        raise UserError(f'{path}: not an image that can be read')
    return pixels[..., ::-1]
