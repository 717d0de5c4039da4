"""Model cards say what their sources say, and load."""

import contextlib
import json
import re
import runpy
import sys
from pathlib import Path

import mmdet
import mmengine
import numpy as np
import pytest
import timm
import torch
import yaml
from mmdet.models.backbones import ResNet
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from PIL import Image
from safetensors.torch import save_file

import sbzoo
from sbzoo import UserError
from sbzoo.checkpoint import cards
from sbzoo.checkpoint.cards import Card, Result, parse
from sbzoo.detection.preprocessing import Preprocessing, _given
from sbzoo.engine import train as training
from sbzoo.engine.model import config_of
from sbzoo.engine.options.config import load_config
from sbzoo.paths import ROOT
from sbzoo.zoo import index as published
from sbzoo.zoo.page import page

ALL = sbzoo.list_cards()
PUBLISHED = published.published()
MMDET = [card for card in PUBLISHED if card.config.startswith('mmdet::')]
TIMM = [card for card in PUBLISHED if 'timm' in card.summary]


def ids(card: Card) -> str:
    return card.name


# What is written


def test_nothing_is_written_by_hand():
    for path, text in published.pages(ALL).items():
        assert path.read_text(encoding='utf-8') == text, path


def test_published_cards_are_those_of_the_file():
    listed = {card.name: card for card in ALL}
    assert [listed.get(card.name) for card in PUBLISHED] == PUBLISHED
    assert all(card.is_ours for card in ALL if card not in PUBLISHED)


@pytest.fixture
def mine():
    return Card(
        'mine',
        'object-detection',
        'RetinaNet: "with" {quotes}.',
        'digits',
        results=(Result('box AP', 0.587, 'COCO', mean=0.58, std=0.011),),
        config='configs/retinanet_gn_b2.py',
        weights='model.safetensors',
        sha256='0' * 64,
        norm='gn8',
        batch=2,
        seeds=(0, 1, 2),
        limits=('None.', 'Many.'),
    )


def test_a_card_comes_back_from_its_page(mine):
    text = page(mine)
    assert parse('mine', text) == mine
    assert '| box AP | 0.587 | 0.58 ± 0.011 | COCO |' in text
    assert 'mean ± standard deviation of 3 seeds' in text
    head = yaml.safe_load(text.split('---\n')[1])
    assert head['model-index'][0]['results'][0]['metrics'][0] == dict(
        type='box_ap', value=0.587, name='box AP', args=dict(protocol='COCO', mean=0.58, std=0.011)
    )
    assert (head['library_name'], head['pipeline_tag']) == ('sbzoo', 'object-detection')


@pytest.mark.parametrize('text', ['# no head', '---\nlicense: mit\n---\n', '---\n- 1\n---\n'])
def test_what_is_no_card(text):
    with pytest.raises(UserError, match=r'x/README.md: not a model card'):
        parse('x', text)


# What the sources say


def metafile(folder: str) -> dict[str, dict]:
    path = Path(mmdet.__file__).parent / '.mim/configs' / folder / 'metafile.yml'
    return {model['Name']: model for model in yaml.safe_load(path.read_text())['Models']}


@pytest.mark.parametrize('card', MMDET, ids=ids)
def test_mmdetection_says_the_same(card):
    folder = card.config.removeprefix('mmdet::').partition('/')[0]
    model = metafile(folder)[card.name]
    assert card.weights == model['Weights']
    assert card.config.removeprefix('mmdet::') == re.sub(
        'configs/', '', model['Config'].replace('%2B', '+')
    )
    metrics = {k: v for result in model['Results'] for k, v in result['Metrics'].items()}
    assert {result.metric: result.value for result in card.results} == metrics
    assert card.memory == model['Metadata'].get('Training Memory (GB)')
    cfg = config_of(card)
    assert int(card.training.split()[0]) == cfg.train_cfg.max_epochs
    assert card.batch == cfg.train_dataloader.batch_size
    assert card.preprocessing == str(_given(preprocessor(cfg)))


def preprocessor(cfg):
    """Just enough of the model for its preprocessing."""
    model = torch.nn.Module()
    model.data_preprocessor = mmdet.registry.MODELS.build(cfg.model.data_preprocessor)
    return model


def test_all_of_mmdetections_group_norm_detectors_have_a_card():
    names = {name for folder in ('gn', 'gn+ws', 'scratch') for name in metafile(folder)}
    assert len(names) == 20
    assert names <= {card.name for card in MMDET}


@pytest.mark.parametrize('card', TIMM, ids=ids)
def test_timm_says_the_same(card):
    cfg = timm.get_pretrained_cfg(card.name)
    assert card.preprocessing == str(Preprocessing.of_unit_range(cfg.mean, cfg.std))
    assert card.license == cfg.license
    assert card.weights in (cfg.url, f'hf://{cfg.hf_hub_id}/model.safetensors')
    sizes = {(cfg.input_size or cfg.test_input_size)[1], (cfg.test_input_size or cfg.input_size)[1]}
    assert int(card.results[0].protocol.split()[-2]) in sizes


def test_openmmlab_says_the_same():
    known = json.loads((Path(mmengine.__file__).parent / 'hub/openmmlab.json').read_text())
    files = {url.rpartition('/')[2] for key, url in known.items() if re.search('_gn(_ws)?$', key)}
    listed = {c.weights.rpartition('/')[2] for c in PUBLISHED if 'open-mmlab://' in c.summary}
    assert len(listed) == 9
    assert listed == files


@pytest.mark.parametrize('card', [card for card in ALL if card.config], ids=ids)
def test_the_config_is_there_and_of_these_weights(card):
    cfg = config_of(card)
    if card.task == 'image-classification':
        text = cfg.pretty_text
        key = re.search(r'open-mmlab://[\w/]+', card.summary)
        assert (key[0] if key else card.name) in text


# What one does with them


def test_filters():
    assert sbzoo.list_cards() == ALL
    groups = sbzoo.list_cards(task='object-detection', norm='gn', batch=2, data='coco')
    assert len(groups) >= 8
    assert {card.norm for card in groups} == {'gn'}
    assert sbzoo.list_cards(norm='gn+ws', data='coco') != []
    assert sbzoo.list_cards(norm='nothing') == []


def test_number_of_groups_is_left_open(zoo, mine):
    (zoo / 'mine').mkdir()
    (zoo / 'mine/README.md').write_text(page(mine))
    assert [card.name for card in sbzoo.list_cards(norm='gn')] == ['mine']
    assert [card.name for card in sbzoo.list_cards(norm='gn8')] == ['mine']
    assert sbzoo.list_cards(norm='gn4') == []


def test_near_names():
    with pytest.raises(UserError, match=r'no such card; did you mean .*retinanet_r50_fpn_1x_coco'):
        sbzoo.card('retinanet_r50_1x_coco')


def test_installed_without_the_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(cards, 'CARDS', tmp_path / 'site-packages/model_cards')
    with pytest.raises(UserError, match='no model cards; they and the weights are in the repos'):
        sbzoo.load('retinanet_gn_b2')


def test_what_cannot_be_loaded():
    with pytest.raises(UserError, match=r'no model that runs by itself; train from it by configs'):
        sbzoo.load('resnet50_gn.a1h_in1k')
    with pytest.raises(UserError, match=r'no model that runs by itself; see https'):
        sbzoo.load('stylegan2_c2_8xb4_ffhq-1024x1024')


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    """A folder of cards of this test's own."""
    monkeypatch.setattr(cards, 'CARDS', tmp_path)
    return tmp_path


def put_card(zoo, config: str, task: str, weights: dict, **fields) -> Card:
    (zoo / 'tiny').mkdir(exist_ok=True)
    weights = {key: value.clone() for key, value in weights.items()}  # heads share convolutions
    save_file(weights, zoo / 'tiny/model.safetensors')
    card = Card(
        'tiny', task, 'Tiny.', 'digits', config=config, weights='model.safetensors', **fields
    )
    (zoo / 'tiny/README.md').write_text(page(card))
    return card


@pytest.fixture
def detector(zoo, monkeypatch):
    """A detector with random weights and its card; called from another folder."""
    config = 'configs/retinanet_gn_b2.py'
    model = MODELS.build(load_config(config).model)
    model.init_weights()
    torch.nn.init.zeros_(model.bbox_head.retina_cls.bias)  # so that it finds something
    put_card(zoo, config, 'object-detection', model.state_dict(), norm='gn8')
    monkeypatch.chdir(zoo)
    return model.eval()


def test_detector(detector, zoo):
    pixels = np.random.RandomState(0).randint(0, 256, (80, 120, 3), np.uint8)
    Image.fromarray(pixels).save('image.png')
    loaded = sbzoo.load('tiny')
    assert not loaded.model.training
    found = loaded.predict('image.png', score=0)
    for image in (pixels, Image.fromarray(pixels)):
        again = loaded.predict(image, score=0)
        torch.testing.assert_close(found.boxes, again.boxes)
    assert loaded.classes == tuple('0123456789')
    assert len(found) > 0
    first = str(found).splitlines()[0]
    assert re.fullmatch(r'\d 0\.\d\d at \[\d+, \d+, \d+, \d+\]', first)
    assert 96 < found.boxes[:, 2].max() <= 120  # in pixels of the picture, which was made smaller
    assert str(loaded.predict(pixels, score=1.1)) == 'nothing found'


def test_weights_are_those_of_the_card(detector):
    loaded = sbzoo.load('tiny').model.state_dict()
    for key, value in detector.state_dict().items():
        torch.testing.assert_close(loaded[key].cpu(), value)


@pytest.mark.parametrize('name', ['none.png', 'text.png'])
def test_pictures_that_are_none(detector, zoo, name):
    (zoo / 'text.png').write_text('no picture')
    with pytest.raises(UserError, match=f'{name}: (no such image|not an image)'):
        sbzoo.load('tiny').predict(name)


@pytest.mark.parametrize(
    ('pixels', 'got'),
    [
        (np.zeros((80, 120), np.uint8), r'uint8 \[80, 120\]'),
        (np.zeros((3, 80, 120), np.uint8), r'uint8 \[3, 80, 120\]'),
        (np.zeros((80, 120, 4), np.uint8), r'uint8 \[80, 120, 4\]'),
        (np.zeros((80, 120, 3)), r'float64 \[80, 120, 3\]'),
        (torch.zeros(80, 120, 3), r'torch.float32 \[80, 120, 3\]'),
        (None, r'NoneType \[\]'),
    ],
)
def test_pixels_that_are_none(detector, pixels, got):
    with pytest.raises(UserError, match=got + r' is no image: give .* uint8 \[H, W, 3\]'):
        sbzoo.load('tiny').predict(pixels)


def test_weights_of_another_model(detector, zoo):
    weights = detector.state_dict()
    weights['more'] = weights.pop('bbox_head.retina_cls.bias')
    put_card(zoo, 'configs/retinanet_gn_b2.py', 'object-detection', weights)
    with pytest.raises(
        UserError, match=r'card://tiny: the checkpoint is of another model\n .*retina'
    ):
        sbzoo.load('tiny')


def test_damaged_weights(detector, zoo):
    put_card(
        zoo,
        'configs/retinanet_gn_b2.py',
        'object-detection',
        detector.state_dict(),
        sha256='0' * 64,
    )
    with pytest.raises(UserError, match=r'model.safetensors: wrong sha256, want 0000'):
        sbzoo.load('tiny')


def test_scheme_in_any_config(detector):
    other = MODELS.build(load_config(str(ROOT / 'configs/retinanet_gn_b2.py')).model)
    load_checkpoint(other, 'card://tiny', strict=True)
    expected = detector.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())
    pretrained = dict(type='Pretrained', checkpoint='card://tiny', prefix='backbone.')
    backbone = ResNet(
        18,
        stem_channels=16,
        base_channels=16,
        norm_cfg=dict(type='Norm', spec='gn8'),
        init_cfg=pretrained,
    )
    backbone.init_weights()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, expected[f'backbone.{key}'])


def test_generator(zoo):
    config = 'configs/dcgan_in_b2.py'
    model = MODELS.build(load_config(config).model).eval()
    weights = {f'generator.{k}': v for k, v in model.sampler.state_dict().items()}
    put_card(zoo, config, 'unconditional-image-generation', weights)
    loaded = sbzoo.load('tiny')
    images = loaded.sample(3, seed=5)
    assert (images.shape, images.dtype) == ((3, 3, 32, 32), torch.uint8)
    expected = (model.sample([5, 6, 7]) + 1) * 127.5
    torch.testing.assert_close(images.cpu().float(), expected.round().clamp(0, 255), atol=1, rtol=0)
    assert torch.equal(images[1:], loaded.sample(2, seed=6))


def test_translator(zoo, tmp_path):
    config = 'configs/cyclegan_in_b1.py'
    model = MODELS.build(load_config(config).model).eval()
    weights = {f'generator.{k}': v for k, v in model.generator.state_dict().items()}
    put_card(zoo, config, 'image-to-image', weights)
    pixels = np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)
    image = sbzoo.load('tiny').translate(pixels)
    inputs = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    expected = (model.translate(inputs)[0] + 1) * 127.5
    torch.testing.assert_close(image.float(), expected.round().clamp(0, 255), atol=1, rtol=0)
    seen, clear = tmp_path / 'seen.png', tmp_path / 'clear.png'
    Image.fromarray(np.dstack([pixels, np.full((64, 64), 255, np.uint8)])).save(seen)
    Image.fromarray(np.dstack([pixels, np.zeros((64, 64), np.uint8)])).save(clear)
    assert torch.equal(sbzoo.load('tiny').translate(seen), image)
    white = sbzoo.load('tiny').translate(np.full_like(pixels, 255))
    assert torch.equal(sbzoo.load('tiny').translate(clear), white)  # as in training


def test_a_card_is_not_tested_with_another_norm(monkeypatch):
    monkeypatch.setattr('sbzoo.checkpoint.io.resolve', None)  # before any download
    cfg = load_config(str(ROOT / 'configs/retinanet_ln_b1.py'))
    message = 'card retinanet_gn_b2: its norm is gn8, and retinanet_ln_b1.py has ln'
    with pytest.raises(UserError, match=message):
        training.test(cfg, 'card://retinanet_gn_b2')
    with pytest.raises(UserError, match='a1h_in1k: image classification, no model that is tested'):
        training.test(cfg, 'card://resnet50_gn.a1h_in1k')


# The tool


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run tools/cards.py in this process; returns what it prints."""

    def call(*arguments: str) -> str:
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv('COLUMNS', '80')
        monkeypatch.setattr(sys, 'argv', ['cards.py', *arguments])
        with contextlib.suppress(SystemExit):
            runpy.run_path('tools/cards.py', run_name='__main__')
        printed = capsys.readouterr()
        return printed.out + printed.err

    return call


def test_tool_lists_and_shows(tool):
    assert 'retinanet_r18_fpn_1x_coco' in tool('--norm', 'bn', '--data', 'coco')
    assert 'retinanet_r18_fpn_1x_coco' not in tool('--norm', 'gn')
    assert 'COCO AP at IoU 0.50:0.95 by MMDetection' in tool('retinanet_r18_fpn_1x_coco')
    assert 'error: --norm gm: no card; there are norm: bn, ' in tool('--norm', 'gm')
    assert 'no such card; did you mean' in tool('retinanet_r18')
    assert '![detections.png](detections.png)' in tool('retinanet_gn_b2')


def test_ours_and_published_are_two_tables_of_80_columns(tool, monkeypatch):
    shown = tool('--data', 'coco') + tool('--data', 'digits32')
    assert 'published, not measured here' in shown.split('trained here')[0]
    assert 'FD-digits' in shown.split('trained here')[1]
    assert 'recall' not in shown  # one number a card
    assert 'COCO AP at IoU' in shown
    assert max(map(len, shown.splitlines())) <= 80
