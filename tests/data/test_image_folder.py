"""Folders of images, alone and in pairs: what is read, and every fault by its line."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from PIL import Image

from sbzoo.data import image_folder as module
from sbzoo.data.image_folder import decode, read_image_folder
from sbzoo.data.paired_folders import read_domains, read_pairs
from sbzoo.errors import UserError
from sbzoo.images import EXTENSIONS, center_crop, to_rgb

FLIP = dict(type='mmengine.RandomFlip', prob=0.5)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / 'data'


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **kwargs) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **kwargs)
    return path


def fill(root: Path, *names: str, size: int = 8) -> None:
    for seed, name in enumerate(names):
        save(root / name, noise(size, size, 3, seed=seed))


def refusal(call, *args) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    return str(caught.value)


def build(**cfg):
    cfg = Config(dict(cfg)).to_dict()
    return DATASETS.build({'_scope_': 'mmengine', **cfg})


# --- one image ------------------------------------------------------------------------------


def test_transparent_pixels_are_on_white():
    rgba = noise(6, 5, 4)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(np.array(to_rgb(Image.fromarray(rgba))) - expected).max() <= 1
    grey = Image.fromarray(rgba).convert('LA')
    values = np.array(grey).astype(float)
    expected = values[..., 0] * alpha[..., 0] + 255 * (1 - alpha[..., 0])
    for channel in np.moveaxis(np.array(to_rgb(grey)), -1, 0):
        assert np.abs(channel - expected).max() <= 1


def test_palettes(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [1, 2]], dtype=np.uint8), mode='P')
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    index = np.array([[0, 1], [1, 2]])
    assert (np.array(to_rgb(picture)) == colours[index]).all()
    picture.save(tmp_path / 'a.gif', transparency=1)
    colours[1] = 255
    assert (np.array(to_rgb(Image.open(tmp_path / 'a.gif'))) == colours[index]).all()


@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.pgm'])
def test_sixteen_bits(tmp_path, name):
    grey = noise(4, 4)
    path = save(tmp_path / name, grey.astype(np.uint16) * 257)
    assert (np.array(to_rgb(Image.open(path))) == grey[..., None]).all()


@pytest.mark.parametrize(('mode', 'value'), [('1', 255), ('L', 90), ('CMYK', (0, 0, 0, 0))])
def test_other_modes(mode, value):
    expected = 90 if mode == 'L' else 255
    assert (np.array(to_rgb(Image.new(mode, (3, 2), value))) == expected).all()


@pytest.mark.parametrize(('orientation', 'turns'), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_photographs_stand_upright(tmp_path, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = noise(4, 6, 3)
    path = save(tmp_path / 'a.png', pixels, exif=exif)
    assert (np.array(to_rgb(Image.open(path))) == np.rot90(pixels, turns)).all()


def test_numbers_of_no_known_range_are_refused(root):
    save(root / 'a.tif', np.full((4, 4), 0.5, dtype=np.float32))
    save(root / 'b.tif', np.full((4, 4), 70000, dtype=np.int32))
    lines = refusal(decode, read_image_folder(root), 4).split('\n  ')
    assert lines[0] == f'{root}: 2 of 2 images cannot be read'
    assert 'floating-point' in lines[1]
    assert '70000' in lines[2]


def lanczos(size: int, target: int) -> np.ndarray:
    """The matrix [target, size] that resamples a row by Lanczos' filter of three lobes."""
    scale = size / target
    centres = (np.arange(target) + 0.5) * scale - 0.5
    x = (np.arange(size) - centres[:, None]) / scale
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize('shape', [(40, 40), (50, 40), (40, 51)])
def test_the_centre_crop_by_lanczos_filter(shape):
    pixels = noise(*shape, 3) // 2 + 64  # nothing is cut between the two passes
    top, left = (shape[0] - 40) // 2, (shape[1] - 40) // 2
    square = pixels[top : top + 40, left : left + 40].astype(float)
    matrix = lanczos(40, 12)
    expected = np.einsum('yh,xw,hwc->yxc', matrix, matrix, square)
    found = np.array(center_crop(Image.fromarray(pixels), 12)).astype(float)
    assert np.abs(found - expected).max() <= 1.1  # it is rounded after both


def test_an_image_of_the_right_size_keeps_its_pixels(root):
    fill(root, 'a.png', 'b.png')
    expected = np.stack([np.array(Image.open(root / name)) for name in ('a.png', 'b.png')])
    assert (decode(read_image_folder(root), 8) == expected).all()


# --- a folder -------------------------------------------------------------------------------


def test_every_format_in_every_folder(root):
    names = [f'{e}/deep/X.{e.upper()}' for e in EXTENSIONS]
    fill(root, *names)
    (root / 'readme.txt').write_text('no image')
    fill(root, '.hidden/a.png')
    (root / '._a.png').write_bytes(b'what another system leaves behind')
    folder = read_image_folder(str(root))
    assert [folder.name(path) for path in folder.paths] == sorted(names)
    assert decode(folder, 8).shape == (len(EXTENSIONS), 8, 8, 3)


def test_links_are_followed(root, tmp_path):
    fill(tmp_path / 'elsewhere', 'a.png')
    root.mkdir()
    (root / 'link').symlink_to(tmp_path / 'elsewhere')
    assert read_image_folder(root).num_images == 1
    (tmp_path / 'elsewhere/circle').symlink_to(root)  # and back again
    (root / 'self').symlink_to(root)
    assert read_image_folder(root).num_images == 1


def test_an_image_counts_once_however_many_links_lead_to_it(root, tmp_path):
    fill(root, 'b/1.png', 'c/2.png')
    fill(tmp_path / 'store', '3.png')
    (root / 'b/to_c').symlink_to(root / 'c')
    (root / 'c/to_b').symlink_to('../b')  # in a circle that neither folder is above
    (root / 'a').symlink_to(root / 'b')
    (root / 'c/again.png').symlink_to('../b/1.png')
    for link in 'd', 'e':
        (root / link).symlink_to(tmp_path / 'store')
    folder = read_image_folder(root)
    assert [folder.name(path) for path in folder.paths] == ['b/1.png', 'c/2.png', 'd/3.png']
    assert read_image_folder(root / 'a').num_images == 2  # a link itself


def test_links_out_of_the_folder_are_images_of_their_own(root, tmp_path):
    """As caches by content have them, where two files of equal bytes are one."""
    fill(tmp_path / 'store', 'bytes.png')
    root.mkdir()
    for name in '1.png', '2.png':
        (root / name).symlink_to(tmp_path / 'store/bytes.png')
    assert read_image_folder(root).num_images == 2


def test_classes_are_sub_folders(root):
    fill(root, 'dog/1.png', 'cat/a/2.png', 'cat/3.png')
    folder = read_image_folder(root, labels=True)
    assert folder.classes == ('cat', 'dog')
    assert folder.labels == [0, 0, 1]
    assert read_image_folder(root).classes is None
    assert read_image_folder(root).labels is None


def test_sizes(root):
    save(root / 'a.png', noise(10, 30, 3))
    save(root / 'b.png', noise(16, 16))
    assert read_image_folder(root).read_sizes() == ((30, 10), (16, 16))


def test_folders_without_images(root, tmp_path):
    assert refusal(read_image_folder, root) == f'{root}: no such folder'
    root.mkdir()
    assert refusal(read_image_folder, root).endswith('the folder holds nothing')
    (root / 'a.txt').touch()
    assert 'no images (jpg, ' in refusal(read_image_folder, root)
    assert refusal(read_image_folder, root).endswith('the folder holds a.txt')
    assert refusal(read_image_folder, root / 'a.txt') == f'{root}/a.txt: not a folder'


def test_images_of_no_class(root):
    fill(root, 'cat/1.png', 'stray.png')
    message = refusal(read_image_folder, root, True)
    assert '1 image (stray.png) in no sub-folder' in message


@pytest.fixture
def broken(root) -> Path:
    fill(root, 'good.png', 'short.png', 'short.jpg', size=40)
    for name in ('short.png', 'short.jpg'):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])
    (root / 'text.png').write_text('no image')
    (root / 'void.png').touch()
    return root


def test_broken_files_are_listed_and_nothing_is_kept(broken, tmp_path):
    lines = refusal(decode, read_image_folder(broken), 8).split('\n  ')
    assert lines[0] == f'{broken}: 4 of 5 images cannot be read'
    assert [line.split(':')[0] for line in lines[1:]] == [
        'short.jpg', 'short.png', 'text.png', 'void.png',
    ]  # fmt: skip
    assert 'truncated' in lines[1]
    assert 'truncated' in lines[2]
    assert lines[3:] == ['text.png: not an image', 'void.png: empty']
    assert list((tmp_path / 'cache/decoded').iterdir()) == []


def test_the_first_ten_of_many(root):
    root.mkdir()
    for i in range(13):
        (root / f'{i:02d}.png').write_text('no image')
    lines = refusal(read_image_folder(root).read_sizes).split('\n  ')
    assert len(lines) == 12
    assert lines[-1] == '... and 3 more'


def test_decoded_once(root, monkeypatch):
    fill(root, 'a.png', 'b.png')
    first = np.array(decode(read_image_folder(root), 4))
    with monkeypatch.context() as patch:
        patch.setattr(module.Image, 'open', lambda path: pytest.fail('decoded again'))
        assert (decode(read_image_folder(root), 4) == first).all()
    save(root / 'a.png', 255 - noise(8, 8, 3))
    os.utime(root / 'a.png', ns=(0, 0))
    assert (decode(read_image_folder(root), 4)[0] != first[0]).any()
    assert decode(read_image_folder(root), 6).shape == (2, 6, 6, 3)


def test_a_disk_that_is_full(root, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, 'No space left on device')

    fill(root, 'a.png')
    monkeypatch.setattr('os.replace', full)
    with pytest.raises(OSError, match='No space'):
        decode(read_image_folder(root), 4)
    assert list((tmp_path / 'cache/decoded').iterdir()) == []


# --- pairs ----------------------------------------------------------------------------------


def test_halves_of_a_file(root):
    pixels = noise(8, 16, 3)
    save(root / 'train' / '1.png', pixels)
    pairs = read_pairs(root / 'train')
    assert (decode(pairs.source, 8)[0] == pixels[:, :8]).all()
    assert (decode(pairs.target, 8)[0] == pixels[:, 8:]).all()
    assert pairs.source.read_sizes() == ((8, 8),)
    back = read_pairs(root / 'train', 'B', 'A')
    assert (decode(back.source, 8)[0] == pixels[:, 8:]).all()


@pytest.mark.parametrize('kind', ['png', 'jpg', 'tif'])
@pytest.mark.parametrize(
    ('orientation', 'turned'),
    [
        (1, lambda x: x),
        (3, lambda x: x[::-1, ::-1]),
        (5, lambda x: x.swapaxes(0, 1)),
        (6, np.rot90),
        (8, lambda x: np.rot90(x, 3)),
    ],
)
def test_halves_of_a_photograph_are_those_of_it_upright(root, kind, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.full((8, 16, 3), 20, dtype=np.uint8)
    pixels[:, 8:] = 220
    save(root / f'1.{kind}', turned(pixels), exif=exif)
    pairs = read_pairs(root)
    assert pairs.source.read_sizes() == pairs.target.read_sizes() == ((8, 8),)
    for folder, value in ((pairs.source, 20), (pairs.target, 220)):
        assert np.abs(decode(folder, 8).astype(int) - value).max() <= 3


def test_sizes_need_no_pixels(root):
    save(root / '1.png', noise(40, 80, 3))
    content = (root / '1.png').read_bytes()
    (root / '1.png').write_bytes(content[: len(content) // 2])
    assert read_image_folder(root).read_sizes() == ((80, 40),)


def test_two_folders_of_the_same_names(root):
    fill(root, 'A/x/1.png', 'A/2.png', 'B/2.bmp', 'B/x/1.bmp')
    pairs = read_pairs(root)
    for key, suffix in (('source', 'png'), ('target', 'bmp')):
        folder = getattr(pairs, key)
        assert [folder.name(p) for p in folder.paths] == [f'2.{suffix}', f'x/1.{suffix}']


def test_faults_of_pairs(root):
    fill(root, 'A/1.png', 'A/2.png', 'A/3.png', 'B/1.png', 'B/4.png')
    assert refusal(read_pairs, root) == (
        f'{root}: in A 2 images (2.png, 3.png); in B 1 image (4.png) without a partner of that name'
    )
    shutil.rmtree(root / 'B')
    assert refusal(read_pairs, root) == f'{root}/B: no such folder'
    fill(root, 'B/1.png', 'B/2.png', 'B/3.png')
    save(root / 'B' / '2.png', noise(8, 12, 3))
    assert refusal(read_pairs, root) == f'{root}: 1 pair (2.png: 8x8 and 12x8) of other shapes'
    fill(root, 'A/2.bmp')
    assert '2 images (2.bmp, 2.png) differ in their extension only' in refusal(read_pairs, root)


def test_faults_of_halves(root):
    save(root / '1.png', noise(8, 15, 3))
    save(root / '2.png', noise(8, 16, 3))
    first, second = refusal(read_pairs, root).split('\n  ')
    assert first == f'{root}: 1 of 2 images cannot be read'
    assert second == '1.png: its width of 15 is odd, so it is not two images side by side'
    assert 'no folders A and C' in refusal(read_pairs, root, 'A', 'C')


def test_an_empty_domain(root):
    fill(root, 'trainA/1.png')
    assert refusal(read_domains, root) == f'{root}/trainB: no such folder'
    (root / 'trainB').mkdir()
    assert refusal(read_domains, root).startswith(f'{root}/trainB: no images')


# --- datasets -------------------------------------------------------------------------------


def test_items_of_a_folder_in_batches(root):
    fill(root, 'cat/1.png', 'dog/2.png', 'dog/3.png')
    loader = Runner.build_dataloader(
        dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(
                type='mmengine.ImageFolderDataset', data_root=str(root), image_size=8, labels=True
            ),
        )
    )
    assert loader.dataset.metainfo['classes'] == ('cat', 'dog')
    first, second = loader
    assert [len(batch['inputs']) for batch in (first, second)] == [2, 1]
    pixels, sample = first['inputs'][1], first['data_samples'][1]
    assert pixels.dtype == torch.uint8
    assert (pixels.permute(1, 2, 0).numpy() == np.array(Image.open(root / 'dog/2.png'))).all()
    assert (sample.gt_label, sample.img_path) == (1, f'{root}/dog/2.png')


def test_a_subset_has_its_own_pixels(root):
    fill(root, '1.png', '2.png', '3.png')
    data = build(type='ImageFolderDataset', data_root=str(root), image_size=8)
    subset = data.get_subset([2, 0])
    assert torch.equal(subset[0]['inputs'], data[2]['inputs'])
    assert 'gt_label' not in data[0]['data_samples']


def test_flips_follow_the_seed_and_leave_the_set_alone(root):
    fill(root, '1.png')
    steps = [FLIP, dict(type='PackImage')]
    data = build(type='ImageFolderDataset', data_root=str(root), image_size=8, pipeline=steps)
    pixels = torch.from_numpy(np.array(Image.open(root / '1.png'))).permute(2, 0, 1)

    def flips() -> list[bool]:
        np.random.seed(3)
        drawn = [data[0]['inputs'] for _ in range(20)]
        assert all(torch.equal(d, pixels) or torch.equal(d, pixels.flip(2)) for d in drawn)
        return [torch.equal(d, pixels) for d in drawn]

    first = flips()
    assert 4 < sum(first) < 16
    assert flips() == first


def crop_and_flip(share: bool) -> list[dict]:
    steps = [dict(type='RandomSquare', size=6), FLIP]
    keys = dict(img=['source', 'target'])
    broadcast = dict(type='TransformBroadcaster', mapping=keys, auto_remap=True, transforms=steps)
    return [{**broadcast, 'share_random_params': share}, dict(type='PackPair')]


def test_both_of_a_pair_are_cropped_and_flipped_alike(root):
    half = noise(8, 8, 3)
    save(root / '1.png', np.hstack([half, 255 - half]))
    steps = crop_and_flip(share=True)
    data = build(type='PairedFolders', data_root=str(root), image_size=8, pipeline=steps)
    drawn = [data[0]['inputs'] for _ in range(40)]
    assert all(torch.equal(d['source'], 255 - d['target']) for d in drawn)
    assert drawn[0]['source'].shape == (3, 6, 6)
    windows = torch.from_numpy(half).permute(2, 0, 1).unfold(1, 6, 1).unfold(2, 6, 1)
    windows = windows.permute(1, 2, 0, 3, 4).reshape(9, 3, 6, 6)
    wanted = {w.numpy().tobytes() for w in torch.cat([windows, windows.flip(3)])}
    found = {d['source'].numpy().tobytes() for d in drawn}
    assert found <= wanted
    assert len(found) > 9
    sample = data[0]['data_samples']
    assert (sample.img_path, sample.target_path) == (f'{root}/1.png', f'{root}/1.png')


def test_images_without_pairs_are_cropped_and_flipped_apart(root):
    for folder in ('trainA', 'trainB'):
        save(root / folder / '1.png', noise(8, 8, 3))
    steps = crop_and_flip(share=False)
    data = build(type='UnpairedFolders', data_root=str(root), image_size=8, pipeline=steps)
    drawn = [data[0]['inputs'] for _ in range(20)]
    assert sum(torch.equal(d['source'], d['target']) for d in drawn) < 10


def flat(root: Path, folder: str, count: int) -> None:
    for value in range(count):
        save(root / folder / f'{value:02d}.png', np.full((4, 4, 3), value, dtype=np.uint8))


def values(data, key: str) -> list[int]:
    return [int(data[i]['inputs'][key][0, 0, 0]) for i in range(len(data))]


def test_targets_without_pairs_are_drawn_in_training_only(root):
    flat(root, 'trainA', 4)
    flat(root, 'trainB', 60)
    cfg = dict(type='UnpairedFolders', data_root=str(root), image_size=4)
    train, test = build(**cfg), build(**cfg, test_mode=True)
    assert len(train) == 60
    assert values(train, 'source') == [0, 1, 2, 3] * 15
    assert values(test, 'source') == values(test, 'target') == [0, 1, 2, 3]
    np.random.seed(0)
    first, second = values(train, 'target'), values(train, 'target')
    np.random.seed(0)
    assert values(train, 'target') == first != second
    assert 30 < len(set(first)) < 50  # 38 of 60 are expected, drawn with replacement
    back = build(**cfg, source='trainB', target='trainA', test_mode=True)
    assert values(back, 'source') == list(range(60))
    assert values(back, 'target') == [0, 1, 2, 3] * 15
