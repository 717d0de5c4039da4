"""Cards made of runs."""

import io
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image
from safetensors import safe_open

import sbzoo
from sbzoo import UserError, files
from sbzoo.checkpoint import cards
from sbzoo.engine.options.config import load_config
from sbzoo.engine.result import data_name
from sbzoo.paths import ROOT
from sbzoo.report.check import check
from sbzoo.zoo import index as published
from sbzoo.zoo.page import page
from sbzoo.zoo.publish import PICTURE_BYTES, publish, small_png


@pytest.fixture(autouse=True)
def zoo(monkeypatch, tmp_path):
    folder = tmp_path / 'zoo/model_cards'
    monkeypatch.setattr(cards, 'CARDS', folder)
    monkeypatch.setattr(published, 'CARDS', folder)
    return folder


def make_run(folder, config: str, seed: int, metrics: dict, state_dict: dict):
    """What tools/train.py leaves in a work directory."""
    folder.mkdir()
    cfg = load_config(str(ROOT / f'configs/{config}.py'))
    cfg.dump(folder / f'{config}.py')
    result = dict(config=config, metrics=metrics, data=dict(name='DigitScenes', images=200))
    result |= dict(images_a_step=2, devices=1, accumulated=1, lr=0.02, epochs=3, seed=seed)
    (folder / 'result.json').write_text(json.dumps(result))
    meta = dict(epoch=3, iter=3000, seed=seed)
    torch.save(dict(state_dict=state_dict, meta=meta), folder / 'epoch_3.pth')
    for picture in ('detections.png', 'samples.png'):
        pixels = np.random.RandomState(0).randint(0, 256, (400, 600, 3), np.uint8)
        Image.fromarray(pixels).save(folder / picture)
    return folder


def detector_state() -> dict:
    return MODELS.build(load_config(str(ROOT / 'configs/retinanet_gn_b2.py')).model).state_dict()


def ap(value: float) -> dict:
    return {'coco/bbox_mAP': value, 'coco/bbox_mAP_s': 0.5, 'coco/bbox_mAP_l': -1.0}


@pytest.fixture
def runs(tmp_path):
    state = detector_state()
    return [
        make_run(tmp_path / f'seed{seed}', 'retinanet_gn_b2', seed, ap(value), state)
        for seed, value in ((2, 0.6), (0, 0.58234), (1, 0.59))
    ]


def test_detector(runs, zoo, monkeypatch):
    monkeypatch.setattr('sbzoo.zoo.publish.evaluate', lambda cfg, card: {'box AP': 0.58219})
    card = publish(runs, half=True, limits=['It reads digits alone.'])
    assert card == sbzoo.card('retinanet_gn_b2')
    assert (card.norm, card.batch, card.seeds, card.data) == ('gn8', 2, (0, 1, 2), 'digits')
    (result,) = card.results  # sizes are left out
    assert result.value == 0.5822  # of the weights, which are those of seed 0
    assert result.mean == pytest.approx((0.6 + 0.58234 + 0.59) / 3, abs=5e-5)
    assert result.std == pytest.approx(np.std([0.6, 0.58234, 0.59], ddof=1), abs=5e-5)
    assert sorted(path.name for path in (zoo / card.name).iterdir()) == [
        'README.md',
        'detections.png',
        'model.safetensors',
    ]
    loaded = sbzoo.load('retinanet_gn_b2').model.state_dict()
    for key, value in torch.load(runs[1] / 'epoch_3.pth')['state_dict'].items():
        kept = value.half().to(value) if value.dim() > 1 and value.is_floating_point() else value
        assert torch.equal(loaded[key].cpu(), kept)


def test_what_the_file_says_of_itself(runs, zoo):
    card = publish(runs[1:2])
    with safe_open(card.reference, framework='pt') as file:
        metadata = file.metadata()
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=ROOT, capture_output=True, text=True)
    assert metadata['commit'].startswith(commit.stdout.strip())
    assert json.loads(metadata.pop('metrics'))['coco/bbox_mAP'] == 0.58234
    del metadata['commit']
    assert metadata == dict(format='pt', config='retinanet_gn_b2', epoch='3', step='3000', seed='0')
    assert card.results[0].mean is None


def test_the_averaged_generator_alone(tmp_path):
    cfg = load_config(str(ROOT / 'configs/dcgan_in_b2.py'))
    model = MODELS.build(cfg.model)
    for parameter in model.generator_ema.parameters():
        parameter.data += 1
    run = make_run(
        tmp_path / 'run', 'dcgan_in_b2', 0, {'fid/FD-digits': 74.0312}, model.state_dict()
    )
    card = publish([run])
    assert (card.task, card.norm) == ('unconditional-image-generation', 'in')
    assert [(r.metric, r.value) for r in card.results] == [('FD-digits', 74.0312)]
    loaded = sbzoo.load('dcgan_in_b2').model
    assert torch.equal(loaded.sample([3]).cpu(), model.sample([3]))


def test_the_batch_is_an_option_of_the_run_and_in_the_name_of_the_card(tmp_path):
    state = MODELS.build(load_config(str(ROOT / 'configs/dcgan_in_b2.py')).model).state_dict()
    run = make_run(tmp_path / 'run', 'dcgan_in_b2', 0, {'fid/FD-digits': 74.0}, state)
    edit(run, images_a_step=8)
    card = publish([run])
    assert (card.name, card.config, card.batch) == ('dcgan_in_b8', 'configs/dcgan_in_b2.py', 8)
    published.write()
    assert 'Config: configs/dcgan_in_b2.py' in (card.folder.parent / 'metafile.yml').read_text()
    assert "sbzoo.load('dcgan_in_b8')" in (card.folder / 'README.md').read_text()
    assert sbzoo.load('dcgan_in_b8').sample(1).shape == (1, 3, 32, 32)
    assert publish([run], name='mine').name == 'mine'


def test_a_card_is_named_by_its_data_set_where_its_config_is(tmp_path):
    run = make_run(tmp_path / 'run', 'retinanet_gn_b2_light', 0, ap(0.3), detector_state())
    edit(run, images_a_step=8)
    card = publish([run])
    assert (card.name, card.data) == ('retinanet_gn_b8_light', 'light')


def test_an_installed_package_is_not_written_into(runs, zoo, monkeypatch):
    monkeypatch.setattr(published, 'ROOT', zoo)
    for write in (lambda: publish(runs), published.write):
        with pytest.raises(UserError, match='cards are written in a clone of the repository alone'):
            write()
    assert not zoo.exists()


def test_numbers_are_those_of_the_weights_that_are_kept(tmp_path):
    state = MODELS.build(load_config(str(ROOT / 'configs/dcgan_in_b2.py')).model).state_dict()
    metrics = {'FD-digits': 70.0, 'precision': 0.5}
    runs = [make_run(tmp_path / f'{i}', 'dcgan_in_b2', i, metrics, state) for i in range(2)]
    card = publish(runs, half=True)
    assert card.results[0].value != 70.0
    assert [result.mean for result in card.results] == [70.0, 0.5]  # of the runs
    for found in check(card):
        assert found.stated == round(found.found, 4)
    text = (card.folder / 'README.md').read_text()
    assert '| precision | half (vectors: single) |' in text
    assert 'measured with them as they are kept.\nMean and standard deviation are of' in text


def test_indices_and_pages_follow(runs, zoo):
    publish(runs)
    listed = published.write()
    assert len(listed) == len(published.published()) + 1
    for card in listed:
        assert (zoo / card.name / 'README.md').read_text() == page(card)
    assert '[retinanet_gn_b2](retinanet_gn_b2/README.md)' in (zoo / 'README.md').read_text()
    ours, theirs = (zoo / 'README.md').read_text().split('## Object detection: published')
    assert '| box AP 0.5823 | COCO, 200 validation images of DigitScenes |' in ours
    assert 'retinanet_gn_b2' not in theirs
    assert 'Name: retinanet_gn_b2' in (zoo / 'metafile.yml').read_text()
    assert (zoo.parent / 'model-index.yml').read_text() == 'Import:\n  - model_cards/metafile.yml\n'


def edit(run, **values) -> None:
    path = run / 'result.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (dict(lr=0.1), r'lr is 0.1, in .* 0.02; a card is of runs that differ in their seed alone'),
        (dict(images_a_step=1), 'images_a_step is 1'),
        (dict(epochs=4), 'epochs is 4'),
        (dict(trained_on='faces'), 'trained_on is faces, in .* digits'),
        (dict(seed=0), 'seed 0: 2 of the runs have it'),
    ],
)
def test_runs_that_do_not_belong_together(runs, zoo, values, message):
    edit(runs[2], **values)
    with pytest.raises(UserError, match=message):
        publish(runs)
    assert not zoo.exists()


def test_names_of_data():
    def named(config: str, train: dict, test: dict) -> str:
        cfg = load_config(str(ROOT / f'configs/{config}.py'))
        for name, values in (('train', train), ('test', test)):
            cfg[f'{name}_dataloader'].dataset = dict(type='X', **values)
        return data_name(cfg)

    assert data_name(load_config(str(ROOT / 'configs/dcgan_in_b2.py'))) == 'digits32'
    pairs = [dict(data_root=f'data/shoes/{split}') for split in ('train', 'val')]
    assert named('pix2pix_ln_b1', *pairs) == 'shoes'
    coco = [dict(data_root='', data_prefix=dict(img=f'/cars/{split}/')) for split in ('a', 'b')]
    assert named('retinanet_gn_b2', *coco) == 'cars'
    assert named('dcgan_in_b2', dict(data_root='data/cats/'), {}) == 'cats'


def test_a_model_that_the_config_does_not_build(runs, zoo):
    path = runs[0] / 'retinanet_gn_b2.py'
    path.write_text(path.read_text().replace("spec='gn8'", "spec='gn4'"))
    with pytest.raises(UserError, match=r'its model is not that of .*needs a config of its own'):
        publish(runs)
    assert not zoo.exists()


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('../x', r'\.\./x: no name of a card; give letters, digits and'),
        ('me/mine', 'me/mine: no name of a card'),
        ('..', 'no name of a card'),
        ('retinanet_r50_fpn_1x_coco', 'a published checkpoint has this name'),
    ],
)
def test_names_that_are_none(runs, zoo, name, message):
    with pytest.raises(UserError, match=message):
        publish(runs, name)
    assert not zoo.exists()


def test_a_card_is_replaced_if_that_is_said(runs):
    first = publish(runs)
    with pytest.raises(UserError, match='retinanet_gn_b2 is there already; give --replace or'):
        publish(runs[:1])
    assert sbzoo.card(first.name) == first
    assert publish(runs[:1], overwrite=True) == sbzoo.card(first.name) != first


@pytest.mark.parametrize('replaced', [False, True])
@pytest.mark.parametrize('writes', [0, 1, 2])
def test_a_killed_publish_can_be_repeated(runs, zoo, monkeypatch, replaced, writes):
    if replaced:
        publish(runs)
    write, done = files.write, iter(range(writes))

    def killed(path, data) -> None:
        if next(done, None) is None:
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as during:
        during.setattr(files, 'write', killed)
        with pytest.raises(KeyboardInterrupt):
            publish(runs[:1], overwrite=replaced)
    there = [path.parent.name for path in zoo.glob('*/README.md')]
    assert there == ['retinanet_gn_b2'] * replaced
    card = publish(runs[:1], overwrite=replaced)
    assert sbzoo.card(card.name) == card
    assert files.sha256(zoo / card.name / 'model.safetensors') == card.sha256
    assert sorted(path.name for path in zoo.glob('*/*')) == [
        'README.md',
        'detections.png',
        'model.safetensors',
    ]


def test_what_a_killed_publish_has_left_is_no_card(runs, zoo):
    shutil.copytree(publish(runs).folder, zoo / '.retinanet_gn_b2-0123abcd')
    assert [card.name for card in sbzoo.list_cards()] == ['retinanet_gn_b2']


def test_a_result_of_another_checkpoint(runs, zoo):
    edit(runs[1], epochs=2)
    with pytest.raises(UserError, match=r'epoch_3.pth: it is of epoch 3, and result.json .* of 2'):
        publish(runs[1:2])
    assert not zoo.exists()


def test_runs_that_are_not_complete(runs, zoo):
    (runs[0] / 'detections.png').unlink()
    with pytest.raises(UserError, match=r'detections.png: missing'):
        publish(runs[:1])
    shutil.rmtree(runs[1])
    with pytest.raises(UserError, match=r'result.json: missing'):
        publish(runs[1:2])
    assert not zoo.exists()


def test_pictures_are_small(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (450, 450, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'noise.png')
    data = small_png(tmp_path / 'noise.png')
    assert 50_000 < len(data) <= PICTURE_BYTES
    assert Image.open(io.BytesIO(data)).format == 'PNG'
    Image.new('RGB', (64, 64), 'red').save(tmp_path / 'plain.png')
    small = Image.open(io.BytesIO(small_png(tmp_path / 'plain.png')))
    assert (small.size, small.mode) == ((64, 64), 'RGB')  # as it was
