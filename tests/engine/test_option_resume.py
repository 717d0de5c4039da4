"""Options of a resumed run that its checkpoint's state would override are applied or refused."""

from copy import deepcopy
from functools import cache, partial

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapperDict
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from sbzoo.engine.hooks import resume as hook
from sbzoo.engine.options.config import load_config, set_load_from, set_scratch, set_seed
from sbzoo.engine.options.memory import set_lean
from sbzoo.engine.options.norm import set_norm
from sbzoo.engine.options.resume import check_resumable, recorded
from sbzoo.engine.options.scaling import set_lr
from sbzoo.engine.options.schedule import set_batch, set_epochs
from sbzoo.errors import UserError

IMAGES = 6
WARM_UP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)
COSINE = dict(type='CosineAnnealingLR', by_epoch=True, T_max=2, end=2, convert_to_iter_based=True)
STEPS = dict(type='MultiStepLR', milestones=[1, 2], gamma=0.5)
MOMENTUM = dict(type='LinearMomentum', start_factor=0.5, end=3)


@pytest.fixture(autouse=True)
def types():
    """A model, a data set and a hook for as long as a test lasts."""
    kinds = [(MODELS, Line), (MODELS, Players), (DATASETS, Ones), (HOOKS, Rates)]
    for registry, kind in kinds:
        registry.register_module(module=kind, force=True)
    yield
    for registry, kind in kinds:
        del registry.module_dict[kind.__name__]


class Ones(Dataset):
    metainfo: dict = {}  # noqa: RUF012

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> dict:
        return dict(x=torch.tensor(1.0 + index))


class Line(BaseModel):
    """w x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, x, mode='loss'):
        return dict(loss=(self.w * x + self.b).square().mean())


class Players(BaseModel):
    """Two networks with an optimizer each."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = Line(), Line()

    def train_step(self, data, optim_wrapper: OptimWrapperDict):
        for name, wrapper in optim_wrapper.items():
            wrapper.update_params(getattr(self, name)(**data)['loss'])
        return {}

    def networks(self) -> dict[str, nn.Module]:
        return dict(generator=self.generator, discriminator=self.discriminator)

    def forward(self, x):
        raise NotImplementedError


class Rates(hook.Hook):
    """Remembers the options of all optimizers at each step of a training."""

    def before_train_iter(self, runner: Runner, **_: object) -> None:
        wrapper = runner.optim_wrapper
        each = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        rows = ((g['lr'], g['momentum'], g['weight_decay']) for w in each for g in w.param_groups)
        runner.rates = [*getattr(runner, 'rates', []), list(rows)]


def config(
    epochs: int, *schedule: dict, model: str = 'Line', batch: int = 2, **optimizer
) -> Config:
    schedule = deepcopy(list(schedule))
    for each in schedule:
        if each['type'].startswith('Cosine'):
            each.update(end=epochs, T_max=epochs)
    wrapper = dict(optimizer=dict(type='SGD', momentum=0.9) | dict(lr=1e-3) | optimizer)
    if 'paramwise_cfg' in optimizer:
        wrapper['paramwise_cfg'] = wrapper['optimizer'].pop('paramwise_cfg')
    if model == 'Players':
        networks = dict(generator=wrapper, discriminator=deepcopy(wrapper))
        wrapper = dict(constructor='PlayersOptimWrapperConstructor', **networks)
    loader = dict(
        dataset=dict(type='Ones'), batch_size=batch, num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'),
    )  # fmt: skip
    return Config(
        dict(
            model=dict(type=model),
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=wrapper,
            param_scheduler=schedule or None,
            custom_hooks=[dict(type='ExactResumeHook'), dict(type='Rates')],
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            randomness=dict(seed=0),
            default_scope='mmengine',
            log_level='ERROR',
        )
    )


def train(work_dir, cfg: Config, resume=None) -> Runner:
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{work_dir}{resume}'.replace('/', '_')
    cfg.load_from, cfg.resume = resume and str(resume), bool(resume)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


SCHEDULES = {
    'cosine': [WARM_UP, COSINE],
    'steps': [WARM_UP, STEPS],
    'momentum': [STEPS, MOMENTUM],
    'none': [],
}


@pytest.mark.parametrize(
    ('old', 'new'),
    [('cosine', 'cosine'), ('cosine', 'momentum'), ('none', 'steps'), ('steps', 'none')],
)
@pytest.mark.parametrize('model', ['Line', 'Players'])
def test_the_schedule_is_that_of_a_run_that_had_it_from_its_start(tmp_path, old, new, model):
    options = dict(lr=2e-3, weight_decay=0.1, paramwise_cfg=dict(bias_lr_mult=3.0))
    wanted = config(4, *SCHEDULES[new], model=model, **options)
    whole = train(tmp_path / 'whole', deepcopy(wanted))
    groups = dict(paramwise_cfg=dict(bias_lr_mult=2.0))
    train(tmp_path / 'run', config(2, *SCHEDULES[old], model=model, **groups))
    resumed = train(tmp_path / 'run', wanted, tmp_path / 'run/epoch_2.pth')
    steps = 2 * IMAGES // 2
    assert resumed.rates == whole.rates[steps:]
    assert resumed.iter == whole.iter == 2 * steps
    assert resumed.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()


def test_weights_and_moments_go_on(tmp_path):
    """By torch's own SGD, from what the checkpoint holds, with the new learning rate."""
    train(tmp_path, config(1, STEPS))
    resumed = train(tmp_path, config(2, lr=5e-3), tmp_path / 'epoch_1.pth')
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    model = Line()
    model.load_state_dict(saved['state_dict'])
    optimizer = torch.optim.SGD(model.parameters(), lr=5e-3, momentum=0.9)
    states = saved['optimizer']['state'].values()
    for parameter, state in zip(model.parameters(), states, strict=True):
        optimizer.state[parameter]['momentum_buffer'] = state['momentum_buffer'].clone()
    for x in torch.arange(1.0, IMAGES + 1).split(2):
        optimizer.zero_grad()
        model(x)['loss'].backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)


def test_steps_are_counted_by_the_new_length_of_an_epoch(tmp_path):
    whole = train(tmp_path / 'whole', config(4, WARM_UP, COSINE, batch=3))
    train(tmp_path / 'run', config(2, WARM_UP, COSINE, batch=2))
    wanted = config(4, WARM_UP, COSINE, batch=3)
    resumed = train(tmp_path / 'run', wanted, tmp_path / 'run/epoch_2.pth')
    assert resumed.rates == whole.rates[2 * IMAGES // 3 :]
    assert resumed.iter == 4 * IMAGES // 3
    changes = resumed.message_hub.get_info('changes')
    assert changes[0] == 'epoch 2: an epoch has 2 steps now, so step 6 is counted as 4'
    assert 'epoch 2: train_cfg.max_epochs 2 -> 4' in changes
    again = train(tmp_path / 'run', deepcopy(wanted), tmp_path / 'run/epoch_3.pth')
    assert again.message_hub.get_info('changes') == changes


def test_a_run_that_counts_iterations(tmp_path):
    def counted(cfg: Config, steps: int) -> Config:
        cfg.train_cfg = dict(by_epoch=False, max_iters=steps)
        cfg.default_hooks.checkpoint.by_epoch = False
        cfg.train_dataloader.sampler.type = 'InfiniteSampler'
        return cfg

    wanted = counted(config(1, WARM_UP, lr=3e-3), 6)
    whole = train(tmp_path / 'whole', deepcopy(wanted))
    train(tmp_path / 'run', counted(config(1, WARM_UP), 3))
    resumed = train(tmp_path / 'run', wanted, tmp_path / 'run/iter_3.pth')
    assert resumed.rates == whole.rates[3:]


def test_nothing_is_touched_where_nothing_differs(tmp_path, monkeypatch):
    monkeypatch.setattr(hook, 'reschedule', None)
    whole = train(tmp_path / 'whole', config(3, WARM_UP, COSINE))
    resumed = train(tmp_path / 'run', config(3, WARM_UP, COSINE), tmp_path / 'whole/epoch_1.pth')
    assert resumed.rates == whole.rates[IMAGES // 2 :]
    assert not resumed.message_hub.get_info('changes')


def test_another_number_of_devices_is_said(tmp_path):
    train(tmp_path, config(1))
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    checkpoint['meta']['devices'] = 2
    torch.save(checkpoint, tmp_path / 'epoch_1.pth')
    resumed = train(tmp_path, config(1), tmp_path / 'epoch_1.pth')
    assert resumed.message_hub.get_info('changes') == ['epoch 1: devices 2 -> 1']


def test_groups_of_the_optimizer_stay(tmp_path):
    train(tmp_path, config(1))
    other = config(2, paramwise_cfg=dict(bias_lr_mult=2.0))
    with pytest.raises(UserError, match='cannot change how the optimizer groups parameters'):
        train(tmp_path, other, tmp_path / 'epoch_1.pth')


@cache
def text_of(name: str) -> str:
    return load_config(f'configs/{name}.py').pretty_text


def checkpoint_of(name: str, **meta) -> dict:
    return dict(optimizer={}, meta=dict(epoch=2, iter=2000, seed=0, cfg=text_of(name)) | meta)


def with_classes(*names: str):
    def change(cfg: Config) -> None:
        cfg.train_dataloader.dataset.metainfo = dict(classes=names)

    return change


def with_value(key: str, value: object):
    return lambda cfg: cfg.merge_from_dict({key: value})


DIGITS = [str(digit) for digit in range(10)]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (partial(set_norm, spec='ln'), "the norm 'gn8' -> 'ln'"),
        (partial(set_seed, seed=7), 'the seed 0 -> 7'),
        (with_classes('bolt', 'nut'), r"the classes \['0', .* -> \['bolt', 'nut'\]"),
        (partial(set_epochs, epochs=1), 'max_epochs=1, and 2 are done already'),
        (partial(set_load_from, path='a.pth'), "load_from None -> 'a.pth'"),
        (with_value('model.bbox_head.stacked_convs', 3), r'model.bbox_head.stacked_convs 2 -> 3'),
        (with_value('optim_wrapper.optimizer.type', 'Adam'), "optimizer.type 'SGD' -> 'Adam'"),
        (with_value('model.backbone.depth', 50), 'model.backbone.depth 18 -> 50'),
        (with_value('train_cfg.type', 'IterBasedTrainLoop'), 'train_cfg.type'),
        (with_value('param_scheduler.1.type', 'ReduceOnPlateauLR'), 'param_scheduler.1.type'),
    ],
)
def test_what_would_be_another_run_is_refused(change, message):
    cfg = load_config('configs/retinanet_gn_b2.py')
    change(cfg)
    with pytest.raises(UserError, match=message) as refused:
        check_resumable('epoch_2.pth', checkpoint_of('retinanet_gn_b2'), cfg)
    assert str(refused.value).startswith('epoch_2.pth: ')
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize(
    'change',
    [
        lambda cfg: None,
        set_scratch,
        set_lean,
        partial(set_epochs, epochs=2),
        partial(set_batch, batch=8),
        partial(set_lr, lr='0.1'),
        with_value('train_cfg.type', 'EpochBasedTrainLoop'),  # of an earlier version
        with_classes(*DIGITS),
        with_value('model.test_cfg.max_per_img', 10),
        with_value('optim_wrapper.optimizer.weight_decay', 0.1),
        with_value('train_dataloader.dataset.indices', 12),
        with_value('work_dir', 'elsewhere'),
    ],
)
def test_what_a_run_can_go_on_with(change):
    cfg = load_config('configs/retinanet_gn_b2.py')
    change(cfg)
    check_resumable('epoch_2.pth', checkpoint_of('retinanet_gn_b2'), cfg)


def test_seeds_that_nobody_has_given():
    cfg, checkpoint = load_config('configs/retinanet_gn_b2.py'), checkpoint_of('retinanet_gn_b2')
    cfg.randomness.seed = None
    check_resumable('epoch_2.pth', checkpoint, cfg)
    checkpoint['meta']['seed'] = None
    check_resumable('epoch_2.pth', checkpoint, load_config('configs/retinanet_gn_b2.py'))


@pytest.mark.parametrize('missing', ['optimizer', 'epoch', 'iter'])
def test_checkpoints_that_hold_no_state_of_a_training(missing):
    checkpoint = checkpoint_of('retinanet_gn_b2')
    for part in (checkpoint, checkpoint['meta']):
        part.pop(missing, None)
    with pytest.raises(UserError, match=r'no state of an optimizer .* --load-from starts a run'):
        check_resumable('best.pth', checkpoint, load_config('configs/retinanet_gn_b2.py'))


NAMES = 'retinanet_hybrid_b2', 'sngan_gn_b2', 'cyclegan_in_b1', 'coco/rtmdet_tiny_gn_b2'


@pytest.mark.parametrize('name', NAMES)
def test_the_config_is_read_from_its_text(name):
    cfg = load_config(f'configs/{name}.py')
    assert recorded(dict(cfg=text_of(name))) == cfg.to_dict()


def test_values_that_are_no_literals():
    values = dict(a=float('inf'), b=-float('inf'), c=nn.Module, d={'x.y': dict(z=())}, e={}, f=int)
    found = recorded(dict(cfg=Config(dict(values)).pretty_text))
    kinds = dict(c='torch.nn.modules.module.Module', f='int')
    assert found == values | kinds


@pytest.mark.parametrize(
    'text',
    ['__import__("os").system("touch ran")', 'a = print("ran")', 'a = (', 'a, b = 1, 2', '\0', ''],
)
def test_text_that_is_no_config_is_not_run(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert not recorded(dict(cfg=text))
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out
