"""The figures in the README are those of the runs."""

import json
from pathlib import Path

import pytest
from benchmarks import classifier, digits, gan, labels, transfer

from sbzoo.norm import NORMS

ROOT = Path(__file__).parents[2]


def results(name: str) -> list[dict]:
    lines = (ROOT / f'model_cards/results/{name}.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_readme_shows_the_tables_of_the_runs():
    readme = (ROOT / 'README.md').read_text()
    assert digits.table(results('retinanet_digits'), digits.NORMS, digits.BATCHES) in readme
    assert transfer.table(results('transfer_digits')) in readme
    assert gan.table(results('gan_digits'), gan.NORMS) in readme


def test_readme_shows_the_table_of_the_norms():
    readme = (ROOT / 'README.md').read_text()
    rows = [f'| `{e.spec}` | {e.statistics} | {e.use} |' for e in NORMS]
    assert '\n'.join(rows) in readme


def test_runs_of_the_norms_are_of_one_protocol():
    runs = results('retinanet_digits')
    assert {(r['epochs'], r['data']['images']) for r in runs} == {(3, 200)}
    assert all(r['lr'] / r['images_a_step'] == pytest.approx(0.01) for r in runs)
    names = [(r['config'], r['seed']) for r in runs]
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
    runs = results('gan_digits')
    assert {(r['epochs'], r['data']['images'], r['images_a_step']) for r in runs} == {(8, 299, 2)}
    assert {tuple(r['lr']) for r in runs} == {(2e-4, 2e-4)}
    names = {(r['config'], r['seed']) for r in runs}
    assert len(names) == len(runs) == len(gan.NORMS) * 3


def test_conditional_generators_draw_what_they_are_asked_for():
    """As read by a classifier that knows real digits which it was not trained on."""
    real, written = classifier.digits(held_out=True)
    assert (labels.read(real) == written).double().mean() > 0.95
    assert labels.agreement('r3gan_b8', 200) > 0.9
    assert labels.agreement('sngan_hybrid_b2', 200) > 0.5  # of ten classes
