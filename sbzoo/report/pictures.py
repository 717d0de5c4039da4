"""Pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from sbzoo.errors import UserError

TOTAL, LARGEST = 1_500_000, 90_000  # bytes, before base64 makes a third more of them
WIDTH = 720  # pixels


class Picture(NamedTuple):
    """A picture as a data URI, and what it shows."""

    caption: str
    uri: str
    width: int
    height: int


def embed(files: Sequence[tuple[str, Path]]) -> list[Picture]:
    """Pictures that share the room that the page has for them.

    Args:
        files: Captions and files.

    Raises:
        UserError: A file is not a picture.
    """
    room = min(LARGEST, TOTAL // max(1, len(files)))
    return [_embed(caption, path, room) for caption, path in files]


def _embed(caption: str, path: Path, room: int) -> Picture:
    try:
        image = Image.open(path).convert('RGB')
    except OSError as error:
        raise UserError(f'{path}: not a picture that can be read') from error
    image.thumbnail((WIDTH, 4 * WIDTH))
    data = _webp(image)
    while len(data) > room:
        image = image.resize((max(1, image.width * 4 // 5), max(1, image.height * 4 // 5)))
        data = _webp(image)
    uri = f'data:image/webp;base64,{base64.b64encode(data).decode()}'
    return Picture(caption, uri, *image.size)


def _webp(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, 'WEBP', quality=80)
    return file.getvalue()
