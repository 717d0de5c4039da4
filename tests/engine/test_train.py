"""Tools as a user runs them, on a small part of the embedded set."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forks import ROOT, Ended, fork, script, tool
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMALL = [
    'train_dataloader.dataset.indices=12',
    'val_dataloader.dataset.indices=4',
    'test_dataloader.dataset.indices=4',
    'default_hooks.logger.interval=1',
]
HOST_TRAIN = Path(__import__('mmdet').__file__).parent / '.mim/tools/train.py'


def start(name: str, *arguments: object, **kwargs) -> subprocess.Popen:
    """A tool to be killed: in a process that has imported nothing of ours."""
    command = [sys.executable, f'tools/{name}.py', *map(str, arguments)]
    environment = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    return subprocess.Popen(command, cwd=ROOT, env=environment, **kwargs)


def train_and_kill(config: Path, work_dir: Path) -> None:
    """After an epoch."""
    quiet = dict.fromkeys(('stdout', 'stderr'), subprocess.DEVNULL)
    process = start('train', config, '--work-dir', work_dir, **quiet)
    deadline = time.time() + 120
    while not (work_dir / 'epoch_1.pth').exists() and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (work_dir / 'epoch_1.pth').exists()
    assert not (work_dir / 'result.json').exists()


def succeeded(ended: Ended) -> str:
    """What was printed."""
    assert ended.status == 0, ended.errors
    return ended.printed


def losses(work_dir: Path) -> list[float]:
    """All losses of the runs in a work directory, by step; a step done twice counts once."""
    steps = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            if 'loss' in record:
                steps[record['step']] = record['loss']
    return [steps[s] for s in sorted(steps)]


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    """A finished run of two epochs, and what it printed."""
    work_dir = tmp_path_factory.mktemp('trained') / "it's [bold]a run :art:"
    options = '--epochs', 2, '--work-dir', work_dir, '--cfg-options', *SMALL
    return work_dir, succeeded(tool('train', 'configs/retinanet_hybrid_b2.py', *options))


def test_prints_table_picture_and_next_command(trained):
    work_dir, printed = trained
    assert 'mAP_50' in printed
    assert f'picture: {work_dir}/detections.png' in printed
    assert (work_dir / 'detections.png').stat().st_size > 10_000
    *_, following = printed.splitlines()
    config = f'{work_dir}/retinanet_hybrid_b2.py'
    assert shlex.split(following) == ['next:', 'python', 'tools/test.py', config, str(work_dir)]
    assert 'eta:' in printed


def test_tensorboard_has_losses_ap_and_alphas(trained):
    work_dir, printed = trained
    (file,) = work_dir.glob('*/vis_data/events.*')
    names = set(EventAccumulator(str(file)).Reload().Tags()['scalars'])
    assert names >= {'loss', 'coco/bbox_mAP', 'alpha_max', 'alpha/backbone.bn1'}
    assert f'curves:  {work_dir}/curves.png' in printed
    assert (work_dir / 'curves.png').exists()


def test_result_carries_its_protocol(trained):
    result = json.loads((trained[0] / 'result.json').read_text())
    assert (result['seed'], result['epochs'], result['images_a_step']) == (0, 2, 2)
    assert result['data'] == dict(name='DigitScenes', images=4)
    assert result['trained_on'] == 'digits'
    assert set(result['metrics']) >= {'coco/bbox_mAP', 'coco/bbox_mAP_50'}
    assert result['noise_scale'] is None  # not asked for
    assert len(result['alphas']) == 20 + 6 + 12  # backbone, neck, head


def test_test_gives_the_same_ap_and_writes_over_nothing(trained):
    work_dir, _ = trained
    config, result = work_dir / 'retinanet_hybrid_b2.py', work_dir / 'result.json'
    before = config.read_text(), result.read_text()
    printed = succeeded(tool('test', config, work_dir))
    assert (config.read_text(), result.read_text()) == before
    first, second = (json.loads(p.read_text()) for p in (result, work_dir / 'test/result.json'))
    assert first['metrics'] == second['metrics']
    assert f'picture: {work_dir}/test/detections.png' in printed


def test_one_seed_gives_the_same_losses_and_the_host_gives_them_too(trained, tmp_path):
    """MMDetection's own tools/train.py runs the config that our run left behind."""
    work_dir, _ = trained
    config = work_dir / 'retinanet_hybrid_b2.py'
    (host,) = fork(script(HOST_TRAIN, config, '--work-dir', tmp_path))
    succeeded(host)
    assert len(losses(work_dir)) == 12
    assert losses(tmp_path) == losses(work_dir)


def test_killed_and_resumed_ends_where_the_unbroken_run_ends(trained, tmp_path):
    work_dir, _ = trained
    config = work_dir / 'retinanet_hybrid_b2.py'
    train_and_kill(config, tmp_path)
    succeeded(tool('train', config, '--work-dir', tmp_path, '--resume'))
    assert losses(tmp_path) == losses(work_dir)
    states = [torch.load(d / 'epoch_2.pth', weights_only=False) for d in (work_dir, tmp_path)]
    for key, value in states[0]['state_dict'].items():
        assert torch.equal(value, states[1]['state_dict'][key]), key


def test_a_scheduler_that_ends_a_training_is_told_how_to_go_on(digits, tmp_path):
    """It sends SIGTERM to all processes of a job; the data workers end too."""
    workers = '--cfg-options', 'train_dataloader.num_workers=2'
    pipes = dict.fromkeys(('stdout', 'stderr'), subprocess.PIPE)
    process = start(
        *('train', 'configs/retinanet_gn_b2.py', '--work-dir', tmp_path, *workers),
        **(pipes | dict(text=True, start_new_session=True)),
    )
    for line in process.stdout:
        if 'Epoch(train)' in line:
            break
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert errors.splitlines()[-1].startswith('stopped; the same command with --resume')
    assert 'Traceback' not in errors


@pytest.mark.parametrize('name', ['faster_rcnn/faster-rcnn_r50', 'mask_rcnn/mask-rcnn_r50'])
def test_trains_mmdetection_configs_with_another_norm(digits, tmp_path, name):
    small = [f'{s}_dataloader.dataset.pipeline.{i}.scale=(96,96)' for s, i in SCALES.items()]
    small += [f'{s}_dataloader.dataset.indices={8 if s == "train" else 2}' for s in SCALES]
    small += [f'{s}_dataloader.{key}' for s in SCALES for key in IN_PROCESS]
    printed = succeeded(
        tool(
            *('train', f'mmdet::{name}_fpn_1x_coco.py', '--norm', 'gn', '--scratch'),
            *('--data', digits, '--batch', 2, '--epochs', 1, '--work-dir', tmp_path),
            *('--cfg-options', 'default_hooks.logger.interval=1', FEW_RECTANGLES, *small),
        )
    )
    assert 'norm gn: ResNet' in printed
    assert re.search(r'optimizer.lr +0.02 +0.0025 ', printed)
    assert len(losses(tmp_path)) == 4
    metrics = json.loads((tmp_path / 'result.json').read_text())['metrics']
    assert ('coco/segm_mAP' in metrics) == name.startswith('mask')


IN_PROCESS = 'num_workers=0', 'persistent_workers=False'
FEW_RECTANGLES = 'model.train_cfg.rcnn.sampler.num=8'
SCALES = dict(train=2, val=1, test=1)  # where the pipelines of each split resize
