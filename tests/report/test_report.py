"""The report says what its sources say, and looks right where a browser is installed."""

import base64
import dataclasses
import html
import io
import json
import logging
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from mmengine.logging import MMLogger
from PIL import Image

import sbzoo
from sbzoo import UserError
from sbzoo.__main__ import parser_of
from sbzoo.checkpoint.cards import Card, Result
from sbzoo.engine.options.config import load_config
from sbzoo.paths import ROOT
from sbzoo.report import check, measurements, page, plots, tables
from sbzoo.report.gather import experiments, read_results, read_work_dir
from sbzoo.tools import report

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome', 'chrome-headless-shell')
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
TASK = 'object-detection'
CONFIG = 'configs/retinanet_gn_b2.py'
EVIL = '<script>alert("x")</script>'


def line(config: str = 'retinanet_gn_b2', seed: int = 0, metrics=None, **values) -> dict:
    """A line of a result file."""
    result = dict(config=config, seed=seed, metrics=metrics or {'coco/bbox_mAP': 0.5})
    result |= dict(data=dict(name='DigitScenes', images=200), devices=1, accumulated=1)
    return result | dict(lr=0.02, epochs=3, images_a_step=2, alphas={}) | values


def gan(norm: str, seed: int, distance: float) -> dict:
    metrics = {
        'fid/FD-digits': distance,
        'fid/KID-digits': distance / 50,
        'fid/KID-digits-std': 9.5,
    }
    data = dict(name='LatentDataset', images=299)
    return line(f'dcgan_{norm}_b2', seed, metrics, data=data, lr=[1e-4, 4e-4])


def write(path: Path, lines: list[dict]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in lines))
    return path


@pytest.fixture(scope='module')
def aps():
    """By norm, batch and seed."""
    values = np.random.RandomState(0).uniform(0.2, 0.7, (3, 2, 3))
    return {
        (norm, batch): values[i, j]
        for i, norm in enumerate(('bn', 'gn', 'hybrid'))
        for j, batch in enumerate((1, 16))
    }


@pytest.fixture(scope='module')
def alphas():
    return np.random.RandomState(1).uniform(0, 1, (2, 3))  # by layer and seed


@pytest.fixture(scope='module')
def results(tmp_path_factory, aps, alphas):
    folder = tmp_path_factory.mktemp('results')
    lines = [
        line(
            f'retinanet_{norm}_b{batch}',
            seed,
            {'coco/bbox_mAP': ap, 'coco/bbox_mAP_l': -1.0},
            images_a_step=batch,
            lr=0.01 * batch,
            alphas=dict(zip(('a.bn', EVIL), alphas[:, seed], strict=True))
            if norm == 'hybrid'
            else {},
        )
        for (norm, batch), values in aps.items()
        for seed, ap in enumerate(values)
    ]
    write(folder / 'digits.jsonl', lines)
    write(folder / 'sampled.jsonl', [gan('in', s, 1.5 + s / 8) for s in range(3)])
    return folder


def work_dir(folder: Path, result: dict) -> Path:
    """What tools/train.py leaves."""
    logs = folder / '20260101/vis_data'
    logs.mkdir(parents=True)
    load_config(str(ROOT / f'configs/{result["config"]}.py')).dump(
        folder / f'{result["config"]}.py'
    )
    (folder / 'result.json').write_text(json.dumps(result))
    records = [dict(loss=3 / step, step=step) for step in range(1, 400)]
    (logs / 'scalars.json').write_text(''.join(json.dumps(r) + '\n' for r in records))
    pixels = np.random.RandomState(0).randint(0, 256, (96, 128, 3), np.uint8)
    Image.fromarray(pixels).resize((1152, 864)).save(folder / 'detections.png')
    return folder


@pytest.fixture(scope='module')
def material(tmp_path_factory, results):
    box = Result('box AP', 0.5711, 'COCO, 200 images', mean=0.5678, std=0.0123)
    ours = Card('mine_ln_b2', TASK, 'Ours.', 'digits', results=(box,), norm='ln', batch=2)
    ours = dataclasses.replace(ours, seeds=(0, 1, 2))
    box = Result('box AP', 40.2, 'COCO by |others|', 'val2017')
    facts = dict(source='https://example.com', norm='gn', batch=2, devices=8, memory=7.1)
    other = Card(f'theirs {EVIL}', TASK, 'Theirs.', 'coco', results=(box,), **facts)
    folder = tmp_path_factory.mktemp('runs')
    runs = [work_dir(folder / f'run{seed}', line(seed=seed)) for seed in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, 'list_cards', lambda: [ours, other])
        return page.gather([*runs, folder / 'unfinished'], results)


# Tables


def cells(table: tables.ResultTable) -> dict[str, tuple[str, ...]]:
    return {name.text: tuple(cell.text for cell in rest) for name, *rest in table.rows}


def test_means_and_spreads_are_numpys(results, aps, alphas):
    runs = read_results(results / 'digits.jsonl')
    (experiment,) = experiments(runs).items()
    (*_, model, protocol), found = experiment
    table = tables.by_norm_and_batch(model, protocol, found)
    assert table.heads == ('norm', 'box AP, batch 1', 'box AP, batch 16')
    assert 'seeds 0, 1, 2' in table.note
    shown = cells(table)
    assert list(shown) == ['bn', 'gn', 'hybrid']
    for (norm, batch), values in aps.items():
        expected = f'{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}'
        assert shown[norm][(1, 16).index(batch)] == expected
    layers = cells(tables.alphas(model, found))
    for layer, values in zip(('a.bn', EVIL), alphas, strict=True):
        assert layers[layer] == (f'{values.mean():.2f} ± {values.std(ddof=1):.2f}',) * 2


def test_distances(results):
    ((_, task, model, protocol), found) = next(
        iter(experiments(read_results(results / 'sampled.jsonl')).items())
    )
    assert task == 'unconditional-image-generation'
    table = tables.by_norm_and_batch(model, protocol, found)
    assert table.heads == ('norm', 'FD-digits, batch 2', 'KID-digits, batch 2')  # no spread of KID
    assert cells(table) == {'in': ('1.625 ± 0.125', '0.0325 ± 0.0025')}
    assert protocol == '3 epochs; 299 samples'


def test_runs_of_another_protocol_stand_apart(tmp_path):
    lines = [line(), line(seed=1), line(epochs=12), line(start='frozen', norm='bn', batch=1)]
    found = experiments(read_results(write(tmp_path / 'x.jsonl', lines)))
    assert [len(runs) for table in found.values() for runs in table.values()] == [2, 1, 1]
    *_, protocol = list(found)[2]
    assert (
        '0.001 x batch size; random weights have one epoch, with 0.01 x batch size; 200' in protocol
    )
    labels = [label for table in found.values() for label, _ in table]
    assert labels[2].startswith('bn, statistics, weight and bias frozen')


def test_runs_on_other_data_stand_apart(tmp_path):
    lines = [gan('in', i, 1.0) | dict(trained_on=name) for i, name in enumerate(('cats', 'dogs'))]
    found = experiments(read_results(write(tmp_path / 'x.jsonl', lines)))
    assert [protocol for *_, protocol in found] == [
        '3 epochs on cats; 299 samples',
        '3 epochs on dogs; 299 samples',
    ]


@pytest.mark.parametrize(
    ('config', 'model', 'norm'),
    [
        ('retinanet_gn_b2', 'retinanet', 'gn'),
        ('retinanet_r50_gn_ws_b2', 'retinanet_r50', 'gn_ws'),
        ('retinanet_gn_b2_light', 'retinanet', 'gn'),
        ('stylegan2_b8', 'stylegan2', ''),
        ('mine', 'mine', ''),
    ],
)
def test_names_of_configs(tmp_path, config, model, norm):
    (run,) = read_results(write(tmp_path / 'x.jsonl', [line(config)]))
    assert (run.model, run.norm) == (model, norm)


@pytest.mark.parametrize('config', ['retinanet_r50_gn_ws_b2', 'retinanet_gn_b2_light', 'gan_b2'])
def test_a_run_is_named_as_a_card_of_it(tmp_path, config):
    (run,) = read_results(write(tmp_path / 'x.jsonl', [line(config, images_a_step=8)]))
    assert run.name == config.replace('b2', 'b8')


def test_ours_and_published_are_two_tables(material, tmp_path):
    found = experiments(material.runs)
    ours = tables.ours(TASK, material.cards, found, tmp_path)
    theirs = tables.theirs(TASK, material.cards, tmp_path)
    shown, published = cells(ours), cells(theirs)
    assert len(shown) == 6 + 1 + 1  # cells of the result file, of the work directories, the card
    assert shown['mine_ln_b2'] == ('ln', '2', '0.5711 (seed 0); 0.5678 ± 0.0123')
    assert published == {f'theirs {EVIL}': ('gn', '2 x 8', '40.2', '7.1')}
    protocols = {row[0].text: row[0].note for row in (*ours.rows, *theirs.rows)}
    assert protocols['mine_ln_b2'].startswith('COCO, 200 images')
    assert (
        protocols['retinanet_bn_b16']
        == '3 epochs; 200 images of DigitScenes; digits.jsonl; 3 seeds'
    )
    assert protocols[f'theirs {EVIL}'] == 'COCO by |others|, val2017; coco'


def test_a_card_stands_beside_the_mean_of_its_runs(results, aps):
    found = experiments(read_results(results / 'digits.jsonl'))
    box = Result('box AP', 0.5, 'COCO')
    card = Card('retinanet_gn_b16', TASK, '', 'digits', results=(box,), seeds=(4,))
    table = tables.ours(TASK, [card], found, ROOT)
    assert [row[0].text for row in table.rows].count(card.name) == 1
    mean = f'{np.mean(aps["gn", 16]):.3f} ± {np.std(aps["gn", 16], ddof=1):.3f}'
    assert cells(table)[card.name][2] == f'0.5 (seed 4); {mean}'
    (note,) = (row[0].note for row in table.rows if row[0].text == card.name)
    assert note.endswith('deviation: 3 epochs; 200 images of DigitScenes; digits.jsonl; 3 seeds')


def test_work_directories_know_their_norm(tmp_path):
    folder = work_dir(tmp_path / 'run', line())
    assert read_work_dir(folder).norm == 'gn8'  # of the config that was run, not of its name


def measurement(model: str, threads: int, **figures: float) -> dict:
    """A line of memory.jsonl."""
    figures = dict(peak_bytes=3e9, seconds=2.0, relative_seconds=1.0) | figures
    machine = dict(processor='Abacus', cores=2, threads=threads, system='Linux x86_64')
    facts = dict(protocol=dict(dtype='float32'), versions=dict(torch='2.14'), machine=machine)
    figures = dict(gradient_difference=0.0) | figures
    return facts | dict(row=dict(model=model), figures=figures, date='2026-01-01', command='c')


def test_machines_stand_apart(tmp_path):
    found = [('peer', 2, 2e9), ('ours', 2, 1e9), ('peer', 1, 2e9)]
    lines = [measurement(name, n, activations_bytes=kept) for name, n, kept in found]
    write(tmp_path / 'memory.jsonl', lines)
    material = page.gather([], tmp_path)
    assert not material.runs
    two, one = measurements.memory(material.measured)
    assert cells(two)['ours'][:2] == ('1.00 GB', '0.50')
    assert list(cells(one)) == ['peer']
    assert (
        two.note == '2 of 2 threads, Abacus, Linux x86_64. dtype float32. torch 2.14. 2026-01-01.'
    )
    section = page.sections(material, tmp_path)[-1]
    assert [block.title for block in section.blocks] == ['Memory of a training step']


def test_markdown_keeps_its_columns(material, tmp_path):
    text = page.markdown(page.sections(material, tmp_path))
    rows = [row for row in text.splitlines() if row.startswith('|')]
    assert rows
    counts = [len(re.findall(r'(?<!\\)\|', row)) for row in rows]
    heads = [i for i, row in enumerate(rows) if row.startswith('| ---')]
    for start, end in zip(heads, [h - 1 for h in heads[1:]] + [len(rows)], strict=True):
        assert len(set(counts[start - 1 : end])) == 1
    assert '<script>' not in text


# What is broken


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('{"config": ', 'Expecting value'),
        ('{"config": "retinanet_gn_b2"}', "no 'seed'|no 'data'|no 'metrics'"),
        ('[]', 'list indices'),
        (json.dumps(line(metrics={'coco/bbox_mAP': float('nan')})), 'coco/bbox_mAP is nan'),
        (json.dumps(line(metrics={'coco/bbox_mAP': 'high'})), 'real number'),
    ],
)
def test_a_broken_line(tmp_path, text, reason):
    path = write(tmp_path / 'runs.jsonl', [line()])
    path.write_text(path.read_text() + text + '\n')
    with pytest.raises(
        UserError, match=rf'runs.jsonl:2: not the result of a run .*({reason})'
    ) as error:
        read_results(path)
    assert '\n' not in str(error.value)


def test_broken_work_directories(tmp_path):
    run = work_dir(tmp_path / 'run', line())
    (run / 'detections.png').write_text('no picture')
    with pytest.raises(UserError, match=r'detections.png: not a picture'):
        plots.embed([('', run / 'detections.png')])
    (run / '20260101/vis_data/scalars.json').write_text('{"loss": \n')
    with pytest.raises(UserError, match=r'run: scalars.json is broken'):
        page.html(page.sections(page.gather([run], tmp_path), tmp_path))
    (run / 'result.json').write_text('{')
    with pytest.raises(UserError, match=r'result.json: not the result of a run'):
        read_work_dir(run)


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ([line(), line()], r'x.jsonl:2 and x.jsonl:1: both are gn at batch 2 with seed 0'),
        ([line(), line(seed=1, lr=0.1)], r'x.jsonl:2 and x.jsonl:1: they differ in more'),
    ],
)
def test_runs_that_cannot_be_averaged(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        experiments(read_results(write(tmp_path / 'x.jsonl', lines)))


# Drawings


@pytest.mark.parametrize('numbers', [[0.0], [0.5713, 0.5714], [-3.0, 1e4], [1e-9, 2e-9], []])
def test_axes_hold_their_numbers(numbers):
    axis = plots.scale(numbers)
    assert all(0 <= axis.at(n) <= 100 for n in numbers)
    assert (axis.at(axis.ticks[0]), axis.at(axis.ticks[-1])) == (0, 100)


def test_marks_are_at_the_numbers():
    drawn = plots.dots({'gn': [1.0, 3.0], EVIL: [2.0]}, ['2 ± 1.41', '2'])
    axis = plots.scale([1, 3, 2 - 2**0.5, 2 + 2**0.5])
    means = re.findall(r'class="mean" cx="([\d.]+)%', drawn)
    assert [float(m) for m in means] == [axis.at(2)] * 2
    assert len(re.findall('class="seed"', drawn)) == 2  # none where there is one seed
    assert EVIL not in drawn


def test_thinned_curves_keep_their_mean():
    curve = {step: float(np.sin(step)) for step in range(1, 1201)}
    thinned = plots.thin(curve)
    assert len(thinned) == plots.POINTS
    np.testing.assert_allclose(np.mean(list(thinned.values())), np.mean(list(curve.values())))
    assert plots.thin({1: 2.0}) == {1: 2.0}


def test_pictures_share_the_room(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, 'PICTURES', 60_000)
    path = work_dir(tmp_path / 'run', line()) / 'detections.png'
    made = plots.embed([('a', path)] * 3)
    assert all(len(picture.uri) < 20_000 * 4 / 3 + 100 for picture in made)
    data = made[0].uri.partition('base64,')[2]
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (made[0].width, made[0].height)


# The page


class Reader(HTMLParser):
    """Checks that elements are closed in order, and keeps what is loaded and what is said."""

    VOID = ('meta', 'input', 'img', 'line', 'circle', 'polyline', 'use', 'br')

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.links, self.ids, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.loads += [named[key] for key in ('src', 'srcset', 'data', 'poster') if key in named]
        self.loads += [named['href']] if tag in ('link', 'use') else []
        self.links += [named['href']] if tag == 'a' else []
        self.ids += [named['id']] if 'id' in named else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in self.VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope='module')
def written(material, tmp_path_factory):
    out = tmp_path_factory.mktemp('out')
    return page.write(material, out)[0].read_text(encoding='utf-8')


def test_the_page_needs_nothing_else(written):
    reader = Reader()
    reader.feed(written)
    assert not reader.open
    assert all(load.startswith(('data:image/webp', '#')) for load in reader.loads)
    assert sum(load.startswith('data:') for load in reader.loads) == 2
    assert {load[1:] for load in reader.loads if load.startswith('#')} <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))
    assert not re.search(r'url\(|@import|//[a-z]+\.', written)
    assert "default-src 'none'" in written
    assert len(written) < 3_000_000


def test_each_number_is_on_the_page(written, aps):
    for values in aps.values():
        assert written.count(f'{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}') >= 3
    for number in (
        '1.625 ± 0.125',
        '0.0325 ± 0.0025',
        '0.5711 (seed 0); 0.5678 ± 0.0123',
        '40.2',
        '7.1',
    ):
        assert number in written
    assert 'COCO by |others|, val2017' in written


def test_names_are_escaped(written):
    assert EVIL not in written
    assert written.count(html.escape(EVIL).replace('&quot;', '&#34;')) >= 2
    assert written.count('<script>') == 1


def test_cards_are_linked(written):
    reader = Reader()
    reader.feed(written)
    (link,) = (found for found in reader.links if 'mine_ln_b2' in found)
    assert link.endswith('model_cards/mine_ln_b2/README.md')


def test_it_is_written_whole_or_not_at_all(material, tmp_path):
    made = page.write(material, tmp_path / 'out')
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'report.html',
        'report.md',
    ]
    assert made[1].read_text(encoding='utf-8').startswith('# sbzoo: results')


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'list_cards', list)
    made = page.html(page.sections(page.gather([], tmp_path / 'none'), tmp_path))
    assert made.count('Nothing here') == 6
    assert 'Object detection' not in made


PROBE = """
<body style="margin: 0"><script>
const page = PAGE, seen = {};
for (const width of [400, 1600]) {
  const frame = document.createElement('iframe');
  Object.assign(frame, {width, height: 900, srcdoc: page});
  frame.style.border = 0;
  frame.onload = () => {
    const doc = frame.contentDocument, root = doc.documentElement;
    const outside = [...doc.querySelectorAll('body *')].filter(e =>
      !e.closest('.scroll') && e.getBoundingClientRect().right > width + 0.5);
    const column = () => [...doc.querySelectorAll('table')][0].tBodies[0];
    const first = () => [...column().rows].map(row => row.cells[1].textContent.trim());
    const head = doc.querySelectorAll('th button')[1];
    head.click(); const up = first(); head.click(); const down = first();
    const input = doc.querySelector('input');
    input.value = 'HYBRID'; input.dispatchEvent(new Event('input'));
    const left = [...column().rows].filter(row => !row.hidden)
      .map(row => row.cells[0].textContent.trim());
    seen[width] = {inner: frame.contentWindow.innerWidth, scroll: root.scrollWidth,
      outside: outside.map(e => e.outerHTML.slice(0, 90)), up, down, left,
      images: [...doc.images].every(image => image.naturalWidth > 0)};
    document.title = JSON.stringify(seen);
  };
  document.body.append(frame);
}
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason='no browser is installed')
def test_in_a_browser(written, tmp_path, aps):
    probe = tmp_path / 'probe.html'
    probe.write_text(
        PROBE.replace('PAGE', json.dumps(written).replace('</', '<\\/')), encoding='utf-8'
    )
    flags = '--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr', '--dump-dom'
    profile = f'--user-data-dir={tmp_path / "profile"}', '--virtual-time-budget=5000'
    command = [BROWSER, *flags, *profile, '--window-size=2100,1000', probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert 'CONSOLE' not in done.stderr
    seen = json.loads(html.unescape(re.search('<title>(.*?)</title>', done.stdout)[1]))
    for width in (400, 1600):
        frame = seen[str(width)]
        assert (frame['inner'], frame['outside']) == (width, [])
        assert frame['scroll'] <= width
        assert frame['images']
        means = sorted(f'{np.mean(aps[norm, 1]):.3f}' for norm in ('bn', 'gn', 'hybrid'))
        assert [text[:5] for text in frame['up']] == means
        assert frame['down'] == frame['up'][::-1]
        assert frame['left'] == ['hybrid']


# --check


@pytest.mark.parametrize(
    ('stated', 'found', 'holds'),
    [(0.587, 0.5879, True), (0.587, 0.5882, False), (74.03, 74.09, True), (74.03, 74.2, False)],
)
def test_tolerance(stated, found, holds):
    assert check.Check('x', 'y', stated, found).holds(0.001) == holds


def test_numbers_that_come_out_and_not(monkeypatch):
    monkeypatch.setattr(check, 'evaluate', lambda cfg, card: {'box AP': 0.5, 'box AP50': 0.8})
    card = Card('x', TASK, '', 'digits', results=(Result('box AP', 0.51, ''),), config=CONFIG)
    assert check.check(card) == [check.Check('x', 'box AP', 0.51, 0.5)]
    lost = dataclasses.replace(card, results=(Result('FID', 3.0, ''),))
    with pytest.raises(UserError, match=r'card x: FID is not evaluated, but box AP, box AP50'):
        check.check(lost)
    with pytest.raises(UserError, match='nothing to check'):
        check.checkable([card])


@pytest.mark.parametrize('name', ['dcgan_in_b2', 'dcgan_gn_b2'])  # in one process
def test_cards_are_evaluated(name):
    for found in check.check(sbzoo.card(name)):
        assert found.holds(0.02), found
    handlers = MMLogger.get_current_instance().handlers
    assert not any(isinstance(handler, logging.FileHandler) for handler in handlers)


@pytest.fixture
def tool():
    """Runs tools/report.py in this process."""

    def call(*arguments: object) -> None:
        report.main(parser_of('report').parse_args([*map(str, arguments)]))

    return call


def test_the_tool(tool, tmp_path, capsys):
    run = work_dir(tmp_path / 'run', line())
    tool(run, tmp_path, '--out', tmp_path / 'out')
    said = capsys.readouterr().out
    assert f'left out: {tmp_path} has no result.json' in said
    assert f'page:    {tmp_path}/out/report.html' in said
    assert said.splitlines()[-1].startswith('next:    python -m webbrowser file://')
    (run / 'result.json').write_text('{')
    with pytest.raises(UserError, match=r'run/result.json: not the result of a run'):
        tool(run, '--out', tmp_path / 'other')
    assert not (tmp_path / 'other').exists()


def test_the_tool_checks(tool, monkeypatch, capsys):
    card = Card('x', TASK, '', 'digits', config=CONFIG, weights='w')
    card = dataclasses.replace(card, results=(Result('box AP', 0.51, ''),))
    monkeypatch.setattr('sbzoo.checkpoint.cards.list_cards', lambda: [card])
    monkeypatch.setattr(check, 'evaluate', lambda cfg, card: {'box AP': 0.5})
    with pytest.raises(UserError, match=r'1 of 1 numbers differ by more than 0\.001'):
        tool('--check')
    assert 'DIFFERS' in capsys.readouterr().out
    tool('--check', '--tolerance', 0.02)
    assert 'agrees' in capsys.readouterr().out
