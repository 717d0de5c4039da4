"""Models of other libraries under `convert_norm`, as the benchmark checks them."""

import json
import time

import pytest
import torch
from benchmarks import compatibility, libraries
from benchmarks.limits import Limits, limited
from torch import nn

from sbzoo import convert_norm


def case() -> libraries.Case:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    return libraries.Case(nn.Sequential(*layers), (torch.rand(1, 3, 9, 9),))


@pytest.mark.parametrize('spec', compatibility.SPECS)
def test_a_model_that_is_converted_well_passes_all_checks(spec):
    found = compatibility.converted(case, spec)
    assert found == dict(replaced=2, left={}, tried=[*compatibility.CHECKS], failed={})


def forgets_weights(record) -> None:
    with torch.no_grad():
        record.model[1].weight.fill_(1.3)


def leaves_one_silently(record) -> None:
    record.model[4] = nn.BatchNorm2d(8)


def renames(record) -> None:
    layers = record.model._modules
    record.model._modules = {key.replace('4', 'other'): layer for key, layer in layers.items()}


def loses_a_number(record) -> None:
    with torch.no_grad():
        record.model[1].bias[3] = torch.nan


@pytest.mark.parametrize(
    ('fault', 'checks'),
    [
        (forgets_weights, {'back'}),
        (leaves_one_silently, {'named', 'again', 'back'}),
        (renames, {'keys'}),
        (loses_a_number, {'back', 'runs'}),
    ],
)
def test_each_check_finds_its_fault(monkeypatch, fault, checks):
    def faulty(model: nn.Module, spec: str):
        record = convert_norm(model, spec)
        if record.changed and spec != 'bn':
            fault(record)
        return record

    monkeypatch.setattr(compatibility, 'convert_norm', faulty)
    assert compatibility.converted(case, 'hybrid')['failed'].keys() == checks


def test_back_to_batch_norm_is_checked_where_it_is_promised():
    def grouped() -> libraries.Case:
        model, args = case()
        model[1] = nn.GroupNorm(2, 8)
        return libraries.Case(model, args)

    assert 'back' not in compatibility.converted(grouped, 'hybrid')['tried']


@pytest.mark.parametrize(
    ('library', 'name', 'replaced'), [('timm', 'test_resnet', 15), ('torchvision', 'vit_b_16', 0)]
)
def test_models_of_libraries_that_are_installed(library, name, replaced):
    found = compatibility.check(library, name)
    for spec in compatibility.SPECS:
        assert (found[spec]['replaced'], found[spec]['failed']) == (replaced, {})


class FindsNothing(nn.Sequential):
    """A detector in evaluation that has found no box, or one."""

    found = 0

    def forward(self, x: torch.Tensor) -> dict:
        if self.training:
            return dict(loss=super().forward(x).square().mean())
        return dict(boxes=torch.ones(self.found, 4), scores=super().forward(x).flatten()[:0])


@pytest.mark.parametrize(('after', 'failed'), [(0, {}), (1, dict(back='[1, 4] instead of [0, 4]'))])
def test_a_detector_may_find_nothing_if_it_did_before(monkeypatch, after, failed):
    def detector() -> libraries.Case:
        return libraries.Case(FindsNothing(*case().model), case().args)

    def convert(model: nn.Module, spec: str):
        model.found = after if spec == 'bn' else 0
        return convert_norm(model, spec)

    monkeypatch.setattr(compatibility, 'convert_norm', convert)
    assert compatibility.converted(detector, 'gn')['failed'] == failed


def test_a_model_that_cannot_be_built_says_why():
    found = compatibility.check('torchvision', 'resnet19')
    assert found == dict(unchecked='ValueError: Unknown model resnet19')


def spend(seconds: float, gigabytes: int) -> dict:
    held = bytearray(gigabytes * 2**30)
    started = time.process_time()
    while time.process_time() < started + seconds:
        pass
    return dict(held=len(held))


def test_a_process_has_limits():
    calls = [(0, 0), (60, 0), (0, 2)]
    ended = limited(Limits(seconds=1, gigabytes=1), spend, calls, jobs=2)
    found = {each.arguments: each.or_reason('reason') for each in ended}
    assert found == {
        (0, 0): dict(held=0),
        (60, 0): dict(reason='more than 1 s of processor time'),
        (0, 2): dict(reason='ended with status 1'),
    }


def test_a_call_is_made_when_there_is_room_for_it():
    seen = []
    calls = ((0, len(seen)) for _ in range(3))
    for ended in limited(Limits(), spend, calls, jobs=1):
        seen.append(ended)
    assert [each.arguments for each in seen] == [(0, 0), (0, 1), (0, 2)]


def test_what_is_on_record_is_whole():
    for name, found in json.loads(compatibility.SUMMARY.read_text()).items():
        listed = set(libraries.LIBRARIES[name].names()) if name in ('timm', 'torchvision') else None
        assert listed is None or listed.issuperset([*found['checked'], *found['unchecked']])
        assert len(found['checked']) + len(found['unchecked']) <= found['models']
        for of_spec in found['specs'].values():
            for check, failed in of_spec['failed'].items():
                assert of_spec['tried'].get(check, 0) >= len(failed)
                assert failed.keys() <= set(found['checked'])


def test_failures_are_listed_with_their_reason():
    good = dict(replaced=2, left={'LayerNorm: per pixel': 3}, tried=['runs'], failed={})
    bad = dict(replaced=1, left={}, tried=['runs'], failed=dict(runs='output not finite'))
    results = [
        dict(library='timm', model='a', gn=good, hybrid=good),
        dict(library='timm', model='b', gn=good, hybrid=bad),
        dict(library='timm', model='c', unchecked='ImportError: d'),
    ]
    found = compatibility.summary(results)
    lines = compatibility.table(found).splitlines()
    assert '| gn | 4 in 2 models | 6 |  |  |  |  | 2 of 2 |' in lines[2]
    assert '| hybrid | 3 in 2 models | 3 |  |  |  |  | 1 of 2 |' in lines[3]
    assert [*compatibility.left(found)] == ['- timm: 3 LayerNorm: per pixel']
    assert [*compatibility.failures(found)] == [
        '- timm, c: not checked, ImportError: d',
        '- timm, b: hybrid, a training step at batch size 1 is finite: output not finite',
    ]
