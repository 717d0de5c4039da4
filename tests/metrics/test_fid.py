"""FID against pytorch-fid on the same images and weights, its tool, and the metric of mmengine."""

import json
import re
import runpy
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import pytorch_fid.fid_score as peer
import timm
import torch
from benchmarks.classifier import digits as digit_images
from benchmarks.classifier import train
from benchmarks.fid import random_inception, write_images
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, METRICS, MODELS
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import Dataset

import sbzoo
from sbzoo.checkpoint import cards
from sbzoo.data.image_folder import decode, read_image_folder
from sbzoo.engine import sampling
from sbzoo.engine.options.config import load_config
from sbzoo.metrics.compare import compare
from sbzoo.metrics.extractors import build_extractor, extractor_name, inception
from sbzoo.metrics.extractors.digits import CARD, DigitClassifier
from sbzoo.metrics.extractors.inception import Inception
from sbzoo.metrics.features import Features, open_source
from sbzoo.metrics.generative import FrechetDistance
from sbzoo.metrics.statistics import FeatureStatistics
from sbzoo.paths import ROOT
from sbzoo.zoo.page import page


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A file of random Inception weights, which pass for the published ones."""
    with random_inception(tmp_path_factory.mktemp('weights')) as path:
        yield path


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Two folders of six PNG files of different sizes."""
    root = tmp_path_factory.mktemp('images')
    for name, seed in (('real', 0), ('fake', 1)):
        write_images(root / name, 4, size=24, seed=seed)
        write_images(root / 'more', 2, size=40, seed=seed)
        for path in (root / 'more').iterdir():
            path.rename(root / name / f'larger_{path.name}')
        (root / 'more').rmdir()
    return root / 'real', root / 'fake'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def fid(monkeypatch, capsys):
    """Runs tools/fid.py; returns its exit status, output and error output."""

    def run(*arguments: object) -> tuple[int, str, str]:
        argv = ['fid.py', *map(str, arguments), '--num-workers', '0']
        monkeypatch.setattr('sys.argv', argv)
        status = 0
        try:
            runpy.run_path(str(ROOT / 'tools/fid.py'), run_name='__main__')
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def by_peer(folders: tuple[Path, Path], weights: Path, dims: int) -> tuple[list, float]:
    """pytorch-fid's features and distance.

    Six images span a plane of five dimensions. So the distance is taken in the space that all of
    them span, where it is the same, as pytorch-fid's root takes a minute in 2,048. And in units of
    the features' size, as pytorch-fid has an absolute tolerance for the root's rounding errors.
    """
    model = inception.build(torch.load(weights), dims)
    model.resize_input = True
    features = [
        peer.get_activations(
            sorted(folder.iterdir()), model, batch_size=1, dims=dims, num_workers=0
        )
        for folder in folders
    ]
    basis = np.linalg.svd(np.vstack(features), full_matrices=False)[2].T[
        :, : sum(map(len, features))
    ]
    unit = np.abs(np.vstack(features)).max()
    moments = []
    for x in features:
        moments += [x.mean(0) @ basis / unit, np.cov(x @ basis / unit, rowvar=False)]
    return features, peer.calculate_frechet_distance(*moments) * unit**2


@pytest.mark.parametrize('dims', [2048, 64])
def test_equals_pytorch_fid(fid, folders, weights, dims):
    features, expected = by_peer(folders, weights, dims)
    status, out, _ = fid(*folders, '--weights', weights, '--dims', dims, '--json')
    report = json.loads(out)
    name = 'FID' if dims == 2048 else 'FD-inception-64'
    assert status == 0
    assert report['metrics'] == {name: pytest.approx(expected, rel=1e-3)}
    assert expected > 1e-3 * np.square(features[0]).sum(1).mean()  # and not all noise
    assert report['protocol']['real'].endswith('real, 6 images')
    images = [open_source(folders[0])[index]['inputs'] for index in (0, -1)]  # of two sizes
    ours, theirs = Inception(weights, dims)(images).numpy(), features[0][[0, -1]]
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_an_array_of_images_is_as_good_as_a_folder_of_them(fid, tmp_path, capsys):
    real, fake, array = tmp_path / 'real', tmp_path / 'fake', tmp_path / 'fake.npz'
    write_images(real, 9, size=32)
    paths = write_images(fake, 8, size=32, seed=1)
    images = (torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths)
    sampling.save(images, sampling.numbered(8), array)
    capsys.readouterr()  # its progress bar
    options = '--extractor', 'digits', '--kid', '--prdc', '--json'
    found, expected = (json.loads(fid(real, path, *options)[1]) for path in (array, fake))
    assert found['metrics'] == expected['metrics']
    assert found['protocol']['fake'] == f'{array}, 8 images'
    reverse = json.loads(fid(array, real, *options)[1])['metrics']
    assert reverse['FD-digits'] == pytest.approx(found['metrics']['FD-digits'])
    assert tuple(reverse) == FrechetDistance.keys_of(array)


@pytest.mark.parametrize(
    ('pixels', 'line'),
    [
        (np.zeros((4, 8, 8, 3), np.float32), 'arr_0 is float32 [4, 8, 8, 3]; give images, uint8'),
        (np.zeros((4, 3, 8, 8), np.uint8), 'arr_0 is uint8 [4, 3, 8, 8]; give images'),
        (np.zeros((4, 0, 8, 3), np.uint8), 'arr_0 is uint8 [4, 0, 8, 3]; give images'),
        (np.zeros((8, 8, 3), np.uint8), 'arr_0 is uint8 [8, 8, 3]; give images'),
        (np.zeros((1, 8, 8, 3), np.uint8), '1 image(s); a distance takes two or more'),
        (np.array([None]), 'arr_0 cannot be read as an array of numbers'),
    ],
)
def test_an_array_of_anything_else_is_refused(tmp_path, pixels, line):
    np.savez(tmp_path / 'a.npz', pixels)
    with pytest.raises(sbzoo.UserError, match=re.escape(f'a.npz: {line}')):
        open_source(tmp_path / 'a.npz')


def test_statistics_beside_images_are_taken(tmp_path):
    """As in the reference batches of guided diffusion."""
    np.savez(tmp_path / 'a.npz', np.zeros((4, 8, 8, 3), np.uint8), mu=np.zeros(3), sigma=np.eye(3))
    assert open_source(tmp_path / 'a.npz').d == 3


def test_statistics_files_go_both_ways(fid, folders, weights, tmp_path):
    real, fake = folders
    options = '--weights', weights, '--dims', 64
    direct = json.loads(fid(real, fake, *options, '--json')[1])['metrics']
    assert fid(real, '--save-stats', tmp_path / 'ours.npz', *options)[0] == 0
    with np.load(tmp_path / 'ours.npz') as file:
        assert file['mu'].shape == (64,)
        np.savez_compressed(tmp_path / 'theirs.npz', mu=file['mu'], sigma=file['sigma'])
    mean, cov = peer.compute_statistics_of_path(str(tmp_path / 'ours.npz'), None, 1, 64, 'cpu')
    for name in ('ours', 'theirs'):
        statistics = FeatureStatistics.load(tmp_path / f'{name}.npz')
        np.testing.assert_allclose(statistics.mean, mean, rtol=1e-12)
        np.testing.assert_allclose(statistics.cov, cov, rtol=1e-12)
        out = fid(tmp_path / f'{name}.npz', fake, *options, '--json')[1]
        assert json.loads(out)['metrics'] == pytest.approx(direct)
    same = fid(tmp_path / 'ours.npz', tmp_path / 'theirs.npz', '--dims', 64, '--json')
    assert json.loads(same[1])['metrics'] == {'FD-inception-64': pytest.approx(0, abs=1e-6)}


def test_the_table_has_the_protocol_and_warns_of_few_images(fid, folders, weights):
    status, out, _ = fid(*folders, '--weights', weights, '--dims', 192, '--kid')
    assert status == 0
    for text in ('FD-inception-192 ', 'KID-inception-192-std'):
        assert text in out
    assert 'FID ' not in out
    assert f'weights {inception.SHA256_PREFIX}, bilinear to 299 x 299' in out
    assert 'rank 5' in out


def test_real_images_are_read_in_any_mode_size_and_depth_of_folders(tmp_path):
    write_images(tmp_path / 'a/b', 2)
    modes = dict(L='png', P='png', RGBA='png', CMYK='jpg', LA='png')
    for mode, kind in modes.items():
        picture = Image.effect_noise((9, 5), 50).convert('RGB').convert(mode)
        picture.save(tmp_path / f'{mode}.{kind.upper()}')
    (tmp_path / 'notes.txt').write_text('no image')
    files = open_source(tmp_path)
    assert len(files) == 7
    assert all(item['inputs'].shape[0] == 3 for item in files)
    assert files[0]['inputs'].dtype == torch.uint8


def test_infinity_takes_enough_images_for_a_line(fid, tmp_path):
    write_images(tmp_path / 'real', 30, size=32)
    for count in (19, 20):
        write_images(tmp_path / str(count), count, size=32, seed=1)
    options = '--extractor', 'digits', '--infinity', '--json'
    status, _, err = fid(tmp_path / 'real', tmp_path / '19', *options)
    assert status == 1
    assert '19 images: --infinity takes 20 generated ones or more' in err
    status, out, _ = fid(tmp_path / 'real', tmp_path / '20', *options)
    assert status == 0
    found = json.loads(out)['metrics']
    assert found['FD-digits-infinity'] < found['FD-digits']  # the bias is taken away


def test_python_gets_what_the_command_line_prints(fid, tmp_path):
    for name, seed in (('real', 0), ('fake', 1)):
        write_images(tmp_path / name, 8, size=32, seed=seed)
    folders = tmp_path / 'real', tmp_path / 'fake'
    found = compare(*folders, extractor='digits', kid=True, prdc=True)
    report = json.loads(fid(*folders, '--extractor', 'digits', '--kid', '--prdc', '--json')[1])
    assert found.metrics == report['metrics']
    assert found.protocol == report['protocol']
    assert found.warnings == (report['warning'],)
    assert len(found.metrics) == 7


def test_images_are_found_and_read_as_in_training(tmp_path):
    root, elsewhere = tmp_path / 'data', tmp_path / 'elsewhere'
    write_images(root / '.hidden', 1, size=8)
    write_images(elsewhere, 1, size=8, seed=1)
    (root / 'link').symlink_to(elsewhere)
    pixels = np.random.RandomState(0).randint(0, 256, (8, 8, 3), np.uint8)
    grey = pixels[..., 0]
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(pixels).save(root / 'a.png', exif=exif)
    Image.fromarray(grey.astype(np.uint16) * 257).save(root / 'b.png')
    Image.fromarray(np.dstack([pixels, 0 * grey])).save(root / 'c.png')
    Image.fromarray(grey).save(root / 'd.gif')
    found = [item['inputs'].permute(1, 2, 0).numpy() for item in open_source(root)]
    linked = np.array(Image.open(elsewhere / '00000.png'))
    opaque = np.full_like(pixels, 255)
    expected = np.rot90(pixels, 3), np.dstack([grey] * 3), opaque, np.dstack([grey] * 3), linked
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, decode(read_image_folder(root), 8))


def broken_inputs(tmp_path: Path, folders: tuple[Path, Path]) -> dict[str, tuple]:
    """Arguments by what the one line must say."""
    (tmp_path / 'empty').mkdir()
    write_images(tmp_path / 'one', 1)
    good = (folders[0] / '00000.png').read_bytes()
    write_images(tmp_path / 'corrupt', 4)
    (tmp_path / 'corrupt/00001.png').write_bytes(good[:-60])
    (tmp_path / 'corrupt/00003.png').write_bytes(b'no image')
    np.savez(tmp_path / 'keys.npz', mean=np.zeros(64))
    np.savez(tmp_path / 'dims.npz', mu=np.zeros(64), sigma=np.eye(64))
    np.savez(tmp_path / 'shape.npz', mu=np.zeros(64), sigma=np.eye(63))
    (tmp_path / 'text.npz').write_text('no archive')
    (tmp_path / 'other.pth').write_bytes(b'other weights')
    real = folders[0]
    return {
        'empty: no images (': (real, tmp_path / 'empty'),
        'one: only one image, 00000.png;': (tmp_path / 'one', real),
        '2 images cannot be read:\n': (
            tmp_path / 'corrupt',
            real,
            '--save-stats',
            tmp_path / 's.npz',
        ),
        'keys.npz: it has mean, not mu and sigma': (tmp_path / 'keys.npz', real),
        'dims.npz: features of 64 dimensions, not of 2048': (real, tmp_path / 'dims.npz'),
        'shape.npz: mu (64,) and sigma (63, 63)': (real, tmp_path / 'shape.npz'),
        'text.npz: not an .npz file': (real, tmp_path / 'text.npz'),
        'nowhere: no such folder': (real, tmp_path / 'nowhere'),
        'other.pth: not the Inception of 2015': (real, real, '--weights', tmp_path / 'other.pth'),
        "no extractor 'vgg'": (real, real, '--extractor', 'vgg'),
        'give FAKE': (real,),
        '--kid needs images of both': (real, tmp_path / 'dims.npz', '--kid', '--dims', 64),
        'exists already': (real, '--save-stats', tmp_path / 'dims.npz'),
    }


def test_bad_input_is_one_clear_line(fid, folders, weights, tmp_path):
    cases = broken_inputs(tmp_path, folders)
    before = sorted(tmp_path.rglob('*'))
    for line, arguments in cases.items():
        status, out, err = fid('--weights', weights, *arguments)
        assert (status, out) == (1, '')
        assert line in err, err
        corrupt = ['00001.png: ', '00003.png: '] if 'cannot be read' in line else []
        assert all(name in err for name in corrupt)
        assert err.count('\n') == 1 + len(corrupt)
    assert sorted(tmp_path.rglob('*')) == before  # nothing was written, not even in part


GENERATORS = 'dcgan_in_b2', 'sngan_in_b2'
DIGITS = '--extractor', 'digits', '--json'


@pytest.fixture(scope='module')
def zoo(tmp_path_factory):
    """Cards of generators with random weights."""
    root = tmp_path_factory.mktemp('zoo')
    torch.manual_seed(0)
    for name in GENERATORS:
        config = f'configs/{name}.py'
        model = MODELS.build(load_config(config).model)
        weights = {f'generator.{k}': v for k, v in model.sampler.state_dict().items()}
        (root / name).mkdir()
        save_file(weights, root / name / 'model.safetensors')
        task = 'unconditional-image-generation'
        card = cards.Card(
            name, task, 'Random.', 'digits', config=config, weights='model.safetensors'
        )
        (root / name / 'README.md').write_text(page(card))
    return root


@pytest.mark.parametrize('name', GENERATORS)
def test_a_card_is_as_good_as_a_folder_of_its_samples(fid, zoo, tmp_path, monkeypatch, name):
    """Over the end of a batch, and with the labels of a conditional generator going round."""
    monkeypatch.setattr(cards, 'CARDS', zoo)
    real, fake, num = tmp_path / 'real', tmp_path / 'fake', 66
    write_images(real, 70, size=32)
    found = json.loads(fid(real, f'card://{name}', '--num', num, *DIGITS)[1])
    fake.mkdir()
    for index, image in enumerate(sbzoo.load(name).sample(num)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(fake / f'{index:02}.png')
    expected = json.loads(fid(real, fake, *DIGITS)[1])
    # A pixel may round to its neighbour in a batch of another size.
    assert found['metrics'] == pytest.approx(expected['metrics'], rel=1e-5)
    assert found['protocol']['fake'] == f'card://{name}, 66 images'


@pytest.mark.parametrize('name', ['cyclegan_in_b1', 'retinanet_gn_b2'])
def test_cards_that_sample_nothing(fid, folders, name):
    status, out, err = fid(folders[0], f'card://{name}', *DIGITS)
    assert (status, out) == (1, '')
    assert f'card {name}: a ' in err
    assert 'samples no images from noise; give the card of a GAN' in err


def test_an_interrupted_write_leaves_nothing(tmp_path):
    statistics = Features.of(torch.randn(9, 3), 'digits').statistics
    with mock.patch('numpy.savez', side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        statistics.save(tmp_path / 'out.npz')
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_another_extractor_are_refused_though_their_dimensions_are_equal(tmp_path):
    Features.of(torch.randn(9, 64), 'digits').statistics.save(tmp_path / 'digits.npz')
    statistics = FeatureStatistics.load(tmp_path / 'digits.npz')
    assert statistics.n == 9
    with pytest.raises(sbzoo.UserError, match='statistics of digits, not of inception:64'):
        statistics.require(64, 'inception:64')


@pytest.fixture
def server(tmp_path):
    """A folder that is served on the loopback interface, and its address."""
    root = tmp_path / 'served'
    root.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(root))
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root, f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_weights_are_downloaded_whole_and_of_the_right_hash_or_not_at_all(
    server, weights, tmp_path, monkeypatch
):
    root, address = server
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(inception, 'URL', f'{address}/inception.pth')
    folder = tmp_path / 'torch/hub/checkpoints'
    with pytest.raises(
        sbzoo.UserError, match=r'could not be downloaded \(File not found\); download http.* put it'
    ):
        inception.cached_weights()
    (root / 'inception.pth').write_bytes(b'something else')
    with pytest.raises(sbzoo.UserError, match='invalid hash value'):
        inception.cached_weights()
    assert list(folder.iterdir()) == []
    (root / 'inception.pth').write_bytes(weights.read_bytes())
    path = inception.cached_weights()
    assert path == folder / 'inception.pth'
    assert path.read_bytes() == weights.read_bytes()
    (root / 'inception.pth').unlink()
    assert inception.cached_weights() == path


def test_weights_in_the_cache_are_checked_too(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    cached = tmp_path / 'hub/checkpoints' / inception.URL.rsplit('/', 1)[1]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b'other')
    with pytest.raises(sbzoo.UserError, match='not the Inception of 2015-12-05'):
        build_extractor('inception')


def test_timm_with_local_weights(tmp_path):
    model = 'test_resnet.r160_in1k'
    network = timm.create_model(model)
    save_file(network.state_dict(), tmp_path / 'w.safetensors')
    torch.save(network.state_dict(), tmp_path / 'w.pth')
    image = torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8)
    for name in ('w.safetensors', 'w.pth'):
        extractor = build_extractor(f'timm:{model}', tmp_path / name)
        x = extractor.prepare(image[None])
        assert x.shape == (1, 3, *network.default_cfg['input_size'][1:])
        expected = network.eval().forward_head(network.forward_features(x), pre_logits=True)
        torch.testing.assert_close(extractor([image]), expected.detach())
        assert extractor.d == expected.shape[1]
    small = {k: v for k, v in network.state_dict().items() if 'layer1' not in k}
    save_file(small, tmp_path / 'small.safetensors')
    cases = {
        'weights of another network than': (f'timm:{model}', tmp_path / 'small.safetensors'),
        'needs its weights in a local file': (f'timm:{model}', None),
        "timm has no model 'resnet1'": ('timm:resnet1', tmp_path / 'w.pth'),
        'no such file of weights': (f'timm:{model}', tmp_path / 'none.pth'),
    }
    for line, arguments in cases.items():
        with pytest.raises(sbzoo.UserError, match=line):
            build_extractor(*arguments)


def test_names():
    assert extractor_name('inception:2048') == 'inception'
    for spec in ('inception:100', 'digits:3', 'timm:', 'timm'):
        with pytest.raises(sbzoo.UserError):
            extractor_name(spec)


def test_the_digit_classifier_knows_the_digits_that_were_held_out():
    images, labels = digit_images(held_out=True)
    extractor = build_extractor('digits')
    logits = extractor.net(extractor.prepare(images))
    assert (logits.argmax(1) == labels).float().mean() > 0.97
    features = extractor(images)
    assert features.shape == (len(images), extractor.d)
    assert torch.linalg.matrix_rank(torch.cov(features.T.double())) == extractor.d


def test_training_the_digit_classifier_is_repeatable():
    images, labels = digit_images(held_out=True)
    states = []
    for _ in range(2):
        torch.manual_seed(1)
        states.append(train(DigitClassifier(), images, labels, epochs=1).state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert not torch.equal(states[0]['head.bias'], DigitClassifier().state_dict()['head.bias'])


def test_weights_of_the_digit_classifier_are_checked(tmp_path, monkeypatch):
    data = bytearray((CARD / 'model.safetensors').read_bytes())
    data[-1] ^= 1
    (tmp_path / 'model.safetensors').write_bytes(data)
    with pytest.raises(sbzoo.UserError, match=r'model.safetensors: wrong sha256, want 14c24b4a'):
        build_extractor('digits', tmp_path / 'model.safetensors')
    monkeypatch.setattr('sbzoo.metrics.extractors.digits.CARD', tmp_path / 'none')
    with pytest.raises(sbzoo.UserError, match=r'none/model.safetensors: .* not there'):
        build_extractor('digits')


@DATASETS.register_module()
class HeldDigits(Dataset):
    """Digits as items of a data set."""

    reads = 0

    def __init__(self, held_out: bool) -> None:
        self.images = digit_images(held_out)[0][:300]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        HeldDigits.reads += 1
        return dict(inputs=self.images[index])


def evaluate(metric: FrechetDistance, images: torch.Tensor) -> dict[str, float]:
    evaluator = Evaluator(metric)
    for batch in images.split(64):
        evaluator.process([dict(fake_img=image) for image in batch])
    return evaluator.evaluate(len(images))


CONFIG = dict(
    type='FrechetDistance',
    real=dict(type='HeldDigits', held_out=False),
    held_out=dict(type='HeldDigits', held_out=True),
)


def test_the_metric_ranks_images_and_names_what_it_gives():
    metric = METRICS.build(CONFIG)
    real = digit_images(held_out=True)[0][:256]
    good = evaluate(metric, real)
    noisy = real + torch.randn(real.shape) * 40
    bad = evaluate(metric, noisy.clamp(0, 255).to(torch.uint8))
    assert tuple(good) == tuple(bad) == FrechetDistance.keys_of(**CONFIG)
    assert good['FD-digits'] < bad['FD-digits'] / 3
    assert abs(good['KID-digits']) < bad['KID-digits'] / 3
    assert good['FD-digits'] == pytest.approx(good['FD-digits-real'], rel=0.5)
    assert good['coverage'] > 0.8


def test_the_metric_equals_the_functions_on_all_features():
    metric = METRICS.build(CONFIG)
    images = digit_images(held_out=True)[0][:100]
    extractor = build_extractor('digits')
    real = Features.of(extractor(metric.sources[0].images), 'digits')
    fake = Features.of(extractor(images), 'digits')
    expected = real.statistics.frechet_distance(fake.statistics)
    assert evaluate(metric, images)['FD-digits'] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ('count', 'missing', 'said'),
    [
        (6, 0, ''),
        (5, 4, '5 images, so without precision, recall, density, coverage (from 6 images on)'),
        (4, 4, '4 images, so without precision, '),
        (3, 6, '3 images, so without KID-digits (from 4 images on) and precision, '),
        (2, 6, '2 images, so without KID-digits (from 4 images on) and precision, '),
    ],
)
def test_the_metric_leaves_out_what_few_images_do_not_give(tmp_path, count, missing, said):
    write_images(tmp_path / 'few', count, size=32)
    metric = FrechetDistance(str(tmp_path / 'few'))
    images = digit_images(held_out=True)[0][:10]
    with mock.patch('sbzoo.metrics.generative.print_log') as log:
        found = [evaluate(metric, images) for _ in range(2)]
    keys = FrechetDistance.keys_of('few')
    assert tuple(found[0]) == tuple(found[1]) == keys[: len(keys) - missing]
    assert np.isfinite(list(found[0].values())).all()
    lines = [call.args[0] for call in log.call_args_list if ', so without' in call.args[0]]
    assert len(lines) == bool(said)  # once
    assert ''.join(lines).startswith(said)


def test_real_features_are_kept_by_content(monkeypatch):
    first = METRICS.build(CONFIG)
    with mock.patch.object(first.extractor, 'embed', wraps=first.extractor.embed) as embed:
        one = first.reference
        assert embed.call_count > 0
    second = METRICS.build(CONFIG)
    with mock.patch.object(second.extractor, 'embed', wraps=second.extractor.embed) as embed:
        other = second.reference
        assert embed.call_count == 0
    torch.testing.assert_close(other[0].each, one[0].each)
    assert other[1] == pytest.approx(one[1])
    third = METRICS.build(CONFIG)
    third.sources[0].images = third.sources[0].images.clone()
    third.sources[0].images[0, 0, 0, 0] += 1  # other pixels, other features
    with mock.patch.object(third.extractor, 'embed', wraps=third.extractor.embed) as embed:
        _ = third.reference
        assert embed.call_count > 0


def test_with_statistics_there_is_the_distance_alone(tmp_path):
    images = digit_images(held_out=False)[0][:200]
    Features.of(build_extractor('digits')(images), 'digits').statistics.save(tmp_path / 'r.npz')
    metric = FrechetDistance(str(tmp_path / 'r.npz'), prefix='val')
    assert evaluate(metric, images) == {'val/FD-digits': pytest.approx(0, abs=1e-5)}


def on_rank(rank: int, file: str, out: str) -> None:
    torch.distributed.init_process_group('gloo', f'file://{file}', rank=rank, world_size=2)
    metric = METRICS.build(CONFIG)
    images = digit_images(held_out=True)[0][:101]
    metric.process(None, [dict(fake_img=image) for image in images[rank::2]])
    torch.save(metric.evaluate(101), f'{out}/{rank}')


def test_two_ranks_give_what_one_gives(tmp_path):
    torch.multiprocessing.start_processes(
        on_rank, (str(tmp_path / 'meet'), str(tmp_path)), nprocs=2, start_method='fork'
    )
    one = evaluate(METRICS.build(CONFIG), digit_images(held_out=True)[0][:101])
    for rank in range(2):
        assert torch.load(tmp_path / str(rank)) == pytest.approx(one, rel=1e-4)
