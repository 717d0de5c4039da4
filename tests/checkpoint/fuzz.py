"""Mutated checkpoints: each is read as it is, or refused by one error that names the file.

    python tests/checkpoint/fuzz.py --count 100     # of each format

In a process of its own, so that a crash counts; it also counts bare errors, code that ran, tensors
that are not those of the file, and memory.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import struct
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from sbzoo import UserError
from sbzoo.checkpoint.io import load

FORMATS = 'zip', 'legacy', 'safetensors'
MEMORY = 2e9  # bytes
DTYPES = dict(
    F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16, I64=torch.int64,
    F8_E4M3=torch.float8_e4m3fn, I8=torch.int8, BOOL=torch.bool,
)  # fmt: skip
# What another reader needs for what `checkpoint` returns
KNOWN = (
    HistoryBuffer, getattr, np.ndarray, np.dtype, np._core.multiarray._reconstruct,
    np._core.multiarray.scalar, type(np.dtype('f4')), type(np.dtype('f8')), type(np.dtype('i8')),
)  # fmt: skip


class Attack:
    """Leaves a mark if a pickle's code is run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mknod, (str(self.mark),)


def checkpoint() -> dict:
    """As mmengine's, with each kind of value that one has."""
    torch.manual_seed(0)
    weight = torch.randn(8, 3, 3, 3)
    return dict(
        state_dict={
            'conv.weight': weight,
            'conv.shared': weight[:2],
            'bn.num_batches_tracked': torch.tensor(7),
            'fc.weight': torch.randn(4, 6).half().t(),
            'mask': torch.tensor([True, False]),
        },
        meta=dict(epoch=1, iter=2, best=np.float32(0.5), time='20261125', classes=('a', 'b')),
        message_hub=dict(log_scalars={'loss': HistoryBuffer([0.5, 0.4], [1, 1])}),
        optimizer=dict(state={0: dict(step=3, exp_avg=torch.ones(5))}, param_groups=[dict(lr=0.1)]),
    )


def save(saved: dict, path: Path, kind: str) -> None:
    """Write what `checkpoint` returns, or another of its kind, in a format."""
    if kind == 'safetensors':
        save_file({k: v.contiguous().clone() for k, v in saved['state_dict'].items()}, path)
    else:
        torch.save(saved, path, _use_new_zipfile_serialization=kind == 'zip')


# Changes of bytes


def unchanged(data: bytes, rng: random.Random) -> bytes:
    return data


def flipped(data: bytes, rng: random.Random) -> bytes:
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def zeroed(data: bytes, rng: random.Random) -> bytes:
    start, length = _place(data, rng), rng.randint(1, 64)
    return data[:start] + bytes(length) + data[start + length :]


def inserted(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + rng.randbytes(rng.randint(1, 16)) + data[start:]


def moved(data: bytes, rng: random.Random) -> bytes:
    start, to = _place(data, rng), _place(data, rng)
    return data[:to] + data[start : start + 32] + data[to + 32 :]


def digits_changed(data: bytes, rng: random.Random) -> bytes:
    """A number becomes huge: a size, an offset, or a length."""
    start = _place(data, rng)
    return data[:start] + struct.pack('<q', rng.choice([2**31 - 1, 2**40, -1])) + data[start + 8 :]


def _place(data: bytes, rng: random.Random) -> int:
    """Anywhere, and twice as often near the start, where the structure is."""
    return rng.randrange(rng.choice([len(data), len(data), min(len(data), 1500)]))


BYTES = unchanged, flipped, cut, zeroed, inserted, moved, digits_changed


# Changes of what is saved


def type_swapped(saved: dict, rng: random.Random) -> None:
    key = rng.choice(list(saved['state_dict']))
    saved['state_dict'][key] = rng.choice(
        [
            3, 'text', None, [1.0], {'a': 1}, np.ones(2), torch.device('cpu'), (torch.ones(1),),
            torch.ones(2, 2).to_sparse(), torch.empty(9, device='meta'), np.float64(2),
            torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), HistoryBuffer([1], [1]),
        ]
    )  # fmt: skip


def key_changed(saved: dict, rng: random.Random) -> None:
    weights = saved['state_dict']
    weights[rng.choice([0, None, ('a',), 2.5, True])] = weights.pop(rng.choice(list(weights)))


def part_changed(saved: dict, rng: random.Random) -> None:
    saved['state_dict'] = rng.choice([None, [], {}, 'weights', torch.ones(3), 5, saved])


def code_added(saved: dict, rng: random.Random) -> None:
    part = rng.choice([saved, saved['meta'], saved['state_dict'], saved['optimizer']])
    part['code'] = rng.choice([Attack(Path(os.environ['FUZZ_MARK'])), print, torch.nn.Linear(2, 2)])


VALUES = type_swapped, key_changed, part_changed, code_added


# Changes of a header or of an archive


def huge_claim(path: Path, kind: str, rng: random.Random) -> None:
    """A tensor or a storage of up to 2**40 values, of which the file has a few."""
    data, huge = path.read_bytes(), rng.choice([2**31 - 1, 2**30])
    claim = struct.pack('<i', huge)
    for short in (b'K\xd8', b'K\x08', b'K\x18', b'K\x05'):  # 216, 8, 24 and 5 as pickles have them
        if rng.random() < 0.7:
            data = data.replace(short, b'J' + claim)
    if kind == 'zip':
        _rewrite(path, lambda name, part: _claims(part, claim) if 'data.pkl' in name else part)
    else:
        path.write_bytes(data)


def _claims(part: bytes, claim: bytes) -> bytes:
    return part.replace(b'K\xd8', b'J' + claim).replace(b'K\x08', b'J' + claim)


def _rewrite(path: Path, change: Callable, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as source:
        parts = {part.filename: source.read(part) for part in source.infolist()}
    with zipfile.ZipFile(path, 'w', method) as target:
        for name, part in parts.items():
            if (changed := change(name, part)) is not None:
                target.writestr(name, changed)


def archive_changed(path: Path, kind: str, rng: random.Random) -> None:
    with zipfile.ZipFile(path) as source:
        victim = rng.choice(source.namelist())
    other = rng.choice([None, b'', b'x', bytes(2**20)])
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    _rewrite(path, lambda name, part: other if name == victim else part, method)


def header_changed(path: Path, kind: str, rng: random.Random) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack('<Q', data[:8])
    header = json.loads(data[8 : 8 + length])
    entry = header[rng.choice([k for k in header if k != '__metadata__'])]
    entry.update(
        rng.choice(
            [
                dict(dtype=rng.choice(['F64', 'I8', 'F8_E4M3', 'X', 3])),
                dict(shape=rng.choice([[2**40], [-1], [], [0], 'x', [2**63]])),
                dict(data_offsets=rng.choice([[0, 2**50], [8, 0], [0], 'x'])),
            ]
        )
    )
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + data[8 + length :])


FILES = dict(zip=(huge_claim, archive_changed), legacy=(huge_claim,), safetensors=(header_changed,))


def mutate(path: Path, kind: str, seed: int) -> str:
    """Write a checkpoint that is changed in one way, and return which."""
    rng, saved = random.Random(seed), checkpoint()
    ways = BYTES + FILES[kind] + (() if kind == 'safetensors' else VALUES)
    way = ways[seed % len(ways)]
    if way in VALUES:
        way(saved, rng)
    save(saved, path, kind)
    if way in BYTES:
        path.write_bytes(way(path.read_bytes(), rng))
    elif way not in VALUES:
        way(path, kind, rng)
    return way.__name__


def judge(path: Path, kind: str) -> str:
    """What became of a file: refused, accepted as saved, or, without a checksum, as it is now.

    Raises:
        Exception: What is none of these.
    """
    refusal = None
    try:
        weights = load(path)['state_dict']
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert str(path) in refusal, 'the file is not named'
        assert '\n' not in refusal, 'more than a line'
        return 'refused'
    if _equal(weights, checkpoint()['state_dict']):
        return 'accepted'
    assert kind != 'zip', 'other weights than were saved'
    assert _equal(weights, _independent(path, kind)), 'other weights than the file has'
    return 'changed'


def _equal(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[k].dtype == theirs[k].dtype
        and ours[k].shape == theirs[k].shape
        and _bytes(ours[k]) == _bytes(theirs[k])
        for k in ours
    )


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _independent(path: Path, kind: str) -> dict:
    """The tensors of a file, by another reader."""
    if kind == 'legacy':
        with torch.serialization.safe_globals(list(KNOWN)):
            return torch.load(path, weights_only=True)['state_dict']
    data = path.read_bytes()
    (length,) = struct.unpack('<Q', data[:8])
    header, body, found = json.loads(data[8 : 8 + length]), data[8 + length :], {}
    for key, entry in header.items():
        if key != '__metadata__':
            part = bytearray(body[slice(*entry['data_offsets'])])
            values = torch.frombuffer(part, dtype=torch.uint8) if part else torch.empty(0)
            found[key] = values.view(DTYPES[entry['dtype']]).reshape(entry['shape'])
    return found


def run(kind: str, seeds: range, results: multiprocessing.SimpleQueue) -> None:
    """Judge many; what is wrong is told by its traceback."""
    warnings.simplefilter('ignore')
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(os.environ.setdefault('FUZZ_MARK', f'{folder}/ran'))
        for seed in seeds:
            path = Path(folder, f'model.{"safetensors" if kind == "safetensors" else "pth"}')
            way = mutate(path, kind, seed)
            results.put((seed, way, None, 0))
            try:
                outcome = judge(path, kind)
                assert not mark.exists(), 'code ran'
            except BaseException:
                outcome = f'WRONG: {traceback.format_exc()}'
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            results.put((seed, way, outcome, peak))
    results.put(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--count', type=int, default=100, metavar='N', help='of each format')
    count, wrong = parser.parse_args().count, 0
    for kind in FORMATS:
        results, counts, peak = multiprocessing.SimpleQueue(), Counter(), 0
        seed, way = None, 'its start'
        worker = multiprocessing.Process(target=run, args=(kind, range(count), results))
        worker.start()
        while True:
            while results.empty() and worker.is_alive():
                worker.join(0.05)
            if results.empty():
                counts['CRASH'] += 1
                print(f'{kind}: crash after seed {seed} ({way}), exit status {worker.exitcode}')
                break
            if (told := results.get()) is None:
                break
            seed, way, outcome, now = told
            if outcome:
                peak = max(peak, now)
                counts[outcome.split(':')[0]] += 1
                if outcome.startswith('WRONG'):
                    print(f'{kind} {seed} {way}: {outcome}')
        wrong += counts['WRONG'] + counts['CRASH'] + (peak > MEMORY)
        print(f'{kind}: {dict(counts)}; peak memory {peak / 1e9:.2f} GB')
    raise SystemExit(bool(wrong))


if __name__ == '__main__':
    main()
