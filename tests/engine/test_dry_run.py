"""Memory and time of a training, measured; `--dry-run` and `--batch auto` as users have them."""

import json
import os
import re
import signal
from collections import Counter
from functools import partial

import forks
import pytest
import torch
from forks import fork, script
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn

from sbzoo.__main__ import parser_of
from sbzoo.data.coco import read_folder
from sbzoo.data.largest_shape import ANY
from sbzoo.engine import child, peak_memory, training_cost
from sbzoo.engine.child import in_child
from sbzoo.engine.dry_run import dry_run, fit
from sbzoo.engine.options.config import load_config
from sbzoo.engine.options.data import set_coco
from sbzoo.engine.options.memory import set_lean
from sbzoo.engine.options.norm import set_norm
from sbzoo.engine.training_cost import (
    BOXES,
    Cost,
    Costs,
    Scene,
    measure,
    scene_of,
    shape_of,
    short_training,
)
from sbzoo.errors import UserError
from sbzoo.tools import train

GIB = 2**30
SIDE = 1700
TENSOR = 3 * SIDE**2 * 4  # bytes; so large that an allocator takes and returns it as it is


@MODELS.register_module()
class Sines(BaseModel):
    """Keeps the inputs of each of its products and sines, and nothing else, for the backward."""

    def __init__(self, layers):
        super().__init__()
        self.weight, self.layers = nn.Parameter(torch.ones(())), layers

    def forward(self, inputs, data_samples=None, mode='loss'):
        x = torch.stack(inputs).float()
        for _ in range(self.layers):
            x = torch.sin(x * self.weight)
        return dict(loss=x.mean())


def sines(layers, batch):
    dataset = dict(type='SyntheticImages', shape=(SIDE, SIDE), length=2 * batch, pairs=False)
    return Config(
        dict(
            model=dict(type='Sines', layers=layers),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            train_dataloader=dict(
                batch_size=batch,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dataset,
                collate_fn=dict(type='pseudo_collate'),
            ),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
            default_hooks=dict(logger=None, checkpoint=None),
            default_scope='mmengine',
            log_level='ERROR',
            work_dir='.',
        )
    )


def print_cost(folder, layers, batch, most):
    cfg = sines(layers, batch)
    cfg.work_dir = str(folder)
    print(measure(cfg, most))


def measured(folder, layers, batch=1, most=4 * GIB):
    (ended,) = fork(partial(print_cost, folder, layers, batch, most))
    assert not ended.status, ended.errors
    return eval(ended.printed)


def test_the_peak_is_that_of_the_activations(tmp_path):
    one, four = (measured(tmp_path, layers).peak for layers in (1, 4))
    assert four - one == pytest.approx(2 * (4 - 1) * TENSOR, rel=0.1)
    assert measured(tmp_path, 1, batch=2).peak == pytest.approx(2 * one, rel=0.1)


def test_what_does_not_fit_says_so(tmp_path):
    assert measured(tmp_path, 4, most=2 * 4 * TENSOR) is None  # and what the backward needs
    assert measured(tmp_path, 1, most=2 * 4 * TENSOR) is not None


def test_a_measurement_is_in_a_process_of_its_own(capfd, monkeypatch):
    cfg = load_config(GAN)
    costs = Costs(cfg, scene_of(cfg), peak_memory.free())
    assert costs[1].seconds > 0
    assert 0 < costs[1].peak < GIB
    assert capfd.readouterr() == ('', '')

    def killed(*_):
        raise ChildProcessError

    monkeypatch.setattr(training_cost, 'in_child', killed)
    assert costs[2] is None


@pytest.mark.parametrize(
    ('function', 'arguments', 'error'),
    [(os.abort, (), ChildProcessError), (int, ('x',), ValueError)],
)
def test_the_end_of_a_child(monkeypatch, function, arguments, error):
    monkeypatch.setattr(child, 'SPAWN', forks.FORK)  # which has imported everything
    with pytest.raises(error):
        in_child(function, *arguments)


GAN, RETINANET = 'configs/dcgan_gn_b2.py', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
SCENE = Scene(frozenset([(48, 64)]), boxes=3)


def test_pictures_have_what_a_detector_learns_from():
    cfg = load_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.model.roi_head.bbox_head.num_classes = 5
    data = DATASETS.build(short_training(cfg, SCENE, batch=2).train_dataloader.dataset)
    item, again = data[1], data[1]
    found = item['data_samples'].gt_instances
    assert (len(data), item['inputs'].shape) == (4, (3, 800, 1088))  # 48 x 64 at 800 x 1067
    assert item['inputs'].equal(again['inputs'])
    sides = found.bboxes[:, 2:] - found.bboxes[:, :2]
    assert found.bboxes.shape == (3, 4)
    assert sides.min() > 0
    assert (found.bboxes <= torch.tensor([1088, 800, 1088, 800])).all()
    assert found.labels.max() < 5
    areas = torch.from_numpy(found.masks.areas)
    assert torch.allclose(areas.float(), sides.prod(1), rtol=0.1)


@pytest.mark.parametrize('name', ['pix2pix_ln_b1', 'sngan_gn_b2', 'coco/rtmdet_tiny_gn_b2'])
def test_what_is_measured_trains_and_is_not_the_run_itself(name, monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, 'limit', lambda _: None)
    cfg = load_config(f'configs/{name}.py')
    set_norm(cfg, 'hybrid')
    if 'rtmdet' in name:
        cfg.train_dataloader.dataset.pipeline = []  # no mosaic: 64 x 64 pixels
    short = short_training(cfg, Scene(frozenset([(64, 64)]), 2), batch=2)
    short.work_dir = str(tmp_path)
    assert measure(short, GIB).seconds > 0
    assert not list(tmp_path.rglob('*.pth'))
    assert [h.type for h in short.custom_hooks] == (['EMAHook'] if 'rtmdet' in name else [])
    assert cfg.train_cfg.max_epochs > 2
    assert 'init_cfg' not in str(short.model)


def test_data_that_is_not_there_has_any_size(digits):
    cfg = load_config(RETINANET)
    assert scene_of(cfg) == Scene(frozenset([ANY]), BOXES)
    cfg.train_dataloader.dataset.pipeline = []
    with pytest.raises(UserError, match='the data that would tell it is not there; give --data'):
        shape_of(cfg, scene_of(cfg), 2)
    set_coco(cfg, read_folder(digits))
    annotations = json.loads((digits / 'annotations/train.json').read_text())['annotations']
    counts = Counter(annotation['image_id'] for annotation in annotations)
    assert scene_of(cfg) == Scene(frozenset([(96, 96)]), max(counts.values()))


def call(function, *arguments):
    return function(*arguments)


def press_ctrl_c(*_):
    os.kill(os.getpid(), signal.SIGINT)


def tool(measuring, *argv):
    """`tools/train.py` with its measurements in the process itself, or what comes instead."""
    training_cost.in_child = measuring
    script('tools/train.py', *argv)()


def test_a_dry_run_prints_a_table_and_the_next_command(digits, tmp_path):
    argv = 'configs/retinanet_gn_b2.py', '--batch', 3, '--work-dir', tmp_path / 'run', '--dry-run'
    (ended,) = fork(partial(tool, call, *argv))
    assert not ended.status, ended.errors
    rows = re.findall(r'^│ (\d) +│ (\S+) +│ (\S+) +│ (\S+) +│ (\S+) +│$', ended.printed, re.M)
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4]
    assert all(float(cell) > 0 for row in rows for cell in row[2::2])  # seconds
    assert '96 x 96 pixels' in ended.printed
    last = f'next:    python tools/train.py {" ".join(map(str, argv[:-1]))}\n'
    assert ended.printed.endswith(last)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('options', [['--dry-run'], ['--batch', 'auto']], ids=' '.join)
def test_what_is_stopped_while_it_measures_has_nothing_to_resume(digits, tmp_path, options):
    argv = 'configs/retinanet_gn_b2.py', '--work-dir', tmp_path / 'run', *options
    (ended,) = fork(partial(tool, press_ctrl_c, *argv))
    assert ended.status == 128 + signal.SIGINT
    assert ended.errors.splitlines()[-1] == 'stopped; nothing was written'
    assert not list(tmp_path.iterdir())


def fake(monkeypatch, free, peak):
    """A machine of `free` GB, and a training that takes peak(batch) GB, or None, at its peak."""
    measured = []

    def cost(self, batch):
        measured.append(batch)
        took = peak(batch)
        return None if took is None or took > free else Cost(int(took * 1e9), 1.0)

    monkeypatch.setattr(peak_memory, 'free', lambda: int(free * 1e9))
    monkeypatch.setattr(Costs, '_measured', cost)
    return measured


@pytest.mark.parametrize(
    ('name', 'free', 'pair'),
    [
        (RETINANET, 12, (4, 4)),  # 1 + 2 x 4 GB, of 10.8
        (RETINANET, 3.4, (1, 16)),
        (RETINANET, 100, (16, 1)),
        ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 200, (64, 4)),  # 256 by its name
        ('mmdet::cornernet/cornernet_hourglass104_10xb5-crop511-210e-mstest_coco.py', 30, (10, 5)),
        ('configs/gan/r3gan_ffhq64_b8.py', 40, (16, 16)),  # 8 images, 32 times
        ('configs/dcgan_gn_b2.py', 4, (1, 2)),
    ],
)
def test_the_largest_batch_that_fits_keeps_the_nominal_one(monkeypatch, name, free, pair):
    measured = fake(monkeypatch, free, lambda batch: 1 + 2 * batch)
    found = fit(load_config(name))
    assert (found.batch, found.accumulate) == pair
    assert len(measured) <= 3
    assert f'--batch {pair[0]} takes' in found.reason


def test_a_prediction_that_fails_is_measured_again(monkeypatch):
    measured = fake(monkeypatch, 20, lambda batch: 1 + batch if batch < 8 else None)
    assert fit(load_config(RETINANET)).batch == 4
    assert measured == [1, 2, 16, 8, 4]


def test_the_pictures_of_an_update_wait_in_memory(monkeypatch):
    fake(monkeypatch, 4.5, lambda batch: batch)  # of which 90% hold 4, but for the pictures
    found = fit(load_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'))
    assert found.batch == 2
    assert f'of {4.5 - 256 * 640 * 640 * 3 / 1e9:.2f} GB free' in found.reason


def test_not_even_one(monkeypatch):
    fake(monkeypatch, 2, lambda batch: 1 + batch)
    with pytest.raises(UserError, match=r'not even one picture fits into 1\.95 GB'):
        fit(load_config(RETINANET))


def test_batch_auto_is_a_batch_and_its_accumulation(monkeypatch, capsys):
    fake(monkeypatch, 12, lambda batch: 1 + 2 * batch)
    trained = []
    monkeypatch.setattr(
        'sbzoo.engine.train.train', lambda cfg, _: trained.append(cfg) or (None, {})
    )
    monkeypatch.setattr('sbzoo.engine.train.show', lambda *_: None)
    monkeypatch.setattr('sbzoo.engine.train.next_command', lambda _: '')
    train.main(parser_of('train').parse_args([RETINANET, '--batch', 'auto', '--scratch']))
    (cfg,) = trained
    assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.accumulative_counts) == (4, 4)
    assert cfg.optim_wrapper.optimizer.lr == load_config(RETINANET).optim_wrapper.optimizer.lr
    assert capsys.readouterr().out.startswith('batch auto: --batch 4 takes 9.00 of 11.95 GB free')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--dry-run', '--launcher', 'pytorch'], '--dry-run: measure on one device'),
        (['--batch', 'auto', '--launcher', 'slurm'], '--batch auto: measure on one device'),
        (['--batch', 'auto', '--accumulate', '2'], 'it chooses --accumulate'),
    ],
)
def test_options_that_contradict(options, message):
    with pytest.raises(UserError, match=message):
        train.main(parser_of('train').parse_args([RETINANET, *options]))


def test_a_lean_config_is_measured_once(monkeypatch):
    fake(monkeypatch, 5, lambda batch: batch)
    cfg = load_config('configs/retinanet_gn_b2.py')
    heading, table, fitting = dry_run(cfg, [1, 2, 8])
    assert heading.startswith('96 x 96 pixels, 7 boxes; 5.0 GB free')
    assert [len(table.columns), fitting] == [5, [1, 2]]
    assert list(table.columns[1].cells) == ['1', '2', 'does not fit']
    set_lean(cfg)
    assert len(dry_run(cfg, [1]).table.columns) == 3


def test_a_container_has_less_than_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, 'CGROUP', tmp_path)
    machine = peak_memory.free()
    (tmp_path / 'memory.stat').write_text('anon 3000\nfile 500000\n')
    (tmp_path / 'memory.max').write_text('max\n')
    assert peak_memory.free() == pytest.approx(machine, rel=0.5)
    (tmp_path / 'memory.max').write_text('10000\n')
    assert peak_memory.free() == 7000


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, 'STATUS', str(tmp_path / 'status'))
    with pytest.raises(UserError, match='measured on Linux alone'):
        peak_memory.peak()


@pytest.mark.parametrize('error', [MemoryError(), RuntimeError("[enforce fail] can't allocate")])
def test_errors_of_too_little_memory(error):
    assert peak_memory.is_too_large(error)
    assert not peak_memory.is_too_large(RuntimeError('shape mismatch'))
