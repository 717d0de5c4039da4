"""Resolves references to weights (path, card, hub, URL) to one local file of checked sha256."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import torch
from filelock import FileLock, Timeout
from mmengine.runner import checkpoint as mmengine_tables

from sbzoo.checkpoint.cards import card
from sbzoo.checkpoint.download import Unreachable, download
from sbzoo.errors import UserError
from sbzoo.files import sha256 as digest_of
from sbzoo.paths import cache_dir

CARD, HUB = 'card://', 'hf://'
HUB_URL = 'https://huggingface.co'
# The schemes of mmengine that stand for addresses, and its tables of them.
TABLES = {
    'torchvision': mmengine_tables.get_torchvision_models,
    'modelzoo': mmengine_tables.get_torchvision_models,
    'open-mmlab': mmengine_tables.get_external_models,
    'openmmlab': mmengine_tables.get_external_models,
    'mmcls': mmengine_tables.get_mmcls_models,
}
LAST = 'last_checkpoint'  # mmengine's file that names the newest of a run
DATE = r'20[0-9]{2}[01][0-9][0-3][0-9]'
DIGITS = 8  # of a sha256, that OpenMMLab and torchvision put into the names of their files
WHOLE = 64  # digits of a sha256
CHUNK = 2**20  # bytes


def resolve(reference: str | Path, sha256: str | None = None) -> Path:
    """The file of a reference on this machine, downloaded if need be.

    What is downloaded is kept under `$SBZOO_CACHE/checkpoints` (`~/.cache/sbzoo/checkpoints`). Its
    sha256 is checked at every call; of files from elsewhere, which publish eight digits of it in
    their name, those are.

    Args:
        reference: A path, a folder for the newest checkpoint of a run, `card://NAME` (see
            `sbzoo.list_cards`), `https://...`, `hf://OWNER/NAME/FILE` for a file of the Hugging
            Face hub, or what mmengine has a table of, such as `torchvision://resnet50`.
        sha256: What it has to be, or its first digits; a card has its own.

    Raises:
        UserError: There is no such file, it cannot be downloaded, or its sha256 is wrong; such
            a download is not kept.
    """
    reference, sha256 = str(reference), sha256 and sha256.lower()
    if reference.startswith(CARD):
        found = card(reference.removeprefix(CARD))
        return resolve(found.reference, sha256 or found.sha256)
    place = address(reference)
    if place and '://' in place:
        return _cached_download(place, sha256 or digits_in_name(place))
    path = Path(place or reference).expanduser()
    path = _newest(path) if path.is_dir() else path
    if not path.is_file():
        raise UserError(f'{path}: no such file of weights')
    if sha256 and not digest_of(path).startswith(sha256):
        raise UserError(_wrong(path, sha256, 'download it again'))
    return path


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """The checkpoint that the last run of a work directory wrote last, or None.

    That is what mmengine's `last_checkpoint` names; where it names nothing that is there, the
    checkpoint of the most epochs or iterations.
    """
    folder, found = Path(work_dir), _by_number(Path(work_dir))
    last = folder / LAST
    if not last.is_file():
        return found
    named = last.read_text(encoding='utf-8', errors='replace').strip()
    path = folder / Path(named).name  # the folder may have been moved
    if path.is_file():
        return path
    if found is None:
        return Path(named) if Path(named).is_file() else None
    _log(f'{last}: names no checkpoint that is there ({named!r}), so {found.name} is taken')
    return found


def _by_number(folder: Path) -> Path | None:
    found = {
        int(match[1]): path
        for path in folder.glob('*.pth')
        if (match := re.fullmatch(r'(?:epoch|iter)_(\d+)', path.stem))
    }
    return found[max(found)] if found else None


def _newest(folder: Path) -> Path:
    found = latest_checkpoint(folder)
    if found is None:
        raise UserError(f'{folder}: no checkpoint in this folder')
    return found


def address(reference: str) -> str | None:
    """The URL of a reference, or None for a path.

    Raises:
        UserError: An unknown scheme, or a reference that names no file.
    """
    scheme, separator, rest = reference.partition('://')
    if not separator:
        return None
    if scheme in ('http', 'https'):
        return reference
    if scheme in TABLES:
        return _of_mmengine(scheme, rest)
    hub = f'{HUB}OWNER/NAME/FILE'
    if f'{scheme}://' != HUB:
        raise UserError(f'{reference}: give a path, {CARD}NAME, https://... or {hub}')
    if rest.count('/') < 2:
        raise UserError(f'{reference}: name a file as well, {hub}')
    owner, name, file = rest.split('/', 2)
    return f'{HUB_URL}/{owner}/{name}/resolve/main/{file}'


def _of_mmengine(scheme: str, name: str) -> str:
    """What mmengine's tables say; those of a user may name files in mmengine's home."""
    known = TABLES[scheme]()
    found = known.get(mmengine_tables.get_deprecated_model_names().get(name, name))
    if found is None:
        raise UserError(f'{scheme}://{name}: mmengine knows no such model')
    return found if '://' in found else str(Path(mmengine_tables._get_mmengine_home(), found))


def cached(url: str) -> Path:
    """Where the file of a URL is kept."""
    parts = urlsplit(url)
    names = [parts.netloc, *parts.path.split('/')]
    if parts.query:
        names[-1] += f'?{parts.query}'
    kept = (quote(name, safe='%+') for name in names if name not in ('', '.', '..'))
    return cache_dir().joinpath('checkpoints', *kept)


def digits_in_name(url: str) -> str | None:
    """The first digits of a sha256 that OpenMMLab puts at the end of the name of a file."""
    match = re.search(rf'-([0-9a-f]{{{DIGITS}}})\.\w+$', urlsplit(url).path)
    return match[1] if match and not re.match(DATE, match[1]) else None


def _cached_download(url: str, sha256: str | None) -> Path:
    path = _of_torch_hub(url, sha256) or _downloaded(url, sha256)
    if not sha256:
        _log(f'{path.name}: no sha256 of it is published, so it is not checked')
    elif len(sha256) < WHOLE:
        _log(f'{path.name}: of its sha256 {len(sha256)} digits are published, and they are right')
    return path


def _downloaded(url: str, sha256: str | None) -> Path:
    path = cached(url)
    if not _is_there(path, sha256):  # a cache that is there may be one that only can be read
        if path.exists():  # it stays until there is a better one: the hash may be mistyped
            _log(_wrong(path, sha256, 'downloading it again'))
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            if not _is_there(path, sha256):  # nor has another process downloaded it
                _download(url, path, sha256)
    return path


def _of_torch_hub(url: str, sha256: str | None) -> Path | None:
    """The file that torch, torchvision or mmengine has downloaded before, if it is right."""
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlsplit(url).path).name)
    return path if sha256 and path.is_file() and _is_there(path, sha256) else None


def _is_there(path: Path, sha256: str | None) -> bool:
    return path.exists() and (not sha256 or digest_of(path).startswith(sha256))


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file that other processes may download too."""
    lock = FileLock(f'{path}.lock')
    try:
        held = lock.acquire(timeout=1)
    except Timeout:
        _log(f'{path.name}: waiting for another process that downloads it')
        held = lock.acquire()
    with held:
        yield


def _download(url: str, path: Path, sha256: str | None) -> None:
    """Download to a name beside `path`, which gets its own when it is what it should be."""
    part = path.with_name(f'{path.name}.part')
    try:
        in_one_piece = download(url, part, resume=bool(sha256))
        if sha256 and not in_one_piece and not _is_there(part, sha256):
            part.unlink()  # the pieces may be of different files
            download(url, part, resume=True)
    except Unreachable as error:
        raise UserError(
            f'{path.name}: not in the cache, and {urlsplit(url).netloc} cannot be reached '
            f'({error}); get it from {url} and put it at {path}'
        ) from error
    if not _is_there(part, sha256):
        wrong = _wrong(part, sha256, f'removed from the cache; it came from {url}')
        part.unlink()
        raise UserError(wrong)
    if not sha256 and _is_page(part):
        part.unlink()
        raise UserError(f'{url}: a web page came, perhaps to log in, and no file; it is not kept')
    os.replace(part, path)


def _is_page(path: Path) -> bool:
    with path.open('rb') as file:
        return file.read(CHUNK).lstrip().startswith(b'<')


def _wrong(path: Path, sha256: str, what: str) -> str:
    name, got = path.name.removesuffix('.part'), digest_of(path)[: len(sha256)]
    return f'{name}: wrong sha256, want {sha256}, got {got}; {what}'


def _log(line: str) -> None:
    print(line, file=sys.stderr)
