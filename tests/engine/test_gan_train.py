"""GANs as a user trains and samples them: in processes of their own, on a little data."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import ROOT, command, environment, run

SMALL = [
    'train_dataloader.dataset.indices=12',
    'val_dataloader.dataset.num=20',
    'test_dataloader.dataset.num=20',
    'default_hooks.logger.interval=1',
    'train_cfg.val_interval=1',
]
CONFIG = 'configs/dcgan_in_b2.py'


def losses(work_dir) -> list[dict]:
    """The losses of a run by step; of a step that was done twice, the later."""
    steps = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for record in map(json.loads, file.read_text().splitlines()):
            if 'loss_d' in record:
                steps[record['step']] = {k: v for k, v in record.items() if k.startswith('loss')}
    return [steps[step] for step in sorted(steps)]


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    """A finished run of two epochs, and what it printed."""
    work_dir = tmp_path_factory.mktemp('gan')
    options = '--epochs', 2, '--work-dir', work_dir, '--cfg-options', *SMALL
    done = run(command('train', CONFIG, *options))
    assert done.returncode == 0, done.stderr
    return work_dir, done.stdout


def test_prints_distance_samples_and_next_command(trained):
    work_dir, printed = trained
    assert 'FD-digits' in printed
    assert f'picture: {work_dir}/samples.png' in printed
    assert f'next:    python tools/generate.py {work_dir}/dcgan_in_b2.py {work_dir}' in printed
    assert (work_dir / 'samples' / 'epoch_2.png').exists()
    assert (work_dir / 'curves.png').exists()
    result = json.loads((work_dir / 'result.json').read_text())
    assert result['metrics']['FD-digits'] > 0
    assert (result['lr'], result['images_a_step']) == ([2e-4, 2e-4], 2)


def test_killed_and_resumed_goes_on_exactly(trained, tmp_path):
    work_dir, _ = trained
    arguments = command('train', work_dir / 'dcgan_in_b2.py', '--work-dir', tmp_path)
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
    assert len(losses(work_dir)) == 12
    assert losses(tmp_path) == losses(work_dir)
    unbroken, resumed = (
        torch.load(d / 'epoch_2.pth', weights_only=False) for d in (work_dir, tmp_path)
    )
    for key, value in unbroken['state_dict'].items():  # the average's too
        assert torch.equal(value, resumed['state_dict'][key]), key
    for player in ('generator', 'discriminator'):
        states = [c['optimizer'][player]['state'] for c in (unbroken, resumed)]
        for one, other in zip(*(s.values() for s in states), strict=True):
            assert torch.equal(one['exp_avg_sq'], other['exp_avg_sq'])


def test_generate_draws_what_training_drew(trained, tmp_path):
    work_dir, _ = trained
    model = work_dir / 'dcgan_in_b2.py', work_dir
    done = run(command('generate', *model, '--num', 20, '--out', tmp_path / 'grid.png'))
    assert done.returncode == 0, done.stderr
    drawn, grid = (
        np.array(Image.open(p)) for p in (work_dir / 'samples.png', tmp_path / 'grid.png')
    )
    assert np.array_equal(drawn, grid)


def test_generate_writes_the_same_images_to_every_kind_of_file(trained, tmp_path):
    work_dir, _ = trained
    model = work_dir / 'dcgan_in_b2.py', work_dir
    for out in ('folder', 'pixels.npz'):
        done = run(command('generate', *model, '--num', 3, '--seed', 7, '--out', tmp_path / out))
        assert done.returncode == 0, done.stderr
    (pixels,) = np.load(tmp_path / 'pixels.npz').values()
    assert pixels.shape == (3, 32, 32, 3)
    for index, image in enumerate(pixels):
        assert np.array_equal(image, np.array(Image.open(tmp_path / f'folder/{index:06d}.png')))
    done = run(command('generate', *model, '--out', tmp_path / 'folder'))
    assert done.returncode == 1
    assert 'exists already' in done.stderr
