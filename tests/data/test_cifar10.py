"""CIFAR-10 from its own files: read right, and only what they may hold."""

import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from torchvision.datasets import CIFAR10

from sbzoo.data import cifar10 as module
from sbzoo.data.cifar10 import CLASSES, MD5, read_cifar10
from sbzoo.errors import UserError

COUNT = 20  # images in a file of the miniature
NAMES = [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']


@pytest.fixture(autouse=True)
def _miniature(monkeypatch):
    monkeypatch.setattr(module, '_BATCH', COUNT)


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote: texts of bytes, and the old name of NumPy's module."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack('<i', len(value)) + value)
        self.memoize(value)

    def save_global(self, value: object, name: str | None = None) -> None:
        module_name = value.__module__.replace('numpy._core', 'numpy.core')
        self.write(f'c{module_name}\n{value.__name__}\n'.encode())
        self.memoize(value)

    dispatch[bytes] = save_bytes
    dispatch[type] = save_global
    dispatch[type(np.empty(0).__reduce__()[0])] = save_global


def dumped(content: object) -> bytes:
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(content)
    return out.getvalue()


def batch(index: int) -> tuple[np.ndarray, list[int]]:
    """Random images, uint8 [20, 3072] channel by channel, and their labels."""
    rng = np.random.RandomState(index)
    return rng.randint(0, 256, (COUNT, 3072), dtype=np.uint8), rng.randint(0, 10, COUNT).tolist()


def python_file(index: int) -> bytes:
    pixels, labels = batch(index)
    return dumped({b'batch_label': b'a batch', b'labels': labels, b'data': pixels})


def binary_file(index: int) -> bytes:
    pixels, labels = batch(index)
    return b''.join(
        bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True)
    )


VERSIONS = {
    'python': ('cifar-10-python.tar.gz', 'cifar-10-batches-py', '', python_file),
    'binary': ('cifar-10-binary.tar.gz', 'cifar-10-batches-bin', '.bin', binary_file),
}


def extracted(root: Path, version: str) -> Path:
    _, folder, suffix, content = VERSIONS[version]
    (root / folder).mkdir(parents=True)
    for index, name in enumerate(NAMES):
        (root / folder / (name + suffix)).write_bytes(content(index))
    return root / folder


def archived(root: Path, version: str) -> Path:
    """The archive, whose files are in another order than they are read in."""
    _, folder, suffix, content = VERSIONS[version]
    root.mkdir(exist_ok=True)
    path = root / VERSIONS[version][0]
    with tarfile.open(path, 'w:gz') as archive:
        for index in reversed(range(len(NAMES))):
            info = tarfile.TarInfo(f'{folder}/{NAMES[index]}{suffix}')
            data = content(index)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def refusal(*args) -> str:
    with pytest.raises(UserError) as caught:
        read_cifar10(*args)
    return str(caught.value)


@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize('write', [extracted, archived])
@pytest.mark.parametrize('itself', [False, True])
def test_both_versions_as_archive_and_extracted(tmp_path, version, write, itself):
    path = write(tmp_path, version)
    root = path if itself else tmp_path
    for split, indices in (('train', range(5)), ('test', [5])):
        pixels, labels = read_cifar10(root, split, {})
        assert pixels.shape == (COUNT * len(indices), 32, 32, 3)
        assert labels.tolist() == [label for i in indices for label in batch(i)[1]]
        for index, found in zip(indices, np.split(pixels, len(indices)), strict=True):
            for image, row in zip(found, batch(index)[0], strict=True):
                red, green, blue = row.reshape(3, 32, 32)
                assert (image == np.dstack([red, green, blue])).all()


def test_torchvision_reads_the_same(tmp_path, monkeypatch):
    """It runs the pickle, so it is shown a file of ours only."""
    folder = extracted(tmp_path, 'python')
    (folder / 'batches.meta').write_bytes(dumped({b'label_names': list(map(str.encode, CLASSES))}))
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    monkeypatch.setattr(CIFAR10, '_load_meta', lambda self: None)
    peer = CIFAR10(tmp_path, train=True)
    pixels, labels = read_cifar10(tmp_path, 'train', {})
    assert (pixels == peer.data).all()
    assert labels.tolist() == peer.targets


def test_the_published_hashes_are_asked_for(tmp_path):
    assert MD5['cifar-10-python.tar.gz'] == 'c58f30108f718f92721af3b95e74349a'
    archive = archived(tmp_path / 'a', 'python')
    found = hashlib.md5(archive.read_bytes()).hexdigest()
    assert refusal(tmp_path / 'a') == (
        f'{archive}: truncated or altered: its md5 is {found}, '
        'published is c58f30108f718f92721af3b95e74349a'
    )
    assert read_cifar10(tmp_path / 'a', 'test', {archive.name: found})[0].shape[0] == COUNT
    extracted(tmp_path / 'b', 'python')
    assert 'data_batch_1: truncated or altered' in refusal(tmp_path / 'b')


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    """It would write a file, if it was loaded as pickles are."""

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / 'harm',)

    folder = extracted(tmp_path, 'python')
    content = pickle.dumps({b'data': Evil(), b'labels': []}, protocol=2)
    (folder / 'test_batch').write_bytes(content)
    message = refusal(tmp_path, 'test', {})
    assert 'test_batch: not a batch of CIFAR-10: it asks for ' in message
    assert not (tmp_path / 'harm').exists()
    pickle.loads(content)
    assert (tmp_path / 'harm').exists()  # so it was a danger


@pytest.mark.parametrize('version', VERSIONS)
def test_truncated_files(tmp_path, version):
    folder = extracted(tmp_path / 'a', version)
    name = 'test_batch' + VERSIONS[version][2]
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    assert f'{name}: not ' in refusal(tmp_path / 'a', 'test', {})
    archive = archived(tmp_path / 'b', version)
    archive.write_bytes(archive.read_bytes()[:5000])
    assert 'cifar-10-' in refusal(tmp_path / 'b', 'train', {})
    assert ': truncated or altered: ' in refusal(tmp_path / 'b', 'train', {})


def test_what_is_not_there(tmp_path):
    assert refusal(tmp_path).startswith(
        f'{tmp_path}: no CIFAR-10; looked for cifar-10-batches-py, cifar-10-python.tar.gz, '
    )
    folder = extracted(tmp_path, 'python')
    (folder / 'data_batch_3').unlink()
    assert refusal(tmp_path, 'train', {}) == f'{folder}/data_batch_3: no such file'
    assert "no split 'val'; it has train, test" in refusal(tmp_path, 'val', {})
    folder.rename(tmp_path / 'other')
    with tarfile.open(tmp_path / 'cifar-10-python.tar.gz', 'w:gz') as archive:
        archive.add(tmp_path / 'other' / 'test_batch', 'cifar-10-batches-py/test_batch')
    assert 'no cifar-10-batches-py/data_batch_1 in it' in refusal(tmp_path, 'train', {})


@pytest.mark.parametrize(
    'change',
    [
        dict(data=np.zeros((COUNT, 3071), dtype=np.uint8)),
        dict(data=np.zeros((COUNT - 1, 3072), dtype=np.uint8)),
        dict(data=np.zeros((COUNT, 3072))),
        dict(labels=[10] * COUNT),
        dict(labels=[0] * (COUNT - 1)),
    ],
)
def test_batches_of_another_kind(tmp_path, change):
    folder = extracted(tmp_path, 'python')
    pixels, labels = batch(5)
    content = {b'data': pixels, b'labels': labels}
    content |= {key.encode(): value for key, value in change.items()}
    (folder / 'test_batch').write_bytes(dumped(content))
    assert 'not 20 images of 32 x 32 with labels of 0 to 9' in refusal(tmp_path, 'test', {})


def test_items(tmp_path):
    extracted(tmp_path, 'binary')  # which has no published hashes
    cfg = dict(type='CIFAR10Dataset', _scope_='mmengine', data_root=str(tmp_path), split='test')
    data = DATASETS.build(cfg)
    assert len(data) == COUNT
    assert data.metainfo['classes'] == CLASSES
    pixels, labels = batch(5)
    item = data[3]
    assert torch.equal(item['inputs'], torch.from_numpy(pixels[3].reshape(3, 32, 32)))
    assert item['data_samples'].gt_label == labels[3]
    assert item['data_samples'].img_path == f'{tmp_path}:test/3'
