"""Downloads over HTTP that go on where they were cut, and try again what may pass."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from sbzoo.errors import UserError

TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1, 2, 4, 8)  # seconds, after attempts that got no further
CHUNK = 2**18  # bytes
PASSING = (408, 429, 500, 502, 503, 504)  # HTTP's errors that may pass
PARTIAL, RANGE_REFUSED = 206, 416
REFUSED_BY_PROXY = 'Tunnel connection failed: 4'  # as http.client says it; 403, 407, ...
OFFLINE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED)


class Unreachable(Exception):
    """There is no way to the server, and no use to try again."""


class _Passing(Exception):
    """An attempt failed for a reason that may pass."""


class _WithinHttp(HTTPRedirectHandler):
    """Python's own also goes on to ftp."""

    def redirect_request(self, req: Request, *args: Any) -> Request | None:
        *_, target = args
        if not target.startswith(('http://', 'https://')):
            raise UserError(
                f'{req.full_url}: redirects to {target}, which is no http:// or https://'
            )
        return super().redirect_request(req, *args)


class _Answer(NamedTuple):
    response: http.client.HTTPResponse
    start: int  # the first byte of the file that it holds
    total: int | None  # bytes of the whole file, if it says so


def download(url: str, part: Path, resume: bool) -> bool:
    """Bring what is at `url` to `part`, in as many attempts as get any further, and four more.

    Args:
        url: http:// or https://.
        part: Where it goes.
        resume: Go on from what is there already, and after each attempt. It is for files with a
            hash, which shows whether the pieces belong together.

    Returns:
        Whether the file came in one piece.

    Raises:
        Unreachable: There is no way to the server.
        UserError: The server refuses, or breaks off again and again.
    """
    best = failures = 0
    while True:
        if not resume:
            part.unlink(missing_ok=True)
        try:
            return _attempt(url, part) == 0
        except _Passing as error:
            failures = failures + 1 if _size(part) <= best else 1
            best = max(best, _size(part))
            if failures > len(PAUSES):
                kept = decimal(_size(part)) if resume else 'nothing'
                raise UserError(
                    f'{url}: {error}, {failures} times in a row; '
                    f'{kept} of it is kept to go on from: try again later'
                ) from error
            time.sleep(PAUSES[failures - 1])


def _attempt(url: str, part: Path) -> int:
    """Append to `part`, or write it anew, and return the byte that it started from."""
    answer = _open(url, _size(part))
    with (
        closing(answer.response),
        part.open('ab' if answer.start else 'wb') as file,
        _bar() as bar,
    ):
        task = bar.add_task(part.stem, total=answer.total, completed=answer.start)
        for chunk in _chunks(answer):
            file.write(chunk)
            bar.advance(task, len(chunk))
    return answer.start


def _open(url: str, start: int) -> _Answer:
    headers = {'User-Agent': 'sbzoo'} | ({'Range': f'bytes={start}-'} if start else {})
    try:
        opener = build_opener(_WithinHttp)
        response = opener.open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == RANGE_REFUSED and start:
            return _open(url, 0)
        reason = f'{error.code} {error.reason}'.splitlines()[0]
        if error.code in PASSING:
            raise _Passing(reason) from error
        raise UserError(f'{url}: {reason}') from error
    except (OSError, http.client.HTTPException) as error:
        raise _meaning(url, getattr(error, 'reason', error)) from error
    if response.status != PARTIAL:
        return _Answer(response, 0, response.length)
    given, _, total = response.headers.get('Content-Range', '').partition('/')
    if not given.startswith(f'bytes {start}-'):  # another part than was asked for
        response.close()
        return _open(url, 0)
    return _Answer(response, start, int(total) if total.isdecimal() else None)


def _meaning(url: str, reason: object) -> Exception:
    if isinstance(reason, socket.gaierror) or getattr(reason, 'errno', None) in OFFLINE:
        return Unreachable(getattr(reason, 'strerror', None) or reason)
    if str(reason).startswith(REFUSED_BY_PROXY):
        return Unreachable(reason)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return UserError(f'{url}: the certificate of the server is not valid ({reason.reason})')
    return _Passing('no answer in time' if isinstance(reason, TimeoutError) else reason)


def _chunks(answer: _Answer) -> Iterator[bytes]:
    have = answer.start
    while True:
        try:
            chunk = answer.response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            late = isinstance(error, TimeoutError)
            reason = f'{"silent" if late else "cut"} after {decimal(have)}'
            raise _Passing(reason) from error
        if not chunk:
            break
        have += len(chunk)
        yield chunk
    if answer.total not in (None, have):
        raise _Passing(f'cut after {decimal(have)} of {decimal(answer.total)}')


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn())
    return Progress(
        *columns,
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
