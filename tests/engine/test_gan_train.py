"""GANs as a user trains and samples them, on a little data."""

import json

import numpy as np
import pytest
import torch
from forks import tool
from PIL import Image
from test_train import succeeded, train_and_kill

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
    return work_dir, succeeded(tool('train', CONFIG, *options))


def test_prints_distance_samples_and_next_command(trained):
    work_dir, printed = trained
    assert 'FD-digits' in printed
    assert f'picture: {work_dir}/samples.png' in printed
    assert f'next:    python tools/generate.py {work_dir}/dcgan_in_b2.py {work_dir}' in printed
    assert (work_dir / 'samples' / 'epoch_2.png').exists()
    assert (work_dir / 'curves.png').exists()
    result = json.loads((work_dir / 'result.json').read_text())
    assert result['metrics']['FD-digits'] > 0
    assert (result['lr'], result['images_a_step']) == ([1e-3, 1e-3], 2)


def test_killed_and_resumed_goes_on_exactly(trained, tmp_path):
    work_dir, _ = trained
    config = work_dir / 'dcgan_in_b2.py'
    train_and_kill(config, tmp_path)
    succeeded(tool('train', config, '--work-dir', tmp_path, '--resume'))
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
    succeeded(tool('generate', *model, '--num', 20, '--out', tmp_path / 'grid.png'))
    drawn, grid = (
        np.array(Image.open(p)) for p in (work_dir / 'samples.png', tmp_path / 'grid.png')
    )
    assert np.array_equal(drawn, grid)


def test_generate_writes_the_same_images_to_every_kind_of_file(trained, tmp_path):
    work_dir, _ = trained
    model = work_dir / 'dcgan_in_b2.py', work_dir
    for out in ('folder', 'pixels.npz'):
        succeeded(tool('generate', *model, '--num', 3, '--seed', 7, '--out', tmp_path / out))
    (pixels,) = np.load(tmp_path / 'pixels.npz').values()
    assert pixels.shape == (3, 32, 32, 3)
    for index, image in enumerate(pixels):
        assert np.array_equal(image, np.array(Image.open(tmp_path / f'folder/{index:06d}.png')))
    refused = tool('generate', *model, '--out', tmp_path / 'folder')
    assert refused.status == 1
    assert 'exists already' in refused.errors
