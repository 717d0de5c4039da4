"""Bad input to GAN training: one clear message before the first step, or at the first sign."""

import types

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.structures import BaseDataElement
from PIL import Image
from test_faults import train  # noqa: F401 (a fixture)

from sbzoo.engine.hooks import samples as samples_hook
from sbzoo.engine.options.config import load_config
from sbzoo.engine.sampling import load_generator
from sbzoo.engine.visualize import draw_samples
from sbzoo.errors import UserError

CONFIG = 'configs/dcgan_in_b2.py'


def image(path, size: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), size, np.uint8)).save(path)


def folder(root, name: str):
    """Folders that something is wrong with, by what it is."""
    root = root / name
    root.mkdir()
    if name in ('single', 'corrupt'):
        image(root / '0.png')
    if name == 'corrupt':
        (root / '1.png').write_bytes((root / '0.png').read_bytes()[:60])
    if name in ('testA', 'testB'):
        for inner in ('trainA', 'trainB', 'testA', 'testB'):
            for i in range(2 - (inner == name)):
                image(root / inner / f'{i}.png')
    if name == 'unpaired':
        image(root / 'A/0.png')
        image(root / 'B/1.png')
    return root


@pytest.mark.parametrize(
    ('config', 'data', 'message'),
    [
        (CONFIG, 'empty', 'no images'),
        (CONFIG, 'single', 'one image; a distribution takes two or more'),
        (CONFIG, 'corrupt', '1 of 2 images cannot be read'),
        ('configs/sngan_gn_b2.py', 'single', 'in no sub-folder'),
        ('configs/cyclegan_in_b1.py', 'single', 'trainA: no such folder'),
        ('configs/cyclegan_in_b1.py', 'testA', '1 generated image(s), and a distance takes two'),
        ('configs/cyclegan_in_b1.py', 'testB', 'testB) image(s), and a distance takes two'),
        ('configs/pix2pix_ln_b1.py', 'unpaired', 'without a partner'),
    ],
)
def test_folders(train, tmp_path, config, data, message):  # noqa: F811
    root = folder(tmp_path, data)
    status, errors = train(config, '--data', root, '--work-dir', tmp_path / 'run')
    assert status == 1
    assert errors.startswith('error: ')
    assert message in errors
    assert 'Traceback' not in errors


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.loss=wgan', "unknown loss 'wgan'; known are non-saturating, hinge"),
        ('model.augment=mirror', "unknown augmentation 'mirror'"),
        ('model.generator.norm=gm', "unknown norm 'gm'"),
        ('model.gp_weight=10', "unexpected keyword argument 'gp_weight'"),
        (
            'default_hooks.checkpoint.save_best=fid',
            "save_best='fid': the evaluation gives FD-digits",
        ),
        ('optim_wrapper.generator=None', 'the model has the networks generator, discriminator'),
    ],
)
def test_options(train, tmp_path, digits, option, message):  # noqa: F811
    status, errors = train(CONFIG, '--work-dir', tmp_path, '--cfg-options', option)
    assert status == 1
    assert message in errors
    assert not list(tmp_path.glob('*.pth'))


def test_the_metric_of_the_best_detector_is_checked_too(train, tmp_path, digits):  # noqa: F811
    option = 'default_hooks.checkpoint.save_best=coco/bbox_map'
    config = 'configs/retinanet_gn_b2.py'
    status, errors = train(config, '--work-dir', tmp_path, '--cfg-options', option)
    assert status == 1
    assert 'the evaluation gives coco/bbox_mAP, coco/bbox_mAP_50' in errors


def test_a_checkpoint_of_another_generator_is_refused(tmp_path):
    from mmengine.registry import MODELS

    model = MODELS.build(load_config('configs/dcgan_in_b2.py').model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'epoch_1.pth')
    load_generator(load_config('configs/dcgan_gn_b2.py'), tmp_path)  # same keys, whatever the norm
    with pytest.raises(UserError, match='of another model'):
        load_generator(load_config('configs/sngan_gn_b2.py'), tmp_path)


def grey(value: int) -> torch.Tensor:
    return torch.full((3, 8, 8), value, dtype=torch.uint8)


@pytest.mark.parametrize(('count', 'shown'), [(1, 1), (2, 1), (3, 1), (4, 2)])
def test_few_translations_are_drawn_too(count, shown):
    samples = [BaseDataElement(source_img=grey(i), fake_img=grey(100 + i)) for i in range(count)]
    found = set(np.unique(draw_samples(samples))) - {255}
    assert found == {*range(shown), *range(100, 100 + shown)}


def images_of(spread: int) -> list[torch.Tensor]:
    """Images whose pixels have this standard deviation."""
    return [grey(128 + sign * spread) for sign in (-1, 1, -1, 1)]


ROUNDED = [grey(100), grey(100), grey(100), grey(101)]  # of floats that hardly differ


@pytest.mark.parametrize(
    ('untrained', 'evaluated', 'real', 'stops'),
    [
        (0, [0, 0], 60, None),  # hardly trained
        (None, [0, None, 0], 60, None),
        (None, [20, 90, 1], 60, 3),
        (60, [60, 0], 60, 2),
        (60, [0], 60, 1),
        (60, [60, 2], 60, None),  # alike, but 3% of the widest
        (60, [60, 0], 0, None),  # as the data are
    ],
)
def test_a_collapsed_run_stops(tmp_path, monkeypatch, untrained, evaluated, real, stops):
    shown = []
    monkeypatch.setattr(samples_hook, 'first_samples', lambda *_: shown)
    hub = MessageHub('this')
    runner = types.SimpleNamespace(
        model=torch.nn.Identity(),
        work_dir=str(tmp_path),
        message_hub=hub,
        train_dataloader=types.SimpleNamespace(dataset=[dict(inputs=i) for i in images_of(real)]),
        val_dataloader=types.SimpleNamespace(dataset=None),
        visualizer=types.SimpleNamespace(add_image=lambda *_, **__: None),
    )
    stopped = None
    for epoch, spread in enumerate([untrained, *evaluated]):
        images = ROUNDED if spread is None else images_of(spread)
        shown[:] = [BaseDataElement(fake_img=image) for image in images]
        runner.epoch = runner.iter = epoch
        hook = samples_hook.SamplesHook()
        hook.before_train(runner)  # as of a run that is resumed in every epoch
        if epoch:
            try:
                hook.after_val_epoch(runner)
            except UserError as error:
                stopped, message = epoch, str(error)
                break
        runner.message_hub = MessageHub(f'resumed {epoch}')
        runner.message_hub.load_state_dict(hub.state_dict())
        hub = runner.message_hub
    assert stopped == stops
    if stops:
        assert f'epoch {stops}: the generator has collapsed, its 4 samples differ by' in message
        assert (tmp_path / f'samples/epoch_{stops}.png').exists()
