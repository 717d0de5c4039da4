"""Values that follow a cosine: by hand, in images, and after a resume."""

from math import sqrt
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from sbzoo.engine.hooks.annealing import CosineAnnealingHook
from sbzoo.engine.options.config import load_config
from sbzoo.engine.options.schedule import set_accumulate, set_batch, set_epochs
from sbzoo.errors import UserError

IMAGES = 12


class Noise(Dataset):
    """Images of the first classes."""

    metainfo: dict = {}  # noqa: RUF012

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> dict:
        pixels = torch.randint(256, (3, 32, 32), generator=torch.Generator().manual_seed(index))
        return dict(inputs=pixels.byte(), data_samples=BaseDataElement(gt_label=index % 10))


class Seen(Hook):
    """What each update was made with."""

    values: list[dict]

    def before_train(self, runner: Runner) -> None:
        Seen.values = []

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        model, wrappers = runner.model, runner.optim_wrapper.values()
        groups = [group for w in wrappers for group in w.optimizer.param_groups]
        (beta2,) = {group['betas'][1] for group in groups}
        (gamma,) = {penalty.weight for penalty in model.penalties}
        half_life, p = model.generator_ema.half_life, model.augment.probability
        Seen.values.append(dict(beta2=beta2, gamma=gamma, half_life=half_life, p=p))


@pytest.fixture(autouse=True)
def _types():
    DATASETS.register_module(module=Noise, force=True)
    HOOKS.register_module(module=Seen, force=True)
    yield
    del DATASETS.module_dict['Noise'], HOOKS.module_dict['Seen']


def config(work_dir, epochs: int = 2) -> Config:
    """R3GAN as it is trained, of few channels."""
    cfg = load_config('configs/r3gan_b8.py')
    set_epochs(cfg, epochs)
    for network in (cfg.model.generator, cfg.model.discriminator):
        network.update(base_channels=8, max_channels=8)
    cfg.model.ema = dict(ramp_up=1.0)
    (annealing,) = (h for h in cfg.custom_hooks if h.type == 'CosineAnnealingHook')
    annealing['values']['generator_ema.half_life'] = (0, 8)
    cfg.custom_hooks = [dict(type='ExactResumeHook'), annealing, dict(type='Seen')]
    cfg.train_dataloader.dataset = dict(type='Noise')
    cfg.train_dataloader.collate_fn = dict(type='pseudo_collate')
    for name in ('val', 'test'):
        cfg.update({f'{name}_{part}': None for part in ('cfg', 'dataloader', 'evaluator')})
    cfg.visualizer.vis_backends = []
    cfg.update(work_dir=str(work_dir), log_level='ERROR')
    return cfg


def train(cfg: Config, resume: str | None = None) -> dict:
    """The checkpoint at the end of a training; the values of its updates are in `Seen`."""
    cfg.experiment_name = f'{cfg.work_dir}{resume}'.replace('/', '_')
    cfg.update(load_from=resume, resume=bool(resume))
    runner = Runner.from_cfg(cfg)
    runner.train()
    path = f'{cfg.work_dir}/epoch_{cfg.train_cfg.max_epochs}.pth'
    return torch.load(path, weights_only=False)


def fake_runner(model: object, iteration: int, kind: type = torch.optim.Adam) -> SimpleNamespace:
    wrappers = [OptimWrapper(kind([nn.Parameter(torch.ones(1))], lr=1.0)) for _ in range(2)]
    return SimpleNamespace(
        iter=iteration,
        max_iters=300,
        model=model,
        optim_wrapper=OptimWrapperDict(generator=wrappers[0], discriminator=wrappers[1]),
        message_hub=MessageHub.get_instance('annealing'),
    )


@pytest.mark.parametrize(
    ('iteration', 'beta2', 'weight'),
    [(0, 0.9, 2.0), (100, 0.9225, 1.55), (150, 0.945, 1.1), (300, 0.99, 0.2)],
)
def test_the_cosine_by_hand(iteration, beta2, weight):
    """At a third it has done a quarter of its way, as cos(pi / 3) = 1 / 2."""
    model = SimpleNamespace(penalties=[SimpleNamespace(weight=9.0) for _ in range(2)])
    runner = fake_runner(model, iteration)
    values = {'beta2': (0.9, 0.99), 'penalties.weight': (2.0, 0.2)}
    CosineAnnealingHook(values).before_train_iter(runner, 0)
    for wrapper in runner.optim_wrapper.values():
        assert wrapper.optimizer.param_groups[0]['betas'] == (0.9, pytest.approx(beta2))
    assert [p.weight for p in model.penalties] == pytest.approx([weight, weight])


@pytest.mark.parametrize(
    ('name', 'kind', 'message'),
    [
        ('beta2', torch.optim.SGD, "'beta2': SGD has no betas"),
        ('penalty.weight', torch.optim.Adam, "'penalty.weight': the model has no such attribute"),
        ('penalties.gamma', torch.optim.Adam, "'penalties.gamma': the model has no such"),
    ],
)
def test_what_is_not_there_is_refused(name, kind, message):
    model = SimpleNamespace(penalties=[SimpleNamespace(weight=9.0)])
    with pytest.raises(UserError, match=message):
        CosineAnnealingHook({name: (0, 1)}).before_train_iter(fake_runner(model, 0, kind), 0)


def test_a_resumed_training_goes_on_exactly(tmp_path):
    """Four updates, at 0, 1/4, 1/2 and 3/4 of the cosine; the learning rate is mmengine's."""
    unbroken = train(config(tmp_path / 'unbroken'))
    seen = Seen.values
    root = (1 - sqrt(0.5)) / 2
    for values, share in zip(seen, (0, root, 0.5, 1 - root), strict=True):
        assert values == pytest.approx(
            dict(
                beta2=0.9 + 0.09 * share,
                gamma=0.5 - 0.45 * share,
                half_life=8 * share,
                p=0.55 * share,
            )
        )
    resumed = train(config(tmp_path / 'resumed'), f'{tmp_path}/unbroken/epoch_1.pth')
    assert Seen.values == seen[2:]
    for key, value in unbroken['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
    for network in ('generator', 'discriminator'):
        one, other = (c['optimizer'][network]['param_groups'][0] for c in (unbroken, resumed))
        assert one['lr'] == other['lr'] == pytest.approx(2e-4 - 1.5e-4 * (1 - root))
        assert one['betas'] == other['betas']


@pytest.mark.parametrize(('batch', 'accumulate', 'updates'), [(2, 1, 12), (2, 3, 4), (6, 1, 4)])
def test_values_are_those_of_images(tmp_path, batch, accumulate, updates):
    """After half of the images each has done half of its way, and so has the learning rate."""
    cfg = config(tmp_path)
    set_batch(cfg, batch)
    set_accumulate(cfg, accumulate)
    rates = train(cfg)['message_hub']['log_scalars']['train/generator.lr']
    assert len(Seen.values) == updates
    half = Seen.values[updates // 2]
    assert half == pytest.approx(dict(beta2=0.945, gamma=0.275, half_life=4, p=0.275))
    assert rates.data[0][updates // 2] == pytest.approx(1.25e-4)
