"""What another batch size does to a config, against values worked out by hand."""

from argparse import Namespace
from copy import deepcopy
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from torch import nn

from sbzoo.engine.options.config import build_config, load_config
from sbzoo.engine.options.parts import typed_dicts
from sbzoo.engine.options.resume import check_resumable, rescheduled, steps_done
from sbzoo.engine.options.scaling import base_batch_size, set_lr
from sbzoo.engine.options.schedule import set_batch, warn_if_warm_up_outlasts
from sbzoo.errors import UserError

FASTER_RCNN = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
RTMDET = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
OPTIMIZER = 'optim_wrapper.optimizer'

# config -> its batch size; what batch size 4 makes of it, beside the batch size itself
PUBLISHED = {
    FASTER_RCNN: (16, {f'{OPTIMIZER}.lr': 0.005, 'param_scheduler.0.end': 2000}),
    'mmdet::detr/detr_r50_8xb2-150e_coco.py': (
        16,
        {
            f'{OPTIMIZER}.lr': 0.00005,
            f'{OPTIMIZER}.betas': (0.9, 0.999749906195275),
            f'{OPTIMIZER}.weight_decay': 0.00005,
        },
    ),
    'mmdet::yolox/yolox_s_8xb8-300e_coco.py': (
        64,
        {
            f'{OPTIMIZER}.lr': 0.000625,
            'param_scheduler.1.eta_min': 0.00003125,
            'custom_hooks.2.momentum': 6.250292987672288e-6,
            'custom_hooks.2.gamma': 32000,
        },
    ),
    'mmdet::retinanet/retinanet_r50_fpn_90k_coco.py': (
        16,
        {
            f'{OPTIMIZER}.lr': 0.0025,
            'param_scheduler.0.end': 2000,
            'param_scheduler.1.end': 360_000,
            'param_scheduler.1.milestones': [240_000, 320_000],
            'train_cfg.max_iters': 360_000,
            'train_cfg.val_interval': 40_000,
            'default_hooks.checkpoint.interval': 40_000,
        },
    ),
    RTMDET: (
        256,  # not 16, as it says
        {
            f'{OPTIMIZER}.lr': 0.0005,
            f'{OPTIMIZER}.betas': (0.9, 0.999984367304480),
            f'{OPTIMIZER}.weight_decay': 0.00625,
            'param_scheduler.0.end': 64_000,
            'param_scheduler.1.eta_min': 0.000025,
            'custom_hooks.0.momentum': 3.125307657888764e-6,
            'custom_hooks.0.gamma': 128_000,
        },
    ),
}

TABLE = """\
lr auto: the config is for batch size 256, as its name says, and not for its base_batch_size=16, \
and this run takes 1 device(s) x batch size 4 x 1 accumulated, so kappa = 0.015625
  what                       from          to                rule
  optimizer.lr               0.004         0.0005            x sqrt(kappa)
  optimizer.betas            (0.9, 0.999)  (0.9, 0.9999844)  ^ kappa: half-life in images
  optimizer.weight_decay     0.05          0.00625           x sqrt(kappa)
  CosineAnnealingLR.eta_min  0.0002        2.5e-05           as lr
  ExpMomentumEMA.momentum    0.0002        3.125308e-06      1 - rho ^ kappa: half-life in images
  ExpMomentumEMA.gamma       2000          128000            / kappa: counted in images
  LinearLR.end               1000          64000             / kappa: counted in images"""


def flat(node, path=''):
    """The leaves of a config; numbers in a list or a tuple are one leaf."""
    numbers = isinstance(node, list | tuple) and all(isinstance(v, int | float) for v in node)
    if numbers or not isinstance(node, dict | list | tuple):
        return {path: node}
    items = node if isinstance(node, dict) else dict(enumerate(node))
    return {k: v for key, value in items.items() for k, v in flat(value, f'{path}.{key}').items()}


def changed(old, new):
    """The leaves of a config that are not those of another."""
    old, new = flat(old.to_dict()), flat(new.to_dict())
    assert not old.keys() - new.keys()
    return {key[1:]: value for key, value in new.items() if key not in old or value != old[key]}


def options(config, cfg_options=None, **given):
    return Namespace(config=config, data=None, cfg_options=cfg_options, work_dir=None, **given)


def built(config, **given):
    return build_config(options(config, **dict(batch=None, accumulate=None, lr=None) | given))


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_configs_against_values_by_hand(name):
    base, wanted = PUBLISHED[name]
    before, after = load_config(name), load_config(name)
    assert base_batch_size(before) == base
    set_batch(after, 4)
    set_lr(after, 'auto')
    found = changed(before, after)
    assert found.pop('train_dataloader.batch_size') == 4
    assert base_batch_size(after) == found.pop('auto_scale_lr.base_batch_size') == 4
    assert not found.pop('auto_scale_lr.enable', False)
    assert found.pop('auto_scale_lr.scaled', True)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-12), key


def test_what_has_changed_is_logged_as_one_table():
    with mock.patch('sbzoo.engine.options.scaling.print_log') as log:
        built(RTMDET, batch=2, accumulate=2)
        built(RTMDET, batch=4)
        built(RTMDET, batch=256)
    two, four, whole = (call.args[0] for call in log.call_args_list)
    assert four == TABLE
    assert two == TABLE.replace('batch size 4 x 1', 'batch size 2 x 2')
    assert whole.splitlines()[1:] == ['  nothing changes']


def test_a_base_that_the_user_gives_counts_before_the_name(tmp_path):
    written = str(tmp_path / RTMDET.rpartition('/')[2])
    with mock.patch('sbzoo.engine.options.scaling.print_log') as log:
        cfg = built(RTMDET, batch=4, cfg_options=['auto_scale_lr.base_batch_size=64'])
        cfg.dump(written)
        built(written, batch=1)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.004 / 4)
    given, again = (call.args[0] for call in log.call_args_list)
    for told, batch in ((given, 64), (again, 4)):
        why = f'batch size {batch}, as its base_batch_size says, and not for the 256 of its name'
        assert told.startswith(f'lr auto: the config is for {why}, and this run')


def test_where_the_base_comes_from_is_said():
    with mock.patch('sbzoo.engine.options.scaling.print_log') as log:
        built(FASTER_RCNN, batch=2)
        built('mmdet::yolox/yolox_s_8xb8-300e_coco.py', batch=2)
    one, other = (call.args[0].partition(', and this run')[0] for call in log.call_args_list)
    assert one == 'lr auto: the config is for batch size 16, as its base_batch_size says'
    assert other == 'lr auto: the config is for batch size 64, as its name says'


def test_a_sample_of_re_identification_is_a_batch_of_triplets():
    """8xb32 are 8 devices with one sample of 8 persons, 4 images each."""
    name = 'mmdet::reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py'
    with mock.patch('sbzoo.engine.options.scaling.print_log') as log:
        lr = [built(name, batch=1, accumulate=n).optim_wrapper.optimizer.lr for n in (8, 2)]
    assert lr == [0.1, pytest.approx(0.1 / 4)]
    told = log.call_args.args[0].splitlines()[0]
    assert told.endswith(
        'takes 1 device(s) x batch size 1 x 2 accumulated x 32 images of a sample, so kappa = 0.25'
    )


@pytest.mark.parametrize('kappa', [1 / 8, 4])
def test_images_not_steps_are_forgotten(kappa):
    """Of Adam's second moment, of the decay of a weight and of an average, by what they do."""
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1))))
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.01)]
    cfg.merge_from_dict(dict(train_cfg={}, train_dataloader=dict(batch_size=8)))
    cfg.auto_scale_lr = dict(base_batch_size=8)
    scaled = deepcopy(cfg)
    set_batch(scaled, int(8 * kappa))
    set_lr(scaled, 'auto')
    images = 64
    for one, other in zip(left(cfg, images), left(scaled, images), strict=True):
        assert 1 - other == pytest.approx(1 - one, rel=1e-3)


def left(cfg, images):
    """What is left of a weight, of the square of a gradient and of an average after so many."""
    weight = nn.Parameter(torch.ones((), dtype=torch.float64))
    options = {k: v for k, v in cfg.optim_wrapper.optimizer.items() if k != 'type'}
    optimizer = torch.optim.AdamW([weight], **options)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    moment, weight.grad, weight.data = (
        optimizer.state[weight]['exp_avg_sq'],
        weight * 0,
        weight / weight,
    )
    optimizer.state[weight]['exp_avg'].zero_()
    first = moment.item()
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    average = ExponentialMovingAverage(model, cfg.custom_hooks[0].momentum)
    average.update_parameters(model)
    nn.init.zeros_(model.weight)
    for _ in range(images // cfg.train_dataloader.batch_size):
        optimizer.step()
        average.update_parameters(model)
    return weight.item(), moment.item() / first, average.module.weight.item()


@pytest.mark.parametrize('batches', [(2, 8), (8, 2), (1, 16)])
@pytest.mark.parametrize('name', [RTMDET, 'configs/retinanet_gn_b2.py'])
def test_a_written_config_is_not_scaled_twice(name, batches, tmp_path):
    first = built(name, batch=batches[0])
    written = str(tmp_path / name.rpartition('/')[2])
    first.dump(written)
    for given in (dict(), dict(lr='auto'), dict(batch=batches[0])):
        again = built(written, **given)
        assert changed(first, again).keys() <= {'work_dir'}
    assert_equal(built(written, batch=batches[1]), built(name, batch=batches[1]))


def assert_equal(found, wanted):
    found, wanted = flat(found.to_dict()), flat(wanted.to_dict())
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        numbers = isinstance(value, float) or (value and isinstance(value, list | tuple))
        assert found[key] == (pytest.approx(value, rel=1e-9) if numbers else value), key


@pytest.mark.parametrize(
    ('ours', 'published'),
    [
        ('atss_r50', 'atss/atss_r50_fpn_1x_coco'),
        ('cascade_rcnn_r50', 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco'),
        ('faster_rcnn_r50', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco'),
        ('fcos_r50', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco'),
        ('mask_rcnn_r50', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco'),
        ('retinanet_r50', 'retinanet/retinanet_r50_fpn_1x_coco'),
        ('rtmdet_tiny', 'rtmdet/rtmdet_tiny_8xb32-300e_coco'),
    ],
)
def test_ours_at_full_scale_is_the_published_recipe_scaled_to_two_images(ours, published):
    ours = load_config(f'configs/coco/{ours}_gn_b2.py')
    assert_same_recipe(ours, built(f'mmdet::{published}.py', batch=2))


def test_our_convnext_is_a_recipe_for_batch_size_16_scaled_to_two_images():
    name = 'configs/coco/retinanet_timm_convnext_tiny_b2.py'
    ours, recipe = load_config(name), load_config(name)
    recipe.optim_wrapper.optimizer = dict(type='AdamW', lr=0.0001, weight_decay=0.05)
    recipe.auto_scale_lr.base_batch_size = 16
    recipe.param_scheduler[0].end = 500
    set_lr(recipe, 'auto')
    assert_same_recipe(ours, recipe)


def assert_same_recipe(*configs):
    parts = 'optim_wrapper', 'param_scheduler', 'custom_hooks', 'train_cfg'
    recipes = [Config({part: cfg[part] for part in parts}) for cfg in configs]
    for recipe in recipes:
        for part in typed_dicts(recipe._cfg_dict):
            part.pop('_scope_', None)
    assert_equal(*recipes)


def test_without_a_batch_nothing_changes():
    before, after = load_config(RTMDET), built(RTMDET)
    own = 'custom_imports', 'custom_hooks', 'default_hooks.checkpoint.backend_args', 'launcher'
    own += 'train_dataloader.persistent_workers', 'visualizer', 'work_dir', 'train_cfg.type'
    assert [key for key in changed(before, after) if not key.startswith(own)] == []


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_batch_size_that_a_config_is_for_changes_nothing_else(name):
    before, after = load_config(name), load_config(name)
    set_batch(after, base_batch_size(before))
    set_lr(after, 'auto')
    found = changed(before, after).keys() - {'train_dataloader.batch_size'}
    assert all(key.startswith('auto_scale_lr.') for key in found)


@pytest.mark.parametrize('name', [RTMDET, FASTER_RCNN])
def test_a_number_and_linear_change_the_learning_rate_alone(name):
    before, base = load_config(name), base_batch_size(load_config(name))
    own = {'train_dataloader.batch_size', f'{OPTIMIZER}.lr'}
    own |= {f'auto_scale_lr.{key}' for key in ('base_batch_size', 'enable', 'scaled')}
    for lr, wanted in (('0.1', 0.1), ('linear', before.optim_wrapper.optimizer.lr * 2 / base)):
        after = load_config(name)
        set_batch(after, 2)
        set_lr(after, lr)
        assert after.optim_wrapper.optimizer.lr == pytest.approx(wanted)
        assert changed(before, after).keys() <= own
        assert base_batch_size(after) == 2
    assert built(name, batch=2, lr='0.1').optim_wrapper.optimizer == dict(
        before.optim_wrapper.optimizer, lr=0.1
    )


@pytest.mark.parametrize('lr', ['0', '-1', 'nan', 'inf', 'sqrt'])
def test_what_is_no_learning_rate(lr):
    with pytest.raises(UserError, match=f'--lr {lr}: give a positive number, "auto" or "linear"'):
        set_lr(load_config(FASTER_RCNN), lr)


@pytest.mark.parametrize(
    ('name', 'batch'),
    [
        ('glip_atss_swin-l_fpn_dyhead_16xb2_ms-2x_funtune_coco.py', 32),
        ('rtmdet_x_p6_4xb8-300e_coco.py', 32),
        ('8xb2.py', 16),
        ('mask-rcnn_x101-64x4d_fpn_1x_coco.py', 6),
        ('retinanet_gn_b2.py', 6),
        ('faster_rcnn_r50_fpn_8x4_sample1e-3_mstrain_v3det_2x.py', 6),
        ('my_flex8b2.py', 6),
    ],
)
def test_names_that_name_a_batch_size(name, batch, tmp_path):
    (tmp_path / name).write_text('auto_scale_lr = dict(base_batch_size=6)')
    assert base_batch_size(Config.fromfile(tmp_path / name)) == batch


def test_generator_and_discriminator_each_by_its_optimizer():
    cfg = load_config('configs/dcgan_gn_b2.py')
    cfg.optim_wrapper.discriminator.optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
    schedulers = dict(type='CosineAnnealingLR', eta_min=1.0, T_max=10, by_epoch=False)
    cfg.param_scheduler = dict(generator=dict(schedulers), discriminator=[dict(schedulers)])
    cfg.auto_scale_lr = dict(base_batch_size=16)
    set_batch(cfg, 4)
    set_lr(cfg, 'auto')
    players = cfg.optim_wrapper
    assert players.generator.optimizer.lr == pytest.approx(1e-3 / 2)
    assert players.generator.optimizer.betas == (0.0, pytest.approx(0.99**0.25))
    assert players.discriminator.optimizer == dict(
        type='SGD', lr=pytest.approx(0.025), momentum=0.9
    )
    ends = cfg.param_scheduler.generator, cfg.param_scheduler.discriminator[0]
    assert [end.eta_min for end in ends] == [pytest.approx(0.5), pytest.approx(0.25)]
    assert [end.T_max for end in ends] == [40, 40]


def test_a_resumed_run_counts_its_images_when_it_counts_iterations():
    name = 'mmdet::retinanet/retinanet_r50_fpn_90k_coco.py'
    old = built(name, batch=2)
    meta = dict(epoch=0, iter=200_000, devices=1, cfg=old.pretty_text)
    checkpoint = dict(optimizer={}, meta=meta)
    assert steps_done(meta, built(name, batch=2)) == 200_000
    assert steps_done(meta, built(name, batch=16)) == 25_000  # of 90,000
    check_resumable('iter_200000.pth', checkpoint, built(name, batch=16))
    meta['iter'] = 800_000
    with pytest.raises(UserError, match='max_iters=90000, and 100000 are done already'):
        check_resumable('iter_800000.pth', checkpoint, built(name, batch=16))


def test_a_run_that_is_resumed_with_another_batch_takes_its_moments_from_the_config():
    meta = dict(epoch=1, iter=10, cfg=built(RTMDET, batch=2).pretty_text)
    changes = {c.path: c.new for c in rescheduled(meta, built(RTMDET, batch=4))}
    assert changes[f'{OPTIMIZER}.betas.1'] == pytest.approx(0.999984367304480)
    assert changes['param_scheduler.0.end'] == 64_000


@pytest.mark.parametrize(('epochs', 'warns'), [(12, False), (1, True)])
def test_a_warm_up_that_outlasts_the_training_is_said(epochs, warns):
    cfg = load_config(FASTER_RCNN)
    cfg.train_cfg.max_epochs = epochs
    with mock.patch('sbzoo.engine.options.schedule.print_log') as log:
        warn_if_warm_up_outlasts(cfg, 100)
    assert log.called == warns
    if warns:
        assert 'takes 500 steps (param_scheduler.0) and the training 100' in log.call_args.args[0]
