"""MMDetection's own configs under `--norm`: a training step and a prediction."""

import json

import pytest
from benchmarks import config_runs
from mmdet.registry import MODELS

RETINANET = 'retinanet/retinanet_r18_fpn_1x_coco.py'


def test_a_config_runs_once_for_all_with_its_model():
    found = config_runs.check(RETINANET, 'gn', {})
    assert (found['failed'], found['as_it_is']) == ({}, {})
    known = {found['model']: RETINANET}
    other = 'retinanet/retinanet_r18_fpn_1xb8-1x_coco.py'  # another batch size
    assert config_runs.check(other, 'gn', known) == dict(same_as=RETINANET)


def test_a_step_that_fails_is_named_with_its_reason():
    cfg = config_runs.model_config(RETINANET, 'gn')
    cfg.model.bbox_head.loss_cls.loss_weight = float('nan')
    cfg.model.test_cfg.nms.type = 'no_such'
    failed = config_runs.steps(cfg)
    assert failed.keys() == {'objects', 'empty', 'predict'}
    assert failed['objects'] == failed['empty'] == 'not finite: loss, loss_cls'
    assert 'no_such' in failed['predict']


@pytest.mark.parametrize(
    ('name', 'training', 'shape'),
    [
        (RETINANET, True, (3, 128, 128)),
        ('dino/dino-4scale_r50_8xb2-12e_coco.py', True, (3, 256, 256)),  # of 900 queries
        ('ssd/ssd300_coco.py', True, (3, 300, 300)),
        (
            'masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py',
            True,
            (2, 3, 128, 128),
        ),
        (
            'qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py',
            False,
            (2, 3, 128, 128),
        ),
    ],
)
def test_a_picture_or_a_video_as_the_model_wants_it(name, training, shape):
    made = config_runs.batch(config_runs.model_config(name, 'gn'), 2, training=training)
    assert made['inputs'][0].shape == shape
    assert len(made['data_samples']) == 1


def test_pictures_are_not_padded_to_the_size_of_training():
    cfg = config_runs.model_config('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', 'gn')
    model = MODELS.build(cfg.model.data_preprocessor)
    made = config_runs.batch(cfg, 2, training=True)
    assert model(made, True)['inputs'].shape == (1, 3, 128, 128)
    assert made['data_samples'][0].gt_instances.masks.masks.shape == (2, 128, 128)
    assert (
        'masks'
        not in config_runs.batch(config_runs.model_config(RETINANET, 'gn'), 2, training=True)[
            'data_samples'
        ][0].gt_instances
    )


def test_nothing_is_downloaded():
    for name in ('pvt/retinanet_pvt-l_fpn_1x_coco.py', 'ssd/ssd300_coco.py'):
        assert 'http' not in str(config_runs.model_config(name, 'gn').model)


def test_semi_supervised_detectors_have_a_picture_for_each_branch():
    name = 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    made = config_runs.batch(config_runs.model_config(name, 'gn'), 0, training=True)
    assert made['inputs'].keys() == made['data_samples'].keys() == set(config_runs.BRANCHES)


def test_the_summary_says_what_was_run_and_what_failed():
    results = [
        dict(config='a.py', model='1', failed={}, as_it_is={}),
        dict(config='b.py', same_as='a.py'),
        dict(
            config='c.py',
            model='2',
            failed=dict(objects='no operator', predict='no operator'),
            as_it_is=dict(objects='no operator', predict='no operator'),
        ),
        dict(config='d.py', error='more than 180 s of processor time'),
        dict(config='e.py', no_model=True),
        dict(config='f.py', model='3', failed=dict(empty='not finite: loss'), as_it_is={}),
    ]
    found = config_runs.summary(results, 'gn', 8)
    assert (found['configs'], found['run'], found['models']) == (8, 5, 4)
    assert found['counts'] == dict(objects=3, empty=3, predict=3)
    assert found['were_run'] == ['a.py', 'b.py', 'c.py', 'd.py', 'f.py']
    both = 'loss and backward, two objects, prediction'
    assert found['exceptions'] == {
        f'without --norm too, {both}: no operator': ['c.py'],
        'more than 180 s of processor time': ['d.py'],
        'with --norm alone, loss and backward, no objects: not finite: loss': ['f.py'],
    }
    assert '| 5 of 8 configs, 4 different models | gn |' in config_runs.table(found)
    assert '- more than 180 s of processor time: 1, `d.py`' in config_runs.failures(found)


def test_runs_on_record_are_of_configs_that_can_be_built():
    found = json.loads(config_runs.SUMMARY.read_text())
    names, count = config_runs.buildable(found['norm'])
    assert set(found['were_run']) <= set(names)
    assert found['run'] == len(found['were_run']) <= found['configs'] == count
