"""Tools as a user runs them: in processes of their own, on a small part of the embedded set."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]
SMALL = [
    'train_dataloader.dataset.indices=12',
    'val_dataloader.dataset.indices=4',
    'test_dataloader.dataset.indices=4',
    'default_hooks.logger.interval=1',
]
HOST_TRAIN = Path(__import__('mmdet').__file__).parent / '.mim/tools/train.py'


def command(tool: str, *args: str) -> list[str]:
    return [sys.executable, f'tools/{tool}.py', *map(str, args)]


def run(arguments: list[str], cwd: Path = ROOT, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments, cwd=cwd, env=environment(), capture_output=True, text=True, **kwargs
    )


def environment() -> dict[str, str]:
    return os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))


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
    done = run(
        [
            *command(
                'train', 'configs/retinanet_hybrid_b2.py', '--epochs', 2, '--work-dir', work_dir
            ),
            '--cfg-options',
            *SMALL,
        ]
    )
    assert done.returncode == 0, done.stderr
    return work_dir, done.stdout


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
    done = run(command('test', config, work_dir))
    assert done.returncode == 0, done.stderr
    assert (config.read_text(), result.read_text()) == before
    first, second = (json.loads(p.read_text()) for p in (result, work_dir / 'test/result.json'))
    assert first['metrics'] == second['metrics']
    assert f'picture: {work_dir}/test/detections.png' in done.stdout


def test_one_seed_gives_the_same_losses_and_the_host_gives_them_too(trained, tmp_path):
    """MMDetection's own tools/train.py runs the config that our run left behind."""
    work_dir, _ = trained
    config = work_dir / 'retinanet_hybrid_b2.py'
    done = run([sys.executable, str(HOST_TRAIN), str(config), '--work-dir', str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert len(losses(work_dir)) == 12
    assert losses(tmp_path) == losses(work_dir)


def test_killed_and_resumed_ends_where_the_unbroken_run_ends(trained, tmp_path):
    work_dir, _ = trained
    arguments = command('train', work_dir / 'retinanet_hybrid_b2.py', '--work-dir', tmp_path)
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 120
    while not (tmp_path / 'epoch_1.pth').exists() and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'result.json').exists()

    done = run([*arguments, '--resume'])
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path) == losses(work_dir)
    states = [torch.load(d / 'epoch_2.pth', weights_only=False) for d in (work_dir, tmp_path)]
    for key, value in states[0]['state_dict'].items():
        assert torch.equal(value, states[1]['state_dict'][key]), key


def test_a_scheduler_that_ends_a_training_is_told_how_to_go_on(digits, tmp_path):
    """It sends SIGTERM to all processes of a job; the data workers end too."""
    arguments = command('train', 'configs/retinanet_gn_b2.py', '--work-dir', tmp_path)
    arguments += '--cfg-options', 'train_dataloader.num_workers=2'
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
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
    done = run(
        [
            *command('train', f'mmdet::{name}_fpn_1x_coco.py', '--norm', 'gn', '--scratch'),
            *('--data', str(digits), '--batch', '2', '--epochs', '1', '--work-dir', str(tmp_path)),
            *('--cfg-options', 'default_hooks.logger.interval=1', *small),
        ]
        + [f'{split}_dataloader.dataset.indices={8 if split == "train" else 2}' for split in SCALES]
        + [f'{split}_dataloader.num_workers=0' for split in SCALES]
        + [f'{split}_dataloader.persistent_workers=False' for split in SCALES]
    )
    assert done.returncode == 0, done.stderr
    assert 'norm gn: ResNet' in done.stdout
    assert 'lr auto: 0.02 for batch size 16, so 0.0025' in done.stdout
    assert len(losses(tmp_path)) == 4
    metrics = json.loads((tmp_path / 'result.json').read_text())['metrics']
    assert ('coco/segm_mAP' in metrics) == name.startswith('mask')


SCALES = dict(train=2, val=1, test=1)  # where the pipelines of each split resize
