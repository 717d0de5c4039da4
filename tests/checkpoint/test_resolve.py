"""Weights by reference: what a server, a disk or a user can do wrong, and what comes of it."""

import hashlib
import io
import multiprocessing
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from filelock import FileLock
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from sbzoo import UserError
from sbzoo.checkpoint import download
from sbzoo.checkpoint import resolve as store
from sbzoo.checkpoint.io import load
from sbzoo.checkpoint.resolve import address, cached, digits_in_name, resolve

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(BODY).hexdigest()
NAME = f'model-{SHA256[:8]}.pth'


class Server(ThreadingHTTPServer):
    """Serves BODY under every path; the first folder of the path says what goes wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.requests = Counter()  # by path
        self.ranges = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *args: object) -> None:
        """Clients that hung up."""

    def url(self, fault: str, name: str = 'model.pth') -> str:
        return f'http://127.0.0.1:{self.server_port}/{fault}/{name}'


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        self.attempt = self.server.requests[self.path]
        self.server.ranges.append(self.headers.get('Range'))
        getattr(self, self.path.split('/')[1])()

    def whole(self, body: bytes = BODY) -> None:
        start = 0
        if self.headers.get('Range') and 'ignores' not in self.path:
            start = int(self.headers['Range'].removeprefix('bytes=').rstrip('-'))
        if start >= len(body):
            return self.status(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
        self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        self.body(body[start:])

    def body(self, data: bytes) -> None:
        self.wfile.write(data)

    def status(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def cuts(self) -> None:
        """Three times, after 300 kB; then no more."""
        self.body = self.cut if self.attempt < 4 else self.body
        self.whole()

    def cut(self, data: bytes) -> None:
        self.wfile.write(data[:300_000])
        self.close_connection = True

    def cuts_always(self) -> None:
        self.body = lambda data: self.cut(data[:0])
        self.whole()

    ignores_ranges = cuts

    def resets(self) -> None:
        """The hard way, once."""
        if self.attempt == 1:
            linger = struct.pack('ii', 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return self.connection.close()
        return self.whole()

    def corrupts(self) -> None:
        self.whole(BODY[:-1] + b'!')

    def changes(self) -> None:
        """Another file is there after the first cut."""
        self.body = self.cut if self.attempt == 1 else self.body
        self.whole(b'x' * len(BODY) if self.attempt == 1 else BODY)

    def delays(self) -> None:
        """The first answer comes too late, the second falls silent half-way."""
        if self.attempt == 1:
            time.sleep(1)
        self.body = self.stall if self.attempt == 2 else self.body
        self.whole()

    def stall(self, data: bytes) -> None:
        self.wfile.write(data[:500_000])
        time.sleep(1)

    def redirects(self) -> None:
        self.status(302, Location='/cuts/model.pth')

    def circles(self) -> None:
        self.status(302, Location='/circles/model.pth')

    def leaves_for_ftp(self) -> None:
        self.status(302, Location='ftp://127.0.0.1/model.pth')

    def leaves_for_file(self) -> None:
        self.status(302, Location='file:///etc/hostname')

    def missing(self) -> None:
        self.status(404)

    def busy(self) -> None:
        """Twice; then no more."""
        self.status(503) if self.attempt < 3 else self.whole()

    def busy_always(self) -> None:
        self.status(503)

    def slow(self) -> None:
        time.sleep(0.2)
        self.whole()

    def page(self) -> None:
        self.whole(b'\n<!DOCTYPE html><title>Log in</title>')

    def do_CONNECT(self) -> None:
        self.server.requests['CONNECT'] += 1
        self.status(403)

    def pickled_code(self) -> None:
        class Attack:
            def __reduce__(self):
                return (open, ('sbzoo-ran-code', 'w'))

        file = io.BytesIO()
        torch.save(dict(state_dict={}, x=Attack()), file)
        self.whole(file.getvalue())


@pytest.fixture(scope='module')
def server():
    server = Server()
    yield server
    server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, server):
    """An empty cache, a server without a past, and no patience."""
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path))
    monkeypatch.setattr(download, 'PAUSES', (0, 0, 0, 0))
    monkeypatch.setattr(download, 'TIMEOUT', 0.5)
    server.requests.clear()
    server.ranges.clear()
    return tmp_path / 'checkpoints'


def kept(cache) -> list[str]:
    """What the cache holds, but for locks and beginnings."""
    files = (path for path in cache.rglob('*') if path.is_file())
    return [path.name for path in files if path.suffix not in ('.lock', '.part')]


MENDED = {  # faults that the user sees nothing of, and the requests that they take
    'whole': 1,
    'cuts': 4,
    'ignores_ranges': 4,
    'resets': 2,
    'delays': 3,
    'busy': 3,
    'redirects': 8,  # each time anew
    'changes': 3,
}


@pytest.mark.parametrize('fault', MENDED)
def test_faults_that_pass(server, cache, fault):
    path = resolve(server.url(fault), SHA256)
    assert path.read_bytes() == BODY
    assert path == cached(server.url(fault))
    assert kept(cache) == ['model.pth']
    assert not list(cache.rglob('*.part'))
    assert len(server.ranges) == MENDED[fault] == sum(server.requests.values())
    resolve(server.url(fault), SHA256)  # from the cache
    assert len(server.ranges) == MENDED[fault]


FINAL = {
    'corrupts': f'model.pth: wrong sha256, want {SHA256}, got [0-9a-f]{{64}}; removed from the cac',
    'missing': r'http://.*/missing/model.pth: 404 Not Found',
    'busy_always': r'503 Service Unavailable, 5 times in a row; 0 bytes of it is kept',
    'cuts_always': r'cut after 0 bytes of 1.0 MB, 5 times in a row',
    'leaves_for_ftp': r'redirects to ftp://127.0.0.1/model.pth, which is no http',
    'leaves_for_file': r'leaves_for_file/model.pth: 302 .*file:///etc/hostname.* is not allowed',
    'circles': r'circles/model.pth: 302 .*infinite loop',
}


@pytest.mark.parametrize('fault', FINAL)
def test_faults_that_stay(server, cache, fault):
    with pytest.raises(UserError, match=FINAL[fault]) as error:
        resolve(server.url(fault), SHA256)
    assert '\n' not in str(error.value)
    assert kept(cache) == []
    if fault == 'missing':
        assert server.requests['/missing/model.pth'] == 1


def test_goes_on_where_it_was_cut(server):
    resolve(server.url('cuts'), SHA256)
    assert server.ranges == [None, 'bytes=300000-', 'bytes=600000-', 'bytes=900000-']


def test_goes_on_in_another_process(server, monkeypatch):
    monkeypatch.setattr(download, 'PAUSES', ())
    for _ in range(3):
        with pytest.raises(UserError, match=r'cut after .* of 1.0 MB, 1 times in a row'):
            resolve(server.url('cuts'), SHA256)
    assert resolve(server.url('cuts'), SHA256).read_bytes() == BODY
    assert server.ranges[-1] == 'bytes=900000-'


def test_pieces_without_a_hash_are_not_put_together(server, capsys):
    assert resolve(server.url('cuts')).read_bytes() == BODY
    assert set(server.ranges) == {None}
    assert 'no sha256 of it is published, so it is not checked' in capsys.readouterr().err


def test_complete_piece_that_was_left_behind(server, cache):
    part = cached(server.url('whole')).with_name('model.pth.part')
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY)
    assert resolve(server.url('whole'), SHA256).read_bytes() == BODY


def test_eight_digits_in_the_name(server, cache, capsys):
    assert resolve(server.url('whole', NAME)).name == NAME
    assert 'of its sha256 8 digits are published, and they are right' in capsys.readouterr().err
    with pytest.raises(UserError, match=r'want 00000000, got [0-9a-f]{8}; removed from the cache'):
        resolve(server.url('whole', 'model-00000000.pth'))
    assert kept(cache) == [NAME]


def test_damage_in_the_cache(server, capsys):
    path = resolve(server.url('whole'), SHA256)
    path.write_bytes(BODY[:-1] + b'!')
    assert resolve(server.url('whole'), SHA256).read_bytes() == BODY
    assert f'want {SHA256}' in capsys.readouterr().err
    assert server.requests['/whole/model.pth'] == 2


def test_a_mistyped_hash_costs_no_file(server, capsys):
    path = resolve(server.url('whole'), SHA256)
    with pytest.raises(UserError, match=f'wrong sha256, want {"0" * 64}'):
        resolve(server.url('whole'), '0' * 64)
    assert path.read_bytes() == BODY
    assert resolve(server.url('whole'), SHA256.upper()) == path
    assert server.requests['/whole/model.pth'] == 2


def test_a_page_is_no_file(server, cache):
    with pytest.raises(UserError, match=r'page/model.pth: a web page came, perhaps to log in'):
        resolve(server.url('page'))
    assert kept(cache) == list(cache.rglob('*.part')) == []


def test_a_cache_that_can_only_be_read(server, monkeypatch):
    path = resolve(server.url('whole'), SHA256)
    monkeypatch.setattr(store, '_lock', None)  # which writes a lock
    assert resolve(server.url('whole'), SHA256) == path


def test_a_proxy_that_refuses(server, monkeypatch):
    monkeypatch.setenv('no_proxy', '')
    monkeypatch.setenv('https_proxy', f'http://127.0.0.1:{server.server_port}')
    url = 'https://host.example/model.pth'
    with pytest.raises(UserError, match=r'cannot be reached \(.*403.*put it at .*/model.pth'):
        resolve(url, SHA256)
    assert server.requests['CONNECT'] == 1


def test_offline(cache):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{unused.getsockname()[1]}/model.pth'
    with pytest.raises(UserError, match=r'not in the cache, and .* cannot be reached') as error:
        resolve(url, SHA256)
    assert url in str(error.value)
    assert str(cached(url)) in str(error.value)
    cached(url).write_bytes(BODY)  # put there by hand, as it says
    assert resolve(url, SHA256).read_bytes() == BODY


def _fetch_into(url: str, results: multiprocessing.Queue) -> None:
    results.put(resolve(url, SHA256).read_bytes() == BODY)


def test_two_processes_at_once(server):
    context = multiprocessing.get_context('fork')
    results = context.Queue()
    workers = [
        context.Process(target=_fetch_into, args=(server.url('slow'), results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=10) for _ in workers] == [True, True]
    for worker in workers:
        worker.join()
    assert server.requests['/slow/model.pth'] == 1


def test_says_what_it_waits_for(server, capsys):
    path = cached(server.url('whole'))
    path.parent.mkdir(parents=True)
    held = threading.Event()

    def hold() -> None:
        with FileLock(f'{path}.lock'):
            held.set()
            time.sleep(1.2)

    threading.Thread(target=hold).start()
    held.wait()
    resolve(server.url('whole'), SHA256)
    assert 'waiting for another process' in capsys.readouterr().err


def test_full_disk_is_no_fault_of_the_network(server, monkeypatch, cache):
    def full(_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(download, '_chunks', full)
    with pytest.raises(OSError, match='No space'):
        resolve(server.url('whole'), SHA256)
    assert server.requests['/whole/model.pth'] == 1
    assert kept(cache) == []


def test_pickled_code_is_not_run(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = resolve(server.url('pickled_code'))
    with pytest.raises(UserError, match='not a checkpoint of plain data'):
        load(path)
    assert not (tmp_path / 'sbzoo-ran-code').exists()


def test_a_path(tmp_path):
    path = tmp_path / 'mine.pth'
    path.write_bytes(BODY)
    assert resolve(path) == resolve(path, SHA256) == path
    with pytest.raises(UserError, match=r'mine.pth: wrong sha256, want 00, got'):
        resolve(path, '00')
    assert path.exists()  # it is the user's
    with pytest.raises(UserError, match='no such file'):
        resolve(tmp_path / 'other.pth')


@pytest.mark.parametrize(
    ('reference', 'message'),
    [
        ('ftp://host/model.pth', 'give a path, card://NAME, https'),
        ('hf://owner/name', 'name a file as well'),
        ('card://nothing_like_it', 'no such card'),
    ],
)
def test_references_that_are_none(reference, message):
    with pytest.raises(UserError, match=message):
        resolve(reference)


def test_a_folder_is_its_newest_checkpoint(tmp_path):
    (tmp_path / 'run').mkdir()
    with pytest.raises(UserError, match='run: no checkpoint in this folder'):
        resolve(tmp_path / 'run')
    for epoch in (9, 10):
        torch.save(
            dict(state_dict=dict(w=torch.tensor(epoch))), tmp_path / f'run/epoch_{epoch}.pth'
        )
    assert resolve(tmp_path / 'run') == tmp_path / 'run/epoch_10.pth'
    assert load(tmp_path / 'run')['state_dict'] == dict(w=torch.tensor(10))


def test_tables_of_mmengine_name_addresses(server, monkeypatch, capsys):
    assert (
        address('torchvision://resnet50')
        == 'https://download.pytorch.org/models/resnet50-0676ba61.pth'
    )
    assert '/third_party/resnet50_gn-' in address('open-mmlab://detectron/resnet50_gn')
    with pytest.raises(UserError, match='mmengine knows no such model'):
        resolve('torchvision://resnet49')
    monkeypatch.setitem(store.TABLES, 'torchvision', lambda: dict(a=server.url('whole', NAME)))
    assert resolve('torchvision://a').read_bytes() == BODY
    assert 'of its sha256 8 digits are published' in capsys.readouterr().err
    monkeypatch.setitem(
        store.TABLES, 'torchvision', lambda: dict(a=server.url('whole', 'model-00000000.pth'))
    )
    with pytest.raises(UserError, match='wrong sha256, want 00000000'):
        resolve('torchvision://a')


def test_what_torch_has_downloaded_is_not_downloaded_again(server, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    path = tmp_path / 'torch/hub/checkpoints' / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert resolve(server.url('whole', NAME)) == path
    assert not server.requests
    path.write_bytes(b'another file of this name')
    assert resolve(server.url('whole', NAME)) == cached(server.url('whole', NAME))


def test_a_date_in_a_name_is_no_hash():
    assert digits_in_name('https://a.org/model-3b2dc3af.pth') == '3b2dc3af'
    assert digits_in_name('https://a.org/model-76409952.pth') == '76409952'
    assert digits_in_name('https://a.org/model-20210831.pth') is None


def test_code_at_an_address_is_not_run(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='not a checkpoint of plain data'):
        CheckpointLoader.load_checkpoint(server.url('pickled_code'))
    assert not (tmp_path / 'sbzoo-ran-code').exists()


def test_hub_and_other_addresses_have_places_of_their_own(cache):
    hub = address('hf://timm/resnet50_gn.a1h_in1k/model.safetensors')
    assert hub == 'https://huggingface.co/timm/resnet50_gn.a1h_in1k/resolve/main/model.safetensors'
    place = cache / 'huggingface.co/timm/resnet50_gn.a1h_in1k/resolve/main/model.safetensors'
    assert cached(hub) == place
    assert cached('https://a.org/../../x?id=1') == cache / 'a.org/x%3Fid%3D1'
    assert cached('https://a.org:80/gn%2Bws/x') == cache / 'a.org%3A80/gn%2Bws/x'


def test_safetensors(tmp_path):
    path = tmp_path / 'model.safetensors'
    save_file(dict(w=torch.arange(3.0).half()), path, metadata=dict(config='c'))
    checkpoint = load(path)
    assert checkpoint['meta'] == dict(config='c')
    torch.testing.assert_close(checkpoint['state_dict']['w'], torch.arange(3.0).half())
    assert 'w' in CheckpointLoader.load_checkpoint(str(path))['state_dict']
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match='broken or cut short'):
        load(path)
