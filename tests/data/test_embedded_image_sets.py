"""The embedded sets of images and of domains to translate between, and the configs of data."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from sklearn.datasets import load_digits

from sbzoo.data.embedded import image_sets as module
from sbzoo.data.embedded.digit_scenes import photograph
from sbzoo.data.embedded.image_sets import SETS, ensure_embedded
from sbzoo.errors import UserError

ROOT = Path(__file__).parents[2]
BASES = sorted(ROOT.glob('configs/gan/_base_/*.py'))
DATA = {'cifar10', 'image_folder_64', 'image_folder_128', 'horse2zebra'}


@pytest.fixture(scope='session')
def sets(tmp_path_factory) -> Path:
    """A cache in which every set is built."""
    root = tmp_path_factory.mktemp('sets')
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # other pixels than were published
        for name in SETS:
            ensure_embedded(name, root / name)
    return root


def pictures(folder: Path) -> np.ndarray:
    """All pictures of a folder and those below, in the order of their file names."""
    paths = sorted(folder.rglob('*.png'), key=lambda path: path.name)
    return np.stack([np.array(Image.open(path)) for path in paths])


def test_digits_are_scikit_learns_by_index_modulo_6(sets):
    source = load_digits()
    for split, held_out in (('train', False), ('test', True)):
        chosen = (np.arange(1797) % 6 == 5) == held_out
        folder = sets / 'digits32' / split
        labels = [int(p.parent.name) for p in sorted(folder.rglob('*.png'), key=lambda p: p.name)]
        assert labels == source.target[chosen].tolist()
        grey = np.minimum(source.images[chosen] * 16, 255).astype(np.uint8)
        resized = [Image.fromarray(g).resize((32, 32), Image.Resampling.BICUBIC) for g in grey]
        expected = np.stack([np.array(image) for image in resized])
        assert (pictures(folder) == expected[..., None]).all()


def test_faces_are_the_first_hundred_pictures(sets):
    import skimage

    faces = np.load(Path(skimage.__file__).parent / 'data' / 'lfw_subset.npy')[:100]
    train, test = (pictures(sets / 'faces32' / split) for split in ('train', 'test'))
    assert train.shape == (84, 32, 32, 3)
    assert test.shape == (16, 32, 32, 3)
    for found, face in zip(test, faces[5::6], strict=True):
        small = Image.fromarray(found).convert('L').resize((25, 25), Image.Resampling.BICUBIC)
        assert np.abs(np.array(small) / 255 - face).mean() < 0.04


def test_textures_of_the_splits_share_no_pixel(monkeypatch):
    """Where a photograph is a ramp from left to right, a crop says where it was taken."""
    columns = np.broadcast_to(np.arange(512, dtype=np.uint16) // 2, (512, 512)).astype(np.uint8)
    ramp = Image.fromarray(columns).convert('RGB')
    monkeypatch.setattr(module, 'photograph', lambda name: ramp)
    found = {'train': set(), 'test': set()}
    for name, pixels in SETS['textures64'].images():
        found[name.split('/')[0]].update(np.unique(pixels).tolist())
    assert max(found['test']) < 128 // 2 <= min(found['train'])
    assert min(found['test']) < 5
    assert max(found['train']) > 250


def test_textures(sets):
    for split, count in (('train', 250), ('test', 50)):
        folders = sorted((sets / 'textures64' / split).iterdir())
        assert [folder.name for folder in folders] == ['brick', 'grass', 'gravel', 'tissue']
        for folder, source in zip(folders, ('brick', 'grass', 'gravel', 'ihc'), strict=True):
            found = pictures(folder)
            assert found.shape == (count, 64, 64, 3)
            colour = np.array(photograph(source)).mean(axis=(0, 1))
            assert np.abs(found.mean(axis=(0, 1, 2)) - colour).max() < 30


@pytest.mark.parametrize('name', ['plain2striped', 'outlines'])
def test_no_digit_is_in_two_splits_or_domains(monkeypatch, name):
    drawn = []
    shape = module._shape

    def spy(strokes: np.ndarray, *args) -> np.ndarray:
        drawn.append(strokes.tobytes())
        return shape(strokes, *args)

    monkeypatch.setattr(module, '_shape', spy)
    for slow in ('_outline', '_blend'):
        monkeypatch.setattr(module, slow, lambda *args: args[0])
    folders = [name.split('/')[0] for name, _ in SETS[name].images()]
    seen = {}
    for folder, digit in zip(folders, drawn, strict=True):
        seen.setdefault(digit, []).append(folder)
    assert all(len(where) == 1 for where in seen.values())
    counts = {folder: folders.count(folder) for folder in folders}
    expected = {
        'plain2striped': dict(trainA=500, trainB=500, testA=50, testB=50),
        'outlines': dict(train=1000, test=100),
    }
    assert counts == expected[name]


def test_plain_digits_are_brown_and_striped_ones_black_and_white(sets):
    plain, striped = (pictures(sets / 'plain2striped' / f'test{d}').astype(int) for d in 'AB')

    def fractions(images: np.ndarray) -> tuple[float, ...]:
        red, green = images[..., 0], images[..., 1]
        grey = np.ptp(images, axis=-1) < 20
        masks = (red > green + 30, green > red + 10, grey & (red > 200), grey & (red < 50))
        return tuple(mask.mean() for mask in masks)

    brown, grass, white, black = fractions(plain)
    assert 0.2 < brown < 0.5 < grass
    assert max(white, black) < 0.02
    brown, grass, white, black = fractions(striped)
    assert brown < 0.01
    assert grass > 0.5
    assert min(white, black) > 0.08


def test_outlines_surround_the_colour_of_the_label(sets):
    labels = load_digits().target[5::6][:100]
    pairs = pictures(sets / 'outlines/test').astype(int)
    assert pairs.shape == (100, 64, 128, 3)
    source, target = pairs[:, :, :64], pairs[:, :, 64:]
    inside = (target == np.array(module._COLOURS)[labels][:, None, None]).all(axis=-1)
    outside = (target == module._GROUND).all(axis=-1)
    assert (inside.sum(axis=(1, 2)) > 300).all()
    assert (inside | outside).mean() > 0.9  # the rest is smooth edges
    line = source.mean(axis=-1) < 200
    edges = ~(inside | outside)
    assert line[edges].mean() > 0.99
    assert (source[outside & ~line] == 255).mean() > 0.9


def test_unknown_sets(tmp_path):
    with pytest.raises(UserError, match="no embedded set 'digits'; there are digits32, faces32, "):
        ensure_embedded('digits', tmp_path / 'digits')
    assert list(tmp_path.iterdir()) == []


def test_other_pixels_are_told(tmp_path, monkeypatch):
    made = module.EmbeddedSet(lambda: iter([('a/b.png', np.zeros((2, 2), np.uint8))]), 1, '00')
    monkeypatch.setitem(SETS, 'one', made)
    with pytest.warns(UserWarning, match='gives other images'):
        ensure_embedded('one', tmp_path / 'one')
    assert Image.open(tmp_path / 'one/a/b.png').size == (2, 2)


# --- the configs ----------------------------------------------------------------------------


def first_batch(loader: dict) -> dict:
    loader = Config(dict(loader)).to_dict()
    loader['dataset']['_scope_'] = 'mmengine'
    return next(iter(Runner.build_dataloader(loader, seed=0)))


@pytest.mark.parametrize(
    ('name', 'size', 'labels'),
    [('digits32', 32, range(10)), ('faces32', 32, None), ('textures64', 64, range(4))],
)
def test_configs_of_images(sets, monkeypatch, name, size, labels):
    monkeypatch.setenv('SBZOO_CACHE', str(sets))
    batch = first_batch(Config.fromfile(ROOT / f'configs/_base_/{name}.py').train_dataloader)
    assert [image.shape for image in batch['inputs']] == [(3, size, size)] * 2
    for sample in batch['data_samples']:
        assert Path(sample.img_path).is_relative_to(sets / name / 'train')
        assert ('gt_label' in sample) == (labels is not None)
        assert labels is None or sample.gt_label in labels


@pytest.mark.parametrize('name', ['plain2striped', 'outlines'])
def test_configs_of_translation(sets, monkeypatch, name):
    monkeypatch.setenv('SBZOO_CACHE', str(sets))
    cfg = Config.fromfile(ROOT / f'configs/_base_/{name}.py')
    for loader, split in ((cfg.train_dataloader, 'train'), (cfg.test_dataloader, 'test')):
        batch = first_batch(loader)
        assert batch['data_samples'][0].img_path.startswith(f'{sets}/{name}/{split}')
        assert all(b.shape == (3, 64, 64) for key in batch['inputs'] for b in batch['inputs'][key])
    assert set(batch['inputs']) == {'source', 'target'}
    assert not torch.equal(batch['inputs']['source'][0], batch['inputs']['target'][0])


@pytest.mark.parametrize('path', BASES, ids=lambda path: path.stem)
def test_full_scale_configs_ask_for_their_data(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if path.stem not in DATA:
        pytest.skip('no data set')
    cfg = Config.fromfile(path)
    with pytest.raises(UserError, match=r'^data/\w+'):
        first_batch(cfg.train_dataloader)


@pytest.mark.parametrize('size', [64, 128])
def test_full_scale_folders(size, tmp_path, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))
    cfg = Config.fromfile(ROOT / f'configs/gan/_base_/image_folder_{size}.py')
    loader = {**cfg.train_dataloader, 'num_workers': 0, 'persistent_workers': False}
    loader['dataset']['data_root'] = str(tmp_path / 'photos')
    (tmp_path / 'photos').mkdir()
    for name in 'abc':
        Image.new('RGB', (150, 130), (1, 2, 3)).save(tmp_path / f'photos/{name}.png')
    batch = first_batch(loader)
    assert [image.shape for image in batch['inputs']] == [(3, size, size)] * 2


def test_full_scale_domains(tmp_path, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))
    cfg = Config.fromfile(ROOT / 'configs/gan/_base_/horse2zebra.py')
    for folder in ('trainA', 'trainB', 'testA', 'testB'):
        (tmp_path / folder).mkdir()
        Image.new('RGB', (300, 300)).save(tmp_path / folder / 'a.png')
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(tmp_path)
        assert first_batch(loader)['inputs']['target'][0].shape == (3, 256, 256)
