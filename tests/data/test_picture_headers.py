"""What is told of a picture without decoding it is what mmcv makes of it."""

import os

import mmcv
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from sbzoo.data import picture_headers as module
from sbzoo.data.picture_headers import Picture, read_pictures

FORMATS = 'JPEG', 'MPO', 'PNG', 'TIFF', 'WEBP', 'BMP', 'GIF', 'PPM', 'JPEG2000'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))


def save(path, form: str = 'JPEG', orientation: int = 1, thumbnail: bytes = b'', size=(64, 48)):
    pixels = np.random.RandomState(0).randint(0, 256, (*size[::-1], 3), np.uint8)
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    if thumbnail:
        exif[Base.MakerNote] = thumbnail
    Image.fromarray(pixels).save(path, form, exif=exif)
    return str(path)


def told(path: str) -> Picture:
    return read_pictures([path], path)[path]


@pytest.mark.parametrize('orientation', [1, 2, 3, 6, 8])
@pytest.mark.parametrize('form', FORMATS)
def test_sizes_are_those_that_mmcv_reads(tmp_path, form, orientation):
    path = save(tmp_path / 'picture', form, orientation)
    assert told(path).size == mmcv.imread(path).shape[1::-1]
    assert not told(path).fault


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA', 'I;16', 'CMYK'])
def test_modes(tmp_path, mode):
    path = tmp_path / 'picture'
    picture = Image.new('RGB', (64, 48), 'red').convert(mode.replace('I;16', 'I'))
    picture.convert(mode).save(path, 'JPEG' if mode == 'CMYK' else 'PNG')
    assert told(str(path)) == Picture((64, 48), False)
    assert mmcv.imread(path).shape == (48, 64, 3)


@pytest.mark.parametrize('part', [0.3, 0.6, 0.99])
@pytest.mark.parametrize('form', FORMATS)
def test_what_is_cut_short_has_a_fault(tmp_path, form, part):
    path = tmp_path / 'picture'
    save(path, form, thumbnail=b'\xff\xd9' * 9)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    assert told(str(path)).fault


def test_what_a_camera_appends_is_no_fault(tmp_path):
    for form in ('JPEG', 'PNG'):
        path = tmp_path / form
        save(path, form)
        path.write_bytes(path.read_bytes() + bytes(200_000))
        assert told(str(path)) == Picture((64, 48), False)


@pytest.mark.parametrize(
    ('data', 'fault'),
    [
        (b'', 'the file is empty'),
        (b'<html>', 'not an image'),
        (b'P6 20000 20000 255\n', 'cannot be read (Image size (400000000 pixels) exceeds limit'),
        (b'P6 64 48 255\n', 'OpenCV cannot decode it (PPM)'),
    ],
)
def test_faults(tmp_path, data, fault):
    path = tmp_path / 'picture'
    path.write_bytes(data)
    assert told(str(path)).fault.startswith(fault)


def test_formats_that_opencv_does_not_know(tmp_path):
    path = save(tmp_path / 'picture', 'ICO')
    assert told(path).fault == 'OpenCV cannot decode it (ICO)'


def test_only_what_is_new_is_read_again(tmp_path, monkeypatch):
    paths = [save(tmp_path / f'{i}.jpg') for i in range(3)]
    (tmp_path / '2.jpg').write_bytes(b'')
    seen, read = [], module.read_header
    monkeypatch.setattr(module, 'read_header', lambda path: seen.append(path) or read(path))
    first = read_pictures(paths, 'set')
    assert sorted(seen) == paths
    seen.clear()
    assert read_pictures(paths, 'set') == first
    assert seen == paths[2:]  # the one with a fault
    os.utime(paths[0], ns=(0, 0))
    save(tmp_path / '1.jpg', size=(48, 64))
    seen.clear()
    assert read_pictures(paths[:2], 'set')[paths[1]] == Picture((48, 64), False)
    assert sorted(seen) == paths[:2]


def test_a_damaged_cache_is_made_anew(tmp_path):
    path = save(tmp_path / 'picture')
    found = told(path)
    (file,) = (tmp_path / 'cache/pictures').iterdir()
    file.write_text('{')
    assert told(path) == found
