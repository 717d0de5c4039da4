"""The tables on record are those of the runs and measurements beside them."""

import json
import re
import statistics
from itertools import product
from pathlib import Path

import pytest
import torch
from benchmarks import (
    BENCHES,
    classifier,
    configs,
    digits,
    droplets,
    gan,
    labels,
    runs,
    tables,
    train,
    transfer,
)

from sbzoo import UserError, records
from sbzoo.__main__ import parser_of
from sbzoo.checkpoint.cards import card
from sbzoo.engine.model import config_of
from sbzoo.engine.options.config import build_config
from sbzoo.engine.options.scaling import total_batch_size

ROOT = Path(__file__).parents[2]
README = ROOT / 'model_cards/results/README.md'


def results(name: str) -> list[dict]:
    lines = (ROOT / f'model_cards/results/{name}.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_results_are_shown_as_they_are():
    readme = README.read_text()
    assert readme == tables.render(README.parent)
    assert tables.STUDIES.read_text() == tables.render_studies(README.parent)
    assert digits.table(results('retinanet_digits'), digits.NORMS, digits.BATCHES) in readme
    assert transfer.table(results('transfer_digits')) in readme
    assert configs.table(json.loads(configs.SUMMARY.read_text())['norms']) in readme


@pytest.mark.parametrize(
    ('config', 'name', 'cell'),
    [
        *(
            (f'retinanet_{norm}_b2_light', 'light', ('mixed aspect ratios', norm, 'left out'))
            for norm in ('gn', 'in', 'ln', 'hybrid')
        ),
        ('retinanet_bn_b2_light', 'light', ('own light', 'bn', 'batch 2')),
        ('rtmdet_gn_b8', 'batch', ('AdamW', 'gn8, square root', 'batch 8')),
    ],
)
def test_the_header_of_a_config_says_what_was_measured(config, name, cell):
    found = [m['figures']['bbox_mAP'] for m in results(name) if row_of(m) == cell]
    header = (ROOT / f'configs/{config}.py').read_text()
    assert f'# AP {statistics.mean(found):.3f} on average over {len(found)} seeds' in header


def row_of(measurement: dict) -> tuple[str, str, str]:
    return tuple(measurement['row'][key] for key in ('study', 'arm', 'condition'))


def test_runs_of_the_norms_are_of_one_protocol():
    runs = results('retinanet_digits')
    assert {(r['epochs'], r['data']['images']) for r in runs} == {(3, 200)}
    assert all(r['lr'] / r['images_a_step'] == pytest.approx(0.01) for r in runs)
    names = [(r['config'].split('_')[1], r['images_a_step'], r['seed']) for r in runs]
    assert len(names) == len(set(names))


def test_runs_of_the_transfer_are_of_one_protocol():
    runs = results('transfer_digits')
    assert {r['data']['images'] for r in runs} == {200}
    for run in (r for r in runs if r['batch']):
        assert (run['epochs'], run['images_a_step']) == (1, run['batch'])
        lr = transfer.SCRATCH_LR if run['start'] == 'scratch' else transfer.LR
        assert run['lr'] / run['batch'] == pytest.approx(lr)
    names = [(r['norm'], r['start'], r['batch'], r['seed']) for r in runs]
    assert len(names) == len(set(names))


def test_runs_of_the_gans_are_of_one_protocol():
    runs = results('gan')
    assert {(r['protocol']['epochs'], r['protocol']['images']) for r in runs} == {(16, 299)}
    seeds = {cell: [] for cell in product(gan.NORMS, (f'batch {b}' for b in gan.BATCHES))}
    for run in runs:
        seeds[row_of(run)[1:]].append(run['row']['seed'])
    assert all(sorted(s) == [0, 1, 2] for s in seeds.values())


# What a benchmark puts on record


def test_a_run_that_fails_stops_no_other():
    done = []

    def run(number):
        if number % 2:
            raise UserError(f'{number} is odd')
        done.append(number)

    with pytest.raises(UserError, match=r'^1 is odd\n3 is odd$'):
        runs.run_all(run, [(number,) for number in range(5)], jobs=2)
    assert sorted(done) == [0, 2, 4]
    with pytest.raises(TypeError):
        runs.run_all(run, [('a',), (1,)], jobs=1)
    assert runs.run_all(abs, [(-1,), (2,)], jobs=2) == [1, 2]


def test_a_run_may_name_its_batch_in_its_config_or_not():
    ours = results('retinanet_digits')
    renamed = [r | dict(config=f'{r["config"].rpartition("_")[0]}_b2') for r in ours]
    assert {r['config'] for r in renamed} < {r['config'] for r in ours}
    table = digits.table(ours, digits.NORMS, digits.BATCHES)
    assert digits.table(renamed, digits.NORMS, digits.BATCHES) == table
    assert len(set(map(runs.identity, renamed))) == len(ours)


@pytest.mark.parametrize('name', ['retinanet_digits', 'transfer_digits'])
def test_runs_on_record_stay_as_they_are(tmp_path, name):
    original = README.with_name(f'{name}.jsonl').read_text()
    path = tmp_path / 'runs.jsonl'
    path.write_text(original)
    lines = results(name)
    runs.record(path, lines[3:5])  # the same again
    assert path.read_text() == original
    runs.record(path, [lines[3] | dict(epochs=99), lines[4] | dict(machine='arm64, 1 threads')])
    after = [json.loads(line) for line in path.read_text().splitlines()]
    assert after[3]['epochs'] == 99
    assert [*after[:3], *after[4:-1]] == [*lines[:3], *lines[4:]]
    assert after[-1]['machine'] == 'arm64, 1 threads'


def norm_time(layer: str, ms: float, compiled: bool = False, **machine: object):
    row = dict(layer=layer, shape=[2, 256, 100, 168], memory_format='contiguous', compiled=compiled)
    found = records.measurement(row, dict(ms=ms), dict(rounds=1))
    return found._replace(machine=found.machine | machine)


def study(arm: str, seed: int, ap: float) -> records.Measurement:
    row = dict(study='padding', arm=arm, condition='44%', seed=seed)
    return records.measurement(row, dict(bbox_mAP=ap), dict(images=200))


def drops(norm: str, seed: int, count: int) -> records.Measurement:
    figures = dict(droplets=count, one_place=3, peak=5.55, highest_peak=9, L1=12.344)
    return records.measurement(dict(model='pix2pix', norm=norm, seed=seed), figures, {})


def test_measurements_replace_those_of_the_same_machine(tmp_path):
    path = tmp_path / 'norm.jsonl'
    records.record(path, [norm_time('gn32', 20), norm_time('hybrid', 30)])
    records.record(path, [norm_time('hybrid', 40, processor='other'), norm_time('gn32', 25)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line['figures']['ms'] for line in lines] == [25, 30, 40]
    assert lines[0]['machine'].keys() == {'processor', 'cores', 'threads', 'system'}
    assert lines[0]['versions'].keys() == {'sbzoo', 'torch'}
    assert [p.name for p in tmp_path.iterdir()] == ['norm.jsonl']


def test_the_price_of_accumulation_is_that_of_its_normalizer_alone(digits, tmp_path):
    _, *accumulated = train.pairs(tmp_path)
    assert len(accumulated) == 2
    for pair in accumulated:
        commands = pair.peer[2:], pair.ours[2:]
        peer, ours = (build_config(parser_of('train').parse_args(words)) for words in commands)
        assert total_batch_size(peer) == total_batch_size(ours) == pair.images
        assert peer.train_cfg.pop('loss_normalizer') == 'batch'
        assert peer.to_dict() == ours.to_dict()


def test_a_folder_without_results_renders(tmp_path):
    text = tables.render(tmp_path)
    for bench in BENCHES.keys() - {'train', 'classifier', 'gpu', 'tables'}:
        assert f'`python tools/bench.py {bench}`' in text.replace('Not measured yet, by', '')
    assert text.count('Not measured yet') == 20
    assert 'None' not in text
    assert '{' not in text


def test_measurements_are_rendered(tmp_path):
    pairs = dict(peer=50.0, sbzoo=8.0, ratio=6.25, difference=1e-9)
    costs = dict(activations_bytes=2.6e9, peak_bytes=3e9, seconds=11.0, gradient_difference=0)
    costs |= dict(relative_seconds=1.0)
    path = dict(card_ap=0.5899, own_tools_ap=0.59, resume_difference=0, gan_fd=281.5, contracts=37)
    scaling = dict(images_per_second=52.8, side_by_side=1.8, ranks=1.26)
    packages = dict(mmengine='0.10.7', mmcv='2.1.0', mmdet='3.3.0')
    made = dict(
        stack=[records.measurement(packages, path, {})],
        batch=[study('gn', 0, 0.5), study('gn', 1, 0.6), study('ln', 0, 0.7)],
        light=[study('bn', 0, 0.1)],
        conversion=[study('bn', 0, 0.1)],
        fine_tuning=[study('bn', 0, 0.2)],
        ranks=[records.measurement(dict(training='gn: gradients'), scaling, {})],
        norm=[
            norm_time('GroupNorm(32)', 20),
            norm_time('hybrid', 28),
            norm_time('hybrid', 24, compiled=True),
            norm_time('hybrid', 14, processor='other'),
        ],
        padding=[
            records.measurement(
                dict(layer='gn', shape=[2, 256, 100, 168], memory_format='channels_last'),
                dict(full_ms=20, padded_ms=25),
                {},
            )
        ],
        memory=[records.measurement(dict(model='sbzoo --lean'), costs, {}, ['mmdet'])],
        ap=[records.measurement(dict(what='AP, seconds'), pairs, dict(images=7))],
        fid=[records.measurement(dict(what='distance, seconds'), pairs, {}, ['pytorch-fid'])],
        labels=[records.measurement(dict(card='r3gan_b8'), dict(agreement=0.9964), {})],
        droplets=[drops('in', 0, 60), drops('in', 1, 70), drops('none', 0, 0)],
    )
    for name, measured in made.items():
        records.record(tmp_path / f'{name}.jsonl', measured)
    text = tables.render(tmp_path)
    assert '| gn | 2x256x100x168, last | 20 | 25 | 1.25 |\n' in text
    assert re.search(
        r'Seeds 0, 1\. .*\n\n\| padding, AP \| 44% \|\n.*\n\| gn \| 0.550 ± 0.071 \|', text
    )
    assert '\n| ln | 0.700 |\n' in text
    assert '| hybrid | 28 |\n' in text
    assert '| hybrid | 14 |\n' in text
    assert 'A hybrid takes 1.40 to 1.40 times as long as GroupNorm(32)' in text
    assert 'Compiled, a hybrid takes 0.86 to 0.86' in text
    assert '| sbzoo --lean | 2.60 GB | 1.00 | 3.00 GB | 11.0 s | 1.00 | 0e+00 |' in text
    assert re.search(r'\| AP, seconds \| 1 of \d+ threads, .* \| 50 \| 8 \| 6.25 \| 1e-09', text)
    assert '| r3gan_b8 | 0.996 |' in text
    assert '| pix2pix | in | 65 ± 7 | 3 ± 0 | 5.5 ± 0.0 | 9.0 ± 0.0 | 12.34 ± 0.00 |' in text
    assert '| pix2pix | none | 0 | 3 | 5.5 | 9.0 | 12.34 |' in text
    assert '| gn: gradients | 52.8 images/s | 1.80 | 1.26 | 0.70 |' in text
    assert '| 0.10.7 | 2.1.0 | 3.3.0 | 0.5899 | 0.5900 | 0 | 281.5 | 37 |' in text
    assert text.count('Not measured yet') == 6  # runs, configs and models
    (tmp_path / 'fid.jsonl').write_text('{"row": {}}')
    with pytest.raises(UserError, match=r"fid.jsonl:1: not a measurement \(no 'figures'\)"):
        tables.render(tmp_path)


def test_a_benchmark_records_and_says_what_is_next(bench, tmp_path, capsys):
    bench('ap', '--images', 20, '--rounds', 1, '--out', tmp_path / 'ap.jsonl')
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == f'lines:   {tmp_path}/ap.jsonl'
    assert said[-1] == f'next:    python tools/bench.py tables --results {tmp_path}'
    like_coco, before, hard = map(json.loads, (tmp_path / 'ap.jsonl').read_text().splitlines())
    command = f'python tools/bench.py ap --images 20 --rounds 1 --out {tmp_path}/ap.jsonl'
    ours = {'sbzoo', 'torch', 'hotcoco'}
    for made in (like_coco, before, hard):
        assert made['command'] == command
        assert made['figures']['difference'] < 1e-12
    assert (
        like_coco['versions'].keys() == hard['versions'].keys() == ours | {'mmdet', 'pycocotools'}
    )
    assert before['versions'].keys() == ours | {'faster-coco-eval'}
    assert like_coco['protocol'].keys() == {'images', 'detections', 'seed', 'rounds'}
    bench('tables', '--results', tmp_path)
    assert (tmp_path / 'README.md').read_text() == tables.render(tmp_path)
    assert (tmp_path / 'studies.md').read_text() == tables.render_studies(tmp_path)
    assert tables.STUDIES.read_text() == tables.render_studies(README.parent)  # is as it was
    with pytest.raises(SystemExit):
        bench('--help')
    said = capsys.readouterr().out
    assert all(name in said for name in BENCHES)


def test_conditional_generators_draw_what_they_are_asked_for():
    """As read by a classifier that knows real digits which it was not trained on."""
    real, written = classifier.digits(held_out=True)
    assert (labels.read(real) == written).double().mean() > 0.95
    assert labels.agreement('r3gan_b8', 200) > 0.9
    assert labels.agreement('sngan_hybrid_b2', 200) > 0.5  # of ten classes


def test_a_droplet_is_found_where_its_target_is_flat():
    targets = torch.full((3, 3, 64, 64), 50, dtype=torch.uint8)
    targets[:, :, 16:48, 16:48] = 200
    images = targets + torch.randint(5, targets.shape, dtype=torch.uint8)
    images[1, 2, 30:32, 20:22] = 80  # a droplet in one channel
    images[2, :, 30:32, 15:17] = 0  # as large, across an edge
    largest, places = droplets.spots(images, targets)
    assert largest[1].item() == pytest.approx(122, abs=4)
    assert max(largest[0], largest[2]) <= 8
    assert (places[1] - torch.tensor([30, 20])).abs().max() <= 1
    anywhere, places = droplets.spots(images)
    assert anywhere[2] > 100
    assert (places[2] - torch.tensor([30, 15])).abs().max() <= 1


def test_translations_are_those_that_the_card_was_measured_with():
    """Its L1 is of `tools/publish.py`."""
    found = card('pix2pix_ln_b1')
    made = droplets.Translations(config_of(found), 'card://pix2pix_ln_b1').figures()
    (expected,) = found.results
    assert made['L1'] == pytest.approx(expected.value, abs=1e-3)
    assert made['droplets'] == 0
    assert made['peak'] <= made['highest_peak']
