"""The figures in the README are those of the runs."""

import json
from pathlib import Path

from sbzoo.bench.digits import BATCHES, NORMS, table

ROOT = Path(__file__).parent.parent


def test_readme_shows_the_table_of_the_runs():
    lines = (ROOT / 'model_cards/results/retinanet_digits.jsonl').read_text().splitlines()
    results = [json.loads(line) for line in lines]
    assert table(results, NORMS, BATCHES) in (ROOT / 'README.md').read_text()


def test_runs_are_of_one_protocol():
    lines = (ROOT / 'model_cards/results/retinanet_digits.jsonl').read_text().splitlines()
    results = [json.loads(line) for line in lines]
    assert {(r['epochs'], r['data']['images']) for r in results} == {(3, 200)}
    assert all(abs(r['lr'] / r['images_a_step'] - 0.01) < 1e-9 for r in results)
    runs = [(r['config'], r['seed']) for r in results]
    assert len(runs) == len(set(runs))
