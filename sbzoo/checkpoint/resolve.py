"""Weights by reference: found or fetched, and proved by their sha256 every time."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout

from sbzoo.checkpoint.cards import card
from sbzoo.checkpoint.download import Unreachable, download
from sbzoo.errors import UserError
from sbzoo.paths import cache_dir

CARD, HUB = 'card://', 'hf://'
HUB_URL = 'https://huggingface.co'
DIGITS = 8  # of a sha256, that OpenMMLab and torchvision put into the names of their files
CHUNK = 2**20  # bytes


def fetch(reference: str | Path, sha256: str | None = None) -> Path:
    """The file of a reference on this machine, downloaded if need be.

    What is downloaded is kept under `$SBZOO_CACHE/checkpoints` (`~/.cache/sbzoo/checkpoints`). Its
    sha256 is checked at every call; of files from elsewhere, which publish eight digits of it in
    their name, those are.

    Args:
        reference: A path, `card://NAME` (see `sbzoo.list_cards`), `https://...`, or
            `hf://OWNER/NAME/FILE` for a file of the Hugging Face hub.
        sha256: What it has to be, or its first digits; a card has its own.

    Raises:
        UserError: There is no such file, it cannot be had, or it is not what it should be. What
            comes and is not is not kept.
    """
    reference, sha256 = str(reference), sha256 and sha256.lower()
    if reference.startswith(CARD):
        found = card(reference.removeprefix(CARD))
        return fetch(found.reference, sha256 or found.sha256)
    url = address(reference)
    if url:
        return _fetch_url(url, sha256 or digits_in_name(url))
    path = Path(reference).expanduser()
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    if sha256 and not _digest(path).startswith(sha256):
        raise UserError(_wrong(path, sha256, 'get it again'))
    return path


def local(reference: str) -> str:
    """What a tool is given as a checkpoint, on this machine if it is at an address.

    Paths and `card://NAME`, whose keys are mapped as it is loaded, are left as they are.

    Raises:
        UserError: It cannot be had.
    """
    elsewhere = reference.startswith(('http://', 'https://', HUB))
    return str(fetch(reference)) if elsewhere else reference


def address(reference: str) -> str | None:
    """The URL of a reference, or None for a path.

    Raises:
        UserError: An unknown scheme, or a hub's reference that names no file.
    """
    scheme, separator, rest = reference.partition('://')
    if not separator:
        return None
    if scheme in ('http', 'https'):
        return reference
    hub = f'{HUB}OWNER/NAME/FILE'
    if f'{scheme}://' != HUB:
        raise UserError(f'{reference}: give a path, {CARD}NAME, https://... or {hub}')
    if rest.count('/') < 2:
        raise UserError(f'{reference}: name a file as well, {hub}')
    owner, name, file = rest.split('/', 2)
    return f'{HUB_URL}/{owner}/{name}/resolve/main/{file}'


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
    return match[1] if match else None


def _fetch_url(url: str, sha256: str | None) -> Path:
    path = cached(url)
    if not _is_there(path, sha256):  # a cache that is there may be one that only can be read
        if path.exists():  # it stays until there is a better one: the hash may be mistyped
            _say(_wrong(path, sha256, 'getting it again'))
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not _is_there(path, sha256):  # nor has another process brought it
                _bring(url, path, sha256)
    if not sha256:
        _say(f'{path.name}: no sha256 of it is published, so it is not checked')
    elif len(sha256) < hashlib.sha256().digest_size * 2:
        _say(f'{path.name}: of its sha256 {len(sha256)} digits are published, and they are right')
    return path


def _is_there(path: Path, sha256: str | None) -> bool:
    return path.exists() and (not sha256 or _digest(path).startswith(sha256))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process fetches this file."""
    lock = FileLock(f'{path}.lock')
    try:
        held = lock.acquire(timeout=1)
    except Timeout:
        _say(f'{path.name}: waiting for another process that fetches it')
        held = lock.acquire()
    with held:
        yield


def _bring(url: str, path: Path, sha256: str | None) -> None:
    """Download to a name beside `path`, which gets its own when it is what it should be."""
    part = path.with_name(f'{path.name}.part')
    try:
        in_one_piece = download(url, part, resume=bool(sha256))
        if sha256 and not in_one_piece and not _digest(part).startswith(sha256):
            part.unlink()  # the pieces may be of different files
            download(url, part, resume=True)
    except Unreachable as error:
        raise UserError(
            f'{path.name}: not in the cache, and {urlsplit(url).netloc} cannot be reached '
            f'({error}); get it from {url} and put it at {path}'
        ) from error
    if sha256 and not _digest(part).startswith(sha256):
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
    name, got = path.name.removesuffix('.part'), _digest(path)[: len(sha256)]
    return f'{name}: wrong sha256, want {sha256}, got {got}; {what}'


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _say(line: str) -> None:
    print(line, file=sys.stderr)
