"""MMDetection's own configs under `--norm`."""

import json

import pytest
from benchmarks import configs
from torch import nn

from sbzoo.norm import Norm

LIVE = [
    'atss/atss_r50_fpn_1x_coco.py',
    'nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py',
    'yolox/yolox_tiny_8xb8-300e_coco.py',
    'resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco.py',
    'solo/decoupled-solo_r50_fpn_1x_coco.py',
    'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
]


@pytest.mark.parametrize('spec', ['gn', 'hybrid'])
@pytest.mark.parametrize('name', LIVE)
def test_configs_of_mmdetection_have_no_batch_statistics_left(name, spec):
    assert configs.check(name, spec) == dict(config=name, outcome='turned', reason='')


def test_batch_statistics_are_found():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.GroupNorm(2, 4), Norm(4, 'hybrid'), Norm(4, 'gn'))
    assert list(configs.batch_statistics(model, 'gn')) == ['0 BatchNorm1d', '2 Norm']
    assert list(configs.batch_statistics(model, 'hybrid')) == ['0 BatchNorm1d']


def test_summary_of_all_configs_is_whole():
    """The table on record is of these counts."""
    names = set(configs.config_names())
    for found in json.loads(configs.SUMMARY.read_text())['norms'].values():
        others = [name for listed in found['exceptions'].values() for name in listed]
        assert names.issuperset(others)
        assert len(others) == len(set(others)) == found['configs'] - found['counts']['turned']
        assert sum(found['counts'].values()) == found['configs']
        assert found['configs'] + found['without_model'] == len(names)
        assert not {'left', 'broken'} & found['counts'].keys()


def test_table_and_reasons():
    reasons = dict(turned='', package='lap', neither='no such file')
    results = [dict(config=f'{o}.py', outcome=o, reason=r) for o, r in reasons.items()]
    found = configs.summary([*results, dict(config='x.py', outcome='no model', reason='')])
    assert (found['configs'], found['without_model']) == (3, 1)
    assert found['exceptions']['package: lap'] == ['package.py']
    lines = configs.table(dict(gn=found, hybrid=found)).splitlines()
    assert '| no batch statistics are left | 1 | 1 |' in lines
    assert configs.reasons(found)[-1] == '  1 neither: no such file'


def test_a_config_that_cannot_be_built_says_why():
    result = configs.check('misc/d2_retinanet_r50-caffe_fpn_ms-90k_coco.py', 'gn')
    assert (result['outcome'], result['reason']) == ('package', 'Detectron2')
    result = configs.check('cascade_rpn/cascade-rpn_r50-caffe_fpn_1x_coco.py', 'gn')
    assert result['outcome'] == 'neither'
    assert "missing 1 required positional argument: 'num_classes'" in result['reason']
