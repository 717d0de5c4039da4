"""`tools/bench.py gpu`, where there is no GPU: tiny on the CPU, and what fails."""

import json
import math
import re
import time

import pytest
import torch
from benchmarks import clocks, gpu, gpu_sections, output, tables
from benchmarks.gpu_sections import SECTIONS, ByMoments
from torch.nn import functional as F

from sbzoo import records
from sbzoo.errors import UserError
from sbzoo.norm import Norm
from sbzoo.report import page

SMALL = 'float32', 'padding', 'retinanet'  # of the sections, for the sake of time


@pytest.fixture
def few(monkeypatch):
    """Fewer models in a section."""
    arms = ('MMDetection', 'sbzoo --lean', 'sbzoo, amp')
    chosen = {name: gpu_sections.ARMS[name] for name in arms}
    monkeypatch.setitem(SECTIONS['retinanet'].keywords, 'arms', chosen)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_without_a_gpu_it_says_so(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    bench('gpu', '--out', tmp_path / 'gpu.jsonl')
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith('no GPU')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures('few')
def test_smoke_is_recorded_rendered_and_resumed(bench, tmp_path, capsys):
    path = tmp_path / 'gpu_smoke.jsonl'
    smoke = 'gpu', '--smoke', '--out', path, '--sections'
    bench(*smoke, *SMALL)
    found = lines(path)
    assert {line['row']['section'] for line in found} == set(SMALL)
    assert all(math.isfinite(value) for line in found for value in line['figures'].values())
    trained = {
        (line['row']['model'], line['row']['batch']) for line in found if 'model' in line['row']
    }
    assert ('sbzoo, amp', 2) in trained
    assert len(trained) == 6
    text = tables.render(tmp_path)
    assert '\n- [On a GPU](#on-a-gpu)\n' in text
    assert '\n### float32 on no GPU\n' in text
    assert re.search(r'\n\| gn32 with ReLU, by moments \| [\d.e-]+ \| [\d.e-]+ \|\n', text)
    assert re.search(r'\n\| MMDetection \| 1 \| [\d.]+ \| 1.00 \| [\d.]+ GB \| 1.00 \|\n', text)
    report = page.markdown(page.sections(page.gather([], tmp_path), tmp_path))
    assert '\n### retinanet on no GPU\n' in report
    capsys.readouterr()
    bench(*smoke, 'padding', 'float32')
    assert capsys.readouterr().out.startswith('padding: on record\nfloat32: on record\n')
    assert lines(path) == found
    bench(*smoke, 'padding', '--again')
    assert '\npadding: 12 lines, ' in capsys.readouterr().out
    assert len(lines(path)) == len(found)


def test_a_section_goes_on_without_what_fails(bench, monkeypatch, tmp_path, capsys):
    def broken(scale, failures):
        runs = failures.running({'one': lambda: None, 'two': lambda: 1 / 0}, 'here')
        yield records.measurement(dict(what='some'), dict(count=len(runs)), {})
        raise MemoryError('no more')

    monkeypatch.setitem(SECTIONS, 'fid', broken)
    path = tmp_path / 'gpu.jsonl'
    smoke = 'gpu', '--smoke', '--out', path, '--sections', 'fid'
    monkeypatch.setattr(gpu.gpu, 'tables', lambda measured: [])
    for _ in range(2):  # what has failed is no section on record
        with pytest.raises(UserError, match=r'^failed, as said above: fid \(2\)$'):
            bench(*smoke)
        said = capsys.readouterr().out
        assert '  failed: two, here: ZeroDivisionError: division by zero\n' in said
        assert '  failed: the rest: MemoryError: no more\n' in said
        (line,) = lines(path)
        assert line['figures'] == dict(count=1)
        assert line['protocol']['failed'] == ['two, here', 'the rest']


def test_on_a_gpu_each_section_has_a_process_and_the_file_its_name(
    bench, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'NVIDIA H200 (1g)')
    monkeypatch.setattr(output, 'RESULTS', tmp_path)
    monkeypatch.setattr(gpu, 'FULL', gpu_sections.SMOKE)
    bench('gpu', '--sections', 'padding')
    (path,) = tmp_path.iterdir()
    assert path.name == 'gpu_nvidia-h200-1g.jsonl'
    assert {line['machine']['gpu'] for line in lines(path)} == {'NVIDIA H200 (1g)'}
    assert f'lines:   {path}' in capsys.readouterr().out


def test_a_process_that_ends_is_a_failure(monkeypatch):
    def ended(*_):
        raise ChildProcessError('measured: ended by the system')

    monkeypatch.setattr(gpu, 'in_child', ended)
    found, (failure,) = gpu.in_a_process('fid')
    assert found == []
    assert failure.error == 'measured: ended by the system, or after 480 seconds'


@pytest.mark.parametrize('relu', [False, True])
def test_by_moments_is_the_same_norm(relu):
    x = torch.randn(2, 8, 5, 7)
    norm = Norm(8, 'gn4', relu=relu)
    expected = F.group_norm(x, 4)
    y = ByMoments(norm)(x)
    torch.testing.assert_close(y, expected.relu() if relu else expected)
    assert type(y.grad_fn).__name__ == '_ApplyAffineBackward'  # and not torch's kernel


def test_clocks():
    times = clocks.milliseconds(
        dict(short=lambda: time.sleep(0.002), long=lambda: time.sleep(0.02)), 3
    )
    assert 2 <= times['short'] < 20 <= times['long']
    cost = clocks.cost(lambda: torch.ones(2**25).sum())
    assert 2**26 < cost.peak < 2**28  # bytes; 2**27, and what else moves
    assert cost.seconds > 0
