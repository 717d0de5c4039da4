"""What other people's files hold is read as data, or refused by its true name."""

import argparse
import collections
import datetime
import pathlib
import pickle
import tarfile
import zipfile
from unittest import mock

import fuzz
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from torch import nn

from sbzoo import UserError
from sbzoo.checkpoint.io import check_fit, load
from sbzoo.norm import Norm

WEIGHTS = {'weight': torch.ones(2, 3), 'bias': torch.zeros(2)}
NET = nn.Linear(3, 2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'model.pth'


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize('kind', fuzz.FORMATS)
@pytest.mark.parametrize('seed', range(40))
def test_a_mutated_checkpoint_is_refused_by_name_or_read_as_it_is(
    tmp_path, kind, seed, monkeypatch
):
    path, mark = tmp_path / f'model.{kind}', tmp_path / 'ran'
    monkeypatch.setenv('FUZZ_MARK', str(mark))
    way = fuzz.mutate(path, kind, seed)
    assert fuzz.judge(path, kind) in ('refused', 'accepted', 'changed')
    if way == 'unchanged':
        assert fuzz.judge(path, kind) == 'accepted'
    assert not mark.exists()


# Values beside the weights


Names = collections.namedtuple('Names', 'a b')
VALUES = dict(
    namespace=argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath('a/b'), sizes=[np.int32(3)]),
    torch_version=torch.__version__,
    config=ConfigDict(model=dict(type='A', depth=[1, dict(b=2)])),
    default=collections.defaultdict(list, a=[1]),
    counter=collections.Counter(ab=2),
    ordered=collections.OrderedDict(a=[1]),
    device=torch.device('cuda:1'),
    dtype=torch.bfloat16,
    numpy_dtype=np.dtype('>f4'),
    size=torch.Size([1, 2]),
    time=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    delta=datetime.timedelta(seconds=3),
    plain=(True, None, 1, 2.5, 'text', b'bytes', 1j, {1}, frozenset([2]), slice(1, 2)),
)  # fmt: skip
KINDS = (*np.typecodes['All'].translate({ord(c): None for c in 'VMmqQ'}), '>i4', '>f8', 'U3', 'S2')
ARRAYS = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in KINDS} | dict(
    fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    empty=np.zeros((0, 2)),
    point=np.array(2.0),
)


@pytest.mark.parametrize('name', VALUES)
def test_plain_values_are_read(path, name):
    found = load(saved(path, dict(state_dict=WEIGHTS, meta={name: VALUES[name]})))['meta'][name]
    assert found == VALUES[name]
    assert not isinstance(found, ConfigDict)  # plain data


@pytest.mark.parametrize('name', ARRAYS)
def test_arrays_and_numbers_of_numpy_are_read(path, name):
    array = ARRAYS[name]
    numbers = list(array.flat)
    found = load(saved(path, dict(state_dict=WEIGHTS, meta=dict(a=[array], numbers=numbers))))
    (read,), read_numbers = found['meta']['a'], found['meta']['numbers']
    assert type(read) is np.ndarray
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    assert read.flags.f_contiguous == array.flags.f_contiguous
    assert read.flags.writeable
    assert read_numbers == numbers
    assert [type(n) for n in read_numbers] == [type(n) for n in numbers]


@pytest.mark.parametrize(
    ('now', 'old'),
    [(b'cnumpy._core.', b'cnumpy.core.'), (b'cpathlib\n', b'cpathlib._local\n')],
)
def test_names_of_other_versions(path, tmp_path, now, old):
    """NumPy 1 and Python 3.13 write other names for the same."""
    log = HistoryBuffer([0.5, np.float32(0.4)], [1, 1])
    values = dict(best=np.float64(0.5), log=log, place=pathlib.PosixPath('/a/b'))
    new, named = saved(path, dict(state_dict=WEIGHTS, meta=values)), tmp_path / 'old.pth'
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(named, 'w') as target:
        for item in source.infolist():
            target.writestr(item.filename, source.read(item).replace(now, old))
    assert old in named.read_bytes()
    meta = load(tmp_path / 'old.pth')['meta']
    assert (meta['best'], meta['place']) == (0.5, pathlib.PurePosixPath('/a/b'))
    assert meta['log'].mean() == log.mean()
    assert meta['log'].max_length == log.max_length


def test_a_log_of_mmengine_is_the_same(path):
    log = HistoryBuffer([0.5, 0.4, 0.3], [1, 2, 3], max_length=3)
    read = load(saved(path, dict(state_dict=WEIGHTS, hub=dict(loss=log))))['hub']['loss']
    assert type(read) is HistoryBuffer
    assert vars(read).keys() == vars(log).keys() - {'statistics_methods'}
    assert [list(x) for x in read.data] == [list(x) for x in log.data]
    read.update(1.0)
    assert read.statistics('current') == 1.0


def test_a_config_of_mmengine_is_its_dict(path):
    config = Config(dict(model=dict(type='A', b=[1])))
    meta = load(saved(path, dict(state_dict=WEIGHTS, meta=dict(cfg=config))))['meta']
    assert meta['cfg'] == dict(model=dict(type='A', b=[1]))


class Forged:
    """A dtype of numbers whose state says that they are addresses of objects."""

    def __reduce__(self):
        state = (3, '<', None, ('a',), {'a': (np.dtype('O'), 0)}, 8, 1, 0)
        return np.dtype, ('f8', False, True), state


def test_a_forged_dtype_reads_numbers(path):
    class Array:
        def __reduce__(self):
            made = np._core.multiarray._reconstruct, (np.ndarray, (0,), b'b')
            return *made, (1, (2,), Forged(), False, b'\x01' * 16)

    read = load(saved(path, dict(state_dict=WEIGHTS, meta=dict(a=Array()))))['meta']['a']
    assert (read.dtype, read.dtype.fields) == (np.dtype('f8'), None)


class Hiding(dict):
    """Is saved as an ordered dict with an attribute in place of a method."""

    def __reduce__(self):
        state = dict(items='hidden', _metadata=dict(version=2))
        return collections.OrderedDict, (), state, None, iter(self.items())


def test_attributes_that_hide_methods_are_dropped(path):
    read = load(saved(path, dict(state_dict=Hiding(WEIGHTS))))['state_dict']
    assert dict(read.items()).keys() == WEIGHTS.keys()
    assert vars(read) == dict(_metadata=dict(version=2))


def test_containers_that_share_their_parts_stay_small(path):
    part = [np.float32(1)]
    for _ in range(60):  # 2 ** 60 numbers, were they copied
        part = [part, part]
    assert load(saved(path, dict(state_dict=WEIGHTS, meta=dict(a=part))))['meta']['a'][0][1]


# Layouts


LAYOUTS = dict(
    mmengine=dict(state_dict=WEIGHTS, meta={}, message_hub={}, optimizer={}),
    timm=WEIGHTS,
    detectron=dict(model=WEIGHTS, iteration=3, __author__='x'),
    tutorial=dict(epoch=3, model_state_dict=WEIGHTS, optimizer_state_dict=dict(state={}), loss=0.3),
    ema=dict(ema=WEIGHTS, epoch=3),
    lightning=dict(
        state_dict={f'model.{k}': v for k, v in WEIGHTS.items()},
        callbacks={'ModelCheckpoint': dict(best=torch.tensor(0.5))},
    ),
    compiled={f'module._orig_mod.{k}': v for k, v in WEIGHTS.items()},
)  # fmt: skip


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('zipped', [True, False])
def test_weights_are_found_and_fit(path, layout, zipped):
    saved(path, LAYOUTS[layout], _use_new_zipfile_serialization=zipped)
    weights = check_fit(path, load(path)['state_dict'], NET)
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[k], WEIGHTS[k]) for k in WEIGHTS)


@pytest.mark.parametrize(('meta', 'read'), [(None, {}), ('notes', dict(meta='notes'))])
def test_meta_is_a_dict(path, meta, read):
    assert load(saved(path, dict(state_dict=WEIGHTS, meta=meta)))['meta'] == read


def test_safetensors_under_another_name(path):
    save_file(WEIGHTS, path)
    assert load(path)['state_dict'].keys() == WEIGHTS.keys()


def test_weights_of_any_type_are_read(path):
    base = torch.arange(8.0)
    dtypes = torch.half, torch.bfloat16, torch.float8_e4m3fn, torch.cfloat, torch.int8, torch.bool
    weights = {str(dtype): base.to(dtype) for dtype in dtypes}
    weights |= dict(a=base[:4], b=base[2:], wide=base[:1].expand(9, 9), nothing=torch.zeros(0))
    read = load(saved(path, weights))['state_dict']
    for key, value in weights.items():
        assert read[key].dtype == value.dtype
        torch.testing.assert_close(read[key], value, rtol=0, atol=0)
    assert read['a'].untyped_storage().data_ptr() == read['b'].untyped_storage().data_ptr()


def test_a_complex_weight_is_none_of_a_real_network(path):
    saved(path, {k: v.cfloat() for k, v in WEIGHTS.items()})
    with pytest.raises(UserError, match=r'weight complex \[2, 3\] for \[2, 3\]'):
        check_fit(path, load(path)['state_dict'], NET, strict=False)


@pytest.mark.parametrize('kind', ['nan', 'inf', '-inf', 'overflow'])
def test_weights_that_are_not_finite_are_said(path, capsys, kind):
    weights = dict(a=torch.ones(3), b=torch.full((3,), 6e4).half(), c=torch.ones(2))
    if kind != 'overflow':
        weights['b'][:2] = weights['c'][0] = float(kind)
    load(saved(path, weights))
    said = capsys.readouterr().out
    line = 'model.pth: b has 2 values that are NaN or infinite, and so have 1 tensors more'
    assert (line in said) == (kind != 'overflow')


REFUSED = {
    'empty': (b'', 'not a checkpoint, but an empty file'),
    'page': (b'\n<!DOCTYPE html><html>', 'not a checkpoint, but a web page'),
    'lfs': (b'version https://git-lfs.github.com/spec/v1\noid', 'run git lfs pull'),
    'index': (b'{"weight_map": {}}', 'JSON, perhaps the index of a checkpoint in parts'),
    'text': (b'hello', "that torch.save has not written; it begins with b'hello'"),
    'pickle': (pickle.dumps(dict(a=1)), r'a pickle of its own, not of torch.save'),
    'cut_zip': (b'PK\x03\x04' + bytes(50), r'broken or cut short \(BadZipFile'),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_what_is_no_checkpoint_is_named(path, kind):
    content, message = REFUSED[kind]
    path.write_bytes(content)
    with pytest.raises(UserError, match=f'model.pth: .*{message}') as error:
        load(path)
    assert '\n' not in str(error.value)


def put_zip(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('photos/a.txt', 'a')


def put_tar(path):
    with tarfile.open(path, 'w') as archive:
        archive.add(__file__, 'pickle')


def put_compressed(path):
    saved(path, WEIGHTS)
    fuzz._rewrite(path, lambda name, part: part, zipfile.ZIP_DEFLATED)


def put_damaged(path):
    data = saved(path, dict(w=torch.arange(100.0))).read_bytes()
    start = data.find(torch.arange(100.0).numpy().tobytes())
    path.write_bytes(data[: start + 9] + b'!' + data[start + 10 :])


class Bomb:
    def __reduce__(self):
        return bytearray, (4 * 10**9,)


WRITTEN = dict(
    torchscript=(lambda p: torch.jit.save(torch.jit.script(nn.ReLU()), p), 'TorchScript archive'),
    zip=(put_zip, 'a zip archive, but not of torch.save'),
    tar=(put_tar, 'a tar archive'),
    compressed=(put_compressed, 'compressed, as torch.save does not'),
    damaged=(put_damaged, r'damaged: model/data/0 is not what was saved \(CRC-32\)'),
    protocol=(lambda p: saved(p, WEIGHTS, pickle_protocol=4), 'no pickle of protocol 2'),
    module=(lambda p: saved(p, nn.ReLU()), r'it asks for torch.nn.modules.activation.ReLU, which'),
    old_module=(
        lambda p: saved(p, nn.ReLU(), _use_new_zipfile_serialization=False),
        'more than tensors and plain values|asks for torch.nn.modules.activation.ReLU',
    ),
    record=(
        lambda p: saved(p, dict(state_dict=WEIGHTS, a=np.zeros(2, [('a', 'i4')]))),
        r'asks for numpy.dtype\(V4\)',
    ),
    named_tuple=(lambda p: saved(p, dict(state_dict=WEIGHTS, a=Names(1, 2))), 'test_formats.Names'),
    bytes=(lambda p: saved(p, dict(state_dict=WEIGHTS, a=Bomb())), 'it asks for bytearray'),
)  # fmt: skip


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', WRITTEN)
def test_what_other_tools_write_is_named(path, kind):
    put, message = WRITTEN[kind]
    put(path)
    with pytest.raises(UserError, match=f'model.pth: .*(?:{message})') as error:
        load(path)
    assert '\n' not in str(error.value)


STATES = dict(
    nothing=({}, 'has no state_dict, but is a dict'),
    a_list=([1], 'has no state_dict, but is a list'),
    no_weights=(dict(epoch=3, lr=0.1), r'no state_dict of tensors, but epoch \(a int\), lr'),
    empty=(dict(state_dict={}), r'no state_dict of tensors, but state_dict \(a dict\)'),
    two=(dict(g=WEIGHTS, d=WEIGHTS), r'no state_dict of tensors, but g \(a dict\), d'),
    number=(dict(state_dict=WEIGHTS | dict(n=3)), r"state_dict\['n'\] is a int, where weights are"),
    bare=(WEIGHTS | dict(epoch=3), "'epoch' is a int, where weights are a dense tensors?"),
    nested=(dict(model=dict(g=WEIGHTS)), r"model\['g'\] is a dict"),
    array=(dict(state_dict=dict(a=np.ones(2))), r"state_dict\['a'\] is a ndarray"),
    key=(dict(state_dict={0: torch.ones(1)}), r'state_dict\[0\]'),
    sparse=(dict(state_dict=dict(a=torch.eye(2).to_sparse())), r"\['a'\] is a sparse tensor"),
    meta=(dict(state_dict=dict(a=torch.empty(2, device='meta'))), r"\['a'\] is a meta tensor"),
    quantized=(
        dict(a=torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)),
        "'a' is a quantized tensor",
    ),
)  # fmt: skip


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', STATES)
def test_what_is_no_dict_of_tensors_is_refused_by_name(path, kind):
    content, message = STATES[kind]
    with pytest.raises(UserError, match=f'model.pth: .*{message}'):
        load(saved(path, content))


def test_without_checksums_torch_writes_readable_files(path):
    with mock.patch('torch.utils.serialization.config.save.compute_crc32', False):
        saved(path, WEIGHTS)
    assert load(path)['state_dict'].keys() == WEIGHTS.keys()


def test_a_file_of_before_torch_1_6_that_lacks_data(path):
    weight = torch.ones(4)
    saved(path, dict(a=weight, b=weight[:2]), _use_new_zipfile_serialization=False)
    key = str(weight.untyped_storage()._cdata).encode()
    first, second, names = path.read_bytes().split(key, 2)
    path.write_bytes(key.join([first, second]) + key[:-1] + b'x' + names)
    with pytest.raises(UserError, match='it lacks the data of a tensor'):
        load(path)


def test_published_names_of_a_wrapped_network_fit(path):
    net = nn.Module()
    net.conv1, net.bn1 = nn.Conv2d(3, 4, 1), Norm(4, spec='gn2')
    theirs = {f'model.{k}'.replace('bn1', 'gn1'): v for k, v in net.state_dict().items()}
    assert check_fit(path, theirs, net).keys() == net.state_dict().keys()
