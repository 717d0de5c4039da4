"""What tools/generate.py does, without a training before it."""

import math
import runpy
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image

from sbzoo.data.image_folder import read_image_folder
from sbzoo.engine import sampling as generate
from sbzoo.engine.options.config import load_config
from sbzoo.errors import UserError
from sbzoo.gan.models.image_to_image import Translation
from sbzoo.gan.networks.blocks import ClassEmbedding
from sbzoo.images import to_uint8


def model(name: str):
    torch.manual_seed(0)
    return MODELS.build(load_config(f'configs/{name}.py').model).eval()


@pytest.fixture(scope='module')
def sngan():
    sngan = model('sngan_gn_b2')
    for module in sngan.sampler.modules():
        if isinstance(module, ClassEmbedding):  # all classes are alike before training
            torch.nn.init.normal_(module.weight)
    return sngan


def test_slerp_is_the_rotation():
    start, end = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    third = generate.slerp(start, end, 1 / 3)
    expected = [2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)]
    torch.testing.assert_close(third, torch.tensor(expected))
    torch.testing.assert_close(generate.slerp(start, start, 0.3), start)


def test_an_interpolation_begins_and_ends_at_samples(sngan):
    walk = list(generate.interpolate(sngan, [5, 6, 7], steps=4))
    assert len(walk) == 8
    expected = to_uint8(sngan.sample([5, 6, 7], torch.zeros(3, dtype=torch.long)))
    for found, sample in ((walk[0], 0), (walk[3], 1), (walk[4], 1), (walk[7], 2)):
        assert (found.int() - expected[sample].int()).abs().max() <= 1
    assert not torch.equal(walk[1], walk[2])


def test_an_interpolation_is_of_the_class_that_is_asked_for(sngan):
    walk = list(generate.interpolate(sngan, [5, 6], steps=3, labels=[7]))
    expected = to_uint8(sngan.sample([5, 6], torch.tensor([7, 7])))
    other = to_uint8(sngan.sample([5, 6], torch.tensor([0, 0])))
    for found, sample in ((walk[0], 0), (walk[2], 1)):
        assert (found.int() - expected[sample].int()).abs().max() <= 1
        assert (found.int() - other[sample].int()).abs().max() > 1


@pytest.mark.parametrize(
    ('labels', 'message'),
    [([99], '--labels 99: the classes are 0 to 9'), ([1, 2], '--labels 1 2: a walk is in one')],
)
def test_an_interpolation_takes_one_class_that_there_is(sngan, labels, message):
    with pytest.raises(UserError, match=message):
        next(generate.interpolate(sngan, [5, 6], 3, labels))


def test_labels_go_round(sngan):
    found = list(generate.sample(sngan, range(3, 6), labels=[7, 2]))
    expected = to_uint8(sngan.sample([3, 4, 5], torch.tensor([7, 2, 7])))
    assert torch.equal(torch.stack(found), expected)


@pytest.mark.parametrize(
    ('names', 'labels', 'expected'),
    [
        ('airplane cat dog', ['dog', 'airplane', '1', 2], [2, 0, 1, 2]),
        ('1 10 2', ['2', '10', '0', 2], [2, 1, 0, 2]),  # folders, sorted as text
        ('airplane cat', ['1'], [1]),  # of other classes than the model has
        ('', ['1', 0], [1, 0]),
    ],
)
def test_classes_are_given_by_name_or_number(names, labels, expected):
    found = mock.Mock(
        sampler=mock.Mock(num_classes=3), dataset_meta=dict(classes=tuple(names.split()))
    )
    assert generate.class_indices(found, labels) == expected
    for wrong in ('bird', '3', '-1', -1):
        listed = f': {", ".join(names.split())}' if len(names.split()) == 3 else ''
        with pytest.raises(UserError) as caught:
            generate.class_indices(found, [wrong])
        assert str(caught.value) == f'--labels {wrong}: the classes are 0 to 2{listed}'


def test_names_of_classes_come_with_a_checkpoint_or_from_the_config(tmp_path, sngan):
    weights, cfg = sngan.state_dict(), load_config('configs/sngan_gn_b2.py')
    classes = tuple('abcdefghij')
    torch.save(
        dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=classes))),
        tmp_path / 'epoch_1.pth',
    )
    named = generate.load_generator(cfg, tmp_path)
    found = torch.stack(list(generate.sample(named, range(2), labels=['c', 'j'])))
    assert torch.equal(found, to_uint8(sngan.sample(range(2), torch.tensor([2, 9]))))
    torch.save(dict(state_dict=weights), tmp_path / 'epoch_1.pth')
    cfg.train_dataloader.dataset = dict(type='CIFAR10Dataset', data_root='nowhere')
    named = generate.load_generator(cfg, tmp_path)
    with pytest.raises(UserError, match='0 to 9: airplane, automobile, bird, cat'):
        generate.sample(named, range(2), labels=['kitten'])


@pytest.mark.parametrize('seed', [-1, 2**32, 2**63, 2**64])
def test_seeds_that_torch_would_cut_to_those_of_other_images_are_refused(sngan, seed):
    with pytest.raises(UserError, match=f'^seed {seed}: those of images can be 0 to 4294967295'):
        list(generate.sample(sngan, range(seed, seed + 1)))
    with pytest.raises(UserError, match=f'^seed {seed}: '):
        generate.interpolate(sngan, [0, seed], steps=2)
    assert len(list(generate.sample(sngan, range(2**32 - 1, 2**32)))) == 1


def test_small_batches_are_the_same_images(sngan, monkeypatch):
    whole = torch.stack(list(generate.sample(sngan, range(5))))
    monkeypatch.setattr(generate, 'PIXELS', 2 * 32 * 32)
    parts = torch.stack(list(generate.sample(sngan, range(5))))
    assert (whole.int() - parts.int()).abs().max() <= 1


def test_memory_that_runs_out_halves_the_batch():
    sizes = []

    def batch(chunk):
        sizes.append(len(chunk))
        if len(chunk) > 2:
            raise torch.cuda.OutOfMemoryError
        return torch.tensor(chunk)[:, None, None, None].expand(-1, 3, 1, 1) / 127.5 - 1

    found = [int(image[0, 0, 0]) for image in generate._in_batches(batch, range(5), size=400)]
    assert found == list(range(5))
    assert sizes == [5, 3, 2, 2, 1]


@pytest.mark.parametrize(
    ('name', 'labels', 'options', 'message'),
    [
        ('sngan_gn_b2', [10], {}, 'the classes are 0 to 9'),
        ('dcgan_gn_b2', [1], {}, 'trained without classes'),
        ('dcgan_gn_b2', None, dict(truncation=0.5), 'DCGANGenerator takes none'),
        ('stylegan2_b8', None, dict(truncation=7.0), '--truncation 7.0: it can be 0 to 1'),
        ('stylegan2_b8', None, dict(truncation=-0.1), '--truncation -0.1: it can be 0 to 1'),
    ],
)
def test_what_a_generator_does_not_take_is_refused(name, labels, options, message):
    with pytest.raises(UserError, match=message):
        next(generate.sample(model(name), range(2), labels, **options))


def test_truncation_draws_the_mean_style_at_zero():
    images = list(generate.sample(model('stylegan2_b8'), range(3), truncation=0.0))
    assert torch.equal(images[0], images[1])


def test_a_folder_is_translated_image_by_image(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (2, 64, 64, 3), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f'{index}.png')
    cyclegan = model('cyclegan_in_b1')
    found = torch.stack(list(generate.translate(cyclegan, read_image_folder(tmp_path), 64)))
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    expected = to_uint8(cyclegan.translate(inputs))
    assert (found.int() - expected.int()).abs().max() <= 1
    (tmp_path / '2.png').write_bytes(b'nothing')
    with pytest.raises(UserError, match=r'2\.png: cannot be read'):
        list(generate.translate(cyclegan, read_image_folder(tmp_path), 64))


@pytest.mark.parametrize(
    ('sources', 'expected'),
    [
        (['a.b.jpg', 'sub/a.PNG'], ['a.b.png', 'sub/a.png']),
        (['a.jpg', 'a.jpg.png', 'a.png'], ['a.jpg.png', 'a.jpg.png.png', 'a.png.png']),
    ],
)
def test_translations_keep_the_names_of_their_sources(tmp_path, sources, expected):
    for level, name in enumerate(sources):
        (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8), (level, 0, 0)).save(tmp_path / 'in' / name, format='PNG')
    folder = read_image_folder(tmp_path / 'in')
    images = generate.translate(Same(), folder, 8)
    out = generate.save(images, generate.names_of(folder), tmp_path / 'out')
    found = {p.relative_to(out).as_posix(): np.array(Image.open(p)) for p in out.rglob('*.png')}
    assert {name: pixels[0, 0, 0] for name, pixels in found.items()} == {
        name: level for level, name in enumerate(expected)
    }


class Same(Translation):
    """Translates an image to itself."""

    def translate(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize('name', ['a.jpg', 'a.PNG', 'a.tiff'])
def test_pictures_of_other_kinds_are_no_folders(tmp_path, name):
    with pytest.raises(UserError, match=rf'{name}: give a file.png, a file.npz, or a new folder'):
        generate.save(iter([]), [], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_read_once(tmp_path):
    name = 'configs/dcgan_gn_b2.py'
    weights = model('dcgan_gn_b2').state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'epoch_1.pth')
    with mock.patch('torch.load', wraps=torch.load) as load:
        loaded = generate.load_generator(load_config(name), tmp_path)
    assert load.call_count == 1
    for key, value in loaded.state_dict().items():
        assert torch.equal(value.cpu(), weights[key])


@pytest.mark.parametrize(
    'options',
    [
        ['--num', 64],
        ['--seed', 0],
        ['--labels', 0],
        ['--truncation', 1],
        ['--interpolate', 3, '--num', 5],
    ],
    ids=lambda options: options[0],
)
def test_options_that_a_translation_has_no_use_for_are_refused(
    tmp_path, monkeypatch, capsys, options
):
    config = 'configs/cyclegan_in_b1.py'
    torch.save(dict(state_dict=model('cyclegan_in_b1').state_dict()), tmp_path / 'epoch_1.pth')
    argv = ['generate.py', config, tmp_path, '--input', tmp_path / 'photographs', *options]
    monkeypatch.setattr('sys.argv', list(map(str, argv)))
    with pytest.raises(SystemExit) as end:
        runpy.run_path('tools/generate.py', run_name='__main__')
    assert end.value.code == 1
    named = ' '.join(option for option in options[::-1] if str(option).startswith('--'))
    assert capsys.readouterr().err == (
        f'error: {named}: --input translates each image of its folder, once\n'
    )


def test_a_detector_generates_nothing(tmp_path):
    with pytest.raises(UserError, match='RetinaNet generates no images'):
        generate.load_generator(load_config('configs/retinanet_gn_b2.py'), tmp_path)
