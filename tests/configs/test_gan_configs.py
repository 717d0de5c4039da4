"""Every config of a GAN is what its name says, builds, and takes a step."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, METRICS, MODELS, PARAM_SCHEDULERS
from PIL import Image
from torch import Tensor, nn

from sbzoo.engine.model import scope_of
from sbzoo.engine.options.config import load_config, set_noise_scale, use_sbzoo
from sbzoo.engine.options.data import set_data
from sbzoo.engine.options.norm import set_norm
from sbzoo.engine.options.parts import leaf
from sbzoo.engine.options.scaling import set_lr, total_batch_size
from sbzoo.engine.options.schedule import set_accumulate, set_batch
from sbzoo.errors import UserError
from sbzoo.norm import Norm
from sbzoo.norm.recompute import make_lean

PATHS = [
    path
    for path in sorted(Path('configs').glob('*.py'))
    if Config.fromfile(path).default_scope == 'mmengine'
]
FULL = sorted(Path('configs/gan').glob('*.py'))
# The DCGANs at batch 1 differ in that alone.
DISTINCT = [p for p in PATHS if not p.stem.startswith('dcgan') or p.stem.endswith('_b2')]
SPECS = ('bn', 'in', 'gn', 'ln', 'hybrid', 'none')


def specs(module: nn.Module) -> set[str]:
    norms = (m for m in module.modules() if isinstance(m, (Norm, nn.BatchNorm2d)))
    return {m.spec if isinstance(m, Norm) else 'bn' for m in norms}


def batch(cfg: Config, size: int) -> dict:
    images = [torch.randint(256, (3, size, size), dtype=torch.uint8) for _ in range(2)]
    if cfg.model.type != 'GAN':
        return dict(inputs=dict(source=images, target=images))
    samples = [type('Sample', (), dict(gt_label=label)) for label in range(2)]
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize('path', [*PATHS, *FULL], ids=lambda p: p.stem)
def test_every_config_is_what_its_name_says(path):
    cfg = load_config(str(path))
    norm, batch = (
        (path.stem.split('_')[-2:]) if path.stem.count('_') > 1 else (None, path.stem[-2:])
    )
    assert cfg.train_dataloader.batch_size == int(batch.removeprefix('b'))
    assert DATASETS.get(leaf(cfg.train_dataloader.dataset).type)
    assert METRICS.get(cfg.val_evaluator.type), cfg.val_evaluator.type
    for player in ('generator', 'discriminator'):
        kind = MODELS.get(cfg.model[player].type)
        assert kind, cfg.model[player].type
    if norm in SPECS:
        assert cfg.model.generator.get('norm', 'in') == norm
    if cfg.model.type == 'GAN':
        classes = cfg.model.generator.get('num_classes', 0)
        assert cfg.model.discriminator.get('num_classes', 0) == classes
        assert cfg.val_dataloader.dataset.get('num_classes', 0) == classes
        assert cfg.test_dataloader == cfg.val_dataloader


@pytest.mark.parametrize('path', FULL, ids=lambda p: p.stem)
def test_the_table_of_published_results_is_that_of_the_headers(path):
    header = ' '.join(re.findall(r'^# (.*)', path.read_text(), re.MULTILINE))
    published = re.findall(r'\d+\.\d\d(?![\d.])', header.split('ublished', 1)[1])
    (row,) = (
        r
        for r in (path.parent / 'README.md').read_text().splitlines()
        if path.stem in r and r[0] == '|'
    )
    assert published
    assert all(fid in row for fid in published)


@pytest.mark.parametrize('path', DISTINCT, ids=lambda p: p.stem)
def test_takes_a_step(path):
    cfg = load_config(str(path))
    model = MODELS.build(cfg.model)
    wrappers = build_optim_wrapper(model, cfg.optim_wrapper)
    size = 64 if cfg.model.type != 'GAN' else cfg.model.generator.image_size
    before = {k: v.clone() for k, v in model.named_parameters()}
    log = model.train_step(batch(cfg, size), wrappers)
    assert all(torch.isfinite(value) for value in log.values())
    still = [
        k for k, v in model.named_parameters() if v.requires_grad and torch.equal(v, before[k])
    ]
    assert len(still) < len(before) / 2  # layers behind zeros learn from the second step on
    spec = path.stem.split('_')[1]
    if spec in SPECS:
        assert specs(model.generator) == ({spec} - {'none'})


def test_the_learning_rate_of_cyclegan_is_its_authors():
    """Their rule: 1 - max(0, epoch - 100) / 101, of epochs from 1 to 200."""
    cfg = load_config('configs/gan/cyclegan_horse2zebra_in_b1.py')
    for player in ('generator', 'discriminator'):
        (rule,) = cfg.param_scheduler[player]
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = PARAM_SCHEDULERS.build(dict(rule, optimizer=optimizer))
        for epoch in range(1, cfg.train_cfg.max_epochs + 1):
            expected = 1 - max(0, epoch - 100) / 101
            assert optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=1e-6)
            optimizer.step()
            scheduler.step()


@pytest.mark.parametrize(
    ('name', 'images', 'batch', 'penalty', 'half_life', 'augmented', 'blocks'),
    [
        ('cifar10', 20e6, 512, 0.05, 5e6, 0.55, [(768, 96)] * 4),
        ('ffhq64', 20e6, 256, 2.0, 0.5e6, 0.3, [(768, 96)] * 4 + [(384, 48)]),
        ('imagenet32', 200e6, 4096, 0.5, 50e6, 0.5, [(1536, 96)] * 4),
        ('imagenet64', 200e6, 4096, 1.0, 50e6, 0.4, [(1536, 96)] * 5),
    ],
)
def test_the_presets_of_r3gans_authors(name, images, batch, penalty, half_life, augmented, blocks):
    """Of their train.py: cosines over all images, gamma to a tenth, learning rate to a fourth."""
    cfg = load_config(f'configs/gan/r3gan_{name}_b8.py')
    total = dict(cifar10=50_000, ffhq64=70_000).get(name, 1_281_167) * cfg.train_cfg.max_epochs
    assert total == pytest.approx(images, rel=2e-3)
    assert total_batch_size(cfg) == batch
    (hook,) = (hook for hook in cfg.custom_hooks if hook.type == 'CosineAnnealingHook')
    assert hook['values'] == {
        'beta2': (0.9, 0.99),
        'penalties.weight': (penalty, penalty / 10),
        'generator_ema.half_life': (0, half_life),
        'augment.probability': (0, augmented),
    }
    assert [p.weight for p in cfg.model.penalties] == [penalty, penalty]
    rate = cfg.param_scheduler
    assert (rate.T_max, rate.eta_min) == (cfg.train_cfg.max_epochs, 5e-5)
    for network in ('generator', 'discriminator'):
        assert cfg.optim_wrapper[network].optimizer.lr == 2e-4
        with torch.device('meta'):
            net = MODELS.build(cfg.model[network])
        found = [(b.conv1.in_channels, b.conv2.groups) for level in net.levels for b in level]
        expected = [block for block in blocks for _ in range(2)]
        assert found == (expected if network == 'generator' else expected[::-1])


def domains(root: Path, pixels: np.ndarray) -> None:
    for name in ('trainA', 'trainB', 'testA', 'testB'):
        (root / name).mkdir(parents=True)
        Image.fromarray(pixels).save(root / name / '1.png')


def halves(root: Path, pixels: np.ndarray) -> None:
    for name in ('train', 'val', 'test'):
        (root / name).mkdir(parents=True)
        Image.fromarray(np.hstack([pixels, pixels])).save(root / name / '1.png')


def window(image: Tensor) -> tuple[int, int, bool]:
    """Top, left, and whether it is flipped, of what shows its row and column in two channels."""
    (top, left), step = image[:2, 0, 0].tolist(), int(image[1, 0, 1]) - int(image[1, 0, 0])
    flipped = step % 256 == 255
    return top, (left - 255 * flipped) % 256, flipped


@pytest.mark.parametrize(
    ('config', 'folders', 'alike'),
    [('pix2pix_facades_in_b1', halves, True), ('cyclegan_horse2zebra_in_b1', domains, False)],
)
def test_translations_are_augmented_as_published(
    config: str, folders: Callable, alike: bool, tmp_path, monkeypatch
):
    """256 of 286 pixels at random and flips; of a pair, whose pictures are one here, both alike."""
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))
    rows, columns = np.indices((286, 286), dtype=np.uint8)
    folders(tmp_path / 'data', np.stack([rows, columns, rows], axis=2))
    cfg = load_config(f'configs/gan/{config}.py')
    set_data(cfg, str(tmp_path / 'data'))
    np.random.seed(0)
    with scope_of(cfg):
        trained, tested = (
            DATASETS.build(cfg[f'{name}_dataloader'].dataset) for name in ('train', 'val')
        )
    drawn = [trained[0]['inputs'] for _ in range(30)]
    sources, targets = ([window(pair[key]) for pair in drawn] for key in ('source', 'target'))
    assert all(image.shape == (3, 256, 256) for pair in drawn for image in pair.values())
    assert sum(a == b for a, b in zip(sources, targets, strict=True)) == (30 if alike else 0)
    tops, lefts, flips = map(set, zip(*sources, strict=True))
    assert flips == {False, True}
    for corners in (tops, lefts):
        assert max(corners) <= 30
        assert len(corners) > 10
    pairs = [tested[0]['inputs'] for _ in range(2)]
    assert pairs[0]['source'].shape == (3, 256, 256)
    assert all(torch.equal(pairs[0][key], pairs[1][key]) for key in ('source', 'target'))


def test_norm_turns_the_generator_and_leaves_what_is_without():
    cfg = load_config('configs/dcgan_bn_b2.py')
    set_norm(cfg, 'hybrid')
    model = MODELS.build(cfg.model)
    assert specs(model.generator) == specs(model.generator_ema) == {'hybrid'}
    assert specs(model.discriminator) == set()
    without = load_config('configs/dcgan_none_b2.py')
    set_norm(without, 'gn')
    with pytest.raises(UserError, match='no norm'):
        MODELS.build(without.model)


@pytest.mark.parametrize('batch', [1, 8, 64])
@pytest.mark.parametrize('norm', SPECS)
def test_the_option_batch_leaves_the_learning_rate(norm, batch):
    wanted, cfg = (load_config(f'configs/dcgan_{norm}_b2.py') for _ in range(2))
    set_batch(cfg, batch)
    set_lr(cfg, 'auto')
    for player in ('generator', 'discriminator'):
        assert cfg.optim_wrapper[player].optimizer.lr == 1e-3
    wanted.train_dataloader.batch_size = batch
    assert cfg.to_dict() == wanted.to_dict()
    if batch == 1:
        assert load_config(f'configs/dcgan_{norm}_b1.py').to_dict() == wanted.to_dict()


def test_options_reach_generator_and_discriminator():
    cfg = load_config('configs/dcgan_gn_b2.py')
    set_lr(cfg, '5e-4')
    set_accumulate(cfg, 4)
    for player in ('generator', 'discriminator'):
        assert cfg.optim_wrapper[player].optimizer.lr == 5e-4
        assert cfg.optim_wrapper[player].accumulative_counts == 4


def test_noise_scale_is_not_of_gans():
    cfg = load_config('configs/dcgan_gn_b2.py')
    with pytest.raises(UserError, match='a GAN has two, of generator and discriminator'):
        set_noise_scale(cfg, 100)


def test_a_lean_generator_takes_the_same_step():
    cfg = load_config('configs/sngan_hybrid_b2.py')
    states = []
    for lean in (False, True):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        if lean:
            make_lean(model.generator)
        model.train_step(batch(cfg, 32), build_optim_wrapper(model, cfg.optim_wrapper))
        states.append(model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, msg=key)


def test_own_configs_need_nothing_added():
    cfg = load_config('configs/dcgan_gn_b2.py')
    before = cfg.pretty_text
    use_sbzoo(cfg)
    assert cfg.pretty_text == before
