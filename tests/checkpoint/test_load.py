"""Whatever reads weights reads them safely, and says what does not fit."""

import zipfile
from contextlib import contextmanager
from unittest import mock

import fuzz
import numpy as np
import pytest
import torch
from mmdet.apis import init_detector
from mmdet.models.backbones import PyramidVisionTransformer, SwinTransformer
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.fileio.backends import LocalBackend, registry_utils
from mmengine.infer import BaseInferencer
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule, BaseTTAModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn
from torch.utils.data import Dataset

import sbzoo.registry  # noqa: F401
from sbzoo import UserError
from sbzoo.checkpoint import cards, mmengine_loaders, resolve
from sbzoo.checkpoint.cards import Card
from sbzoo.checkpoint.io import load
from sbzoo.zoo.page import page


class Toy(BaseModel):
    """A linear body, and a head of a number of classes."""

    def __init__(self, num_classes: int = 2, width: int = 2, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.body, self.head = nn.Linear(2, width), nn.Linear(width, num_classes)

    def forward(self, inputs, mode='tensor'):
        out = self.head(self.body(inputs))
        return dict(loss=out.mean()) if mode == 'loss' else list(out)


class Ones(Dataset):
    metainfo: dict = {}  # noqa: RUF012

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.ones(2))


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return {}


def config() -> Config:
    return Config(dict(model=dict(type='Toy')))


class Swin(SwinTransformer):
    """The smallest there is."""

    def __init__(self, checkpoint: str) -> None:
        init_cfg = ConfigDict(type='Pretrained', checkpoint=checkpoint)
        super().__init__(embed_dims=8, depths=(1,) * 4, num_heads=(1,) * 4, init_cfg=init_cfg)


@pytest.fixture(scope='module', autouse=True)
def registered():
    for registry, kind in ((MODELS, Toy), (DATASETS, Ones), (METRICS, Nothing)):
        registry.register_module(module=kind, force=True)
    yield
    for registry, kind in ((MODELS, Toy), (DATASETS, Ones), (METRICS, Nothing)):
        registry.module_dict.pop(kind.__name__)


def runner_of(folder, strict: bool = False, classes: int = 2, **kwargs) -> Runner:
    loader = dict(
        batch_size=1, dataset=dict(type='Ones'), sampler=dict(type='DefaultSampler'),
        collate_fn=dict(type='default_collate'),
    )  # fmt: skip
    cfg = dict(
        model=dict(type='Toy', num_classes=classes),
        work_dir=str(folder / 'run'),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        test_dataloader=loader,
        test_cfg={},
        test_evaluator=dict(type='Nothing'),
        custom_hooks=[dict(type='PretrainedHook', strict=strict)],
        default_scope='mmengine',
        experiment_name=f'{folder.name}{len(kwargs)}',
    )
    return Runner.from_cfg(Config({**cfg, **kwargs}))


@pytest.fixture
def attack(tmp_path):
    """A checkpoint that leaves a mark if its code is run."""
    weights = Toy().state_dict()
    torch.save(dict(state_dict=weights, x=fuzz.Attack(tmp_path / 'ran')), tmp_path / 'evil.pth')
    return tmp_path / 'evil.pth'


def store_of(file):
    """An object store that has this file under every name."""

    class Store(LocalBackend):
        @contextmanager
        def get_local_path(self, filepath: str):
            yield file

    return Store


class Inferencer(BaseInferencer):
    preprocess = visualize = postprocess = _init_pipeline = lambda *args, **kwargs: None

    def __init__(self, cfg, weights, device) -> None:
        self.model = self._init_model(cfg or {}, weights, device)

    def _load_weights_to_model(self, model, checkpoint, cfg) -> None:
        model.load_state_dict(checkpoint['state_dict'])


def put_card(folder, weights: str) -> None:
    (folder / 'evil').mkdir()
    card = Card('evil', 'object-detection', 'Evil.', 'digits', weights=weights)
    (folder / 'evil/README.md').write_text(page(card))


@pytest.mark.parametrize(
    'scheme', ['', 'card://', 'torchvision://', 'mmcls://', 's3://', 'aws:petrel://']
)
def test_code_in_weights_is_not_run(attack, tmp_path, monkeypatch, scheme):
    reference = f'{scheme}evil' if scheme else str(attack)
    monkeypatch.setattr(cards, 'CARDS', tmp_path)
    put_card(tmp_path, f'../{attack.name}')
    for known in ('torchvision', 'mmcls'):
        monkeypatch.setitem(resolve.TABLES, known, lambda: dict(evil=str(attack)))
    monkeypatch.setitem(registry_utils.backends, 'petrel', store_of(attack))
    pretrained = dict(type='Pretrained', checkpoint=reference)
    runs = (
        lambda: CheckpointLoader.load_checkpoint(reference),
        lambda: runner_of(tmp_path, load_from=reference).train(),
        lambda: runner_of(tmp_path, load_from=reference, resume=True).train(),
        lambda: runner_of(tmp_path, load_from=reference).test(),
        lambda: Toy(init_cfg=pretrained).init_weights(),
        lambda: Toy(init_cfg=pretrained | dict(prefix='head')).init_weights(),
        lambda: load_checkpoint(Toy(), reference),
        lambda: init_detector(config(), reference, device='cpu', cfg_options=dict(a=1)),
        lambda: Swin(checkpoint=reference).init_weights(),
        lambda: Inferencer(config(), reference, 'cpu'),
        lambda: mmengine_checkpoint._safe_torch_load(str(attack), map_location='cpu'),
    )
    for run in runs:
        with pytest.raises(UserError, match='not a checkpoint of plain data'):
            run()
    assert not (tmp_path / 'ran').exists()
    torch.load(attack, weights_only=False)  # it would
    assert (tmp_path / 'ran').exists()


def test_every_scheme_of_mmengine_is_ours():
    ours = {mmengine_loaders.load_from_reference, mmengine_loaders.load_from_ceph}
    assert set(CheckpointLoader._schemes.values()) == ours
    with pytest.raises(UserError, match='pavi://a: give a path'):
        CheckpointLoader.load_checkpoint('pavi://a')


def config_that_runs(mark) -> str:
    return f"import os\nos.mknod({str(mark)!r})\nmodel = dict(type='Toy')\n"


def test_a_config_in_a_checkpoint_is_not_run_to_resume(tmp_path):
    runner_of(tmp_path).train()
    checkpoint = torch.load(tmp_path / 'run/epoch_1.pth', weights_only=False)
    checkpoint['meta']['config'] = config_that_runs(tmp_path / 'ran')
    torch.save(checkpoint, tmp_path / 'evil.pth')
    evil = str(tmp_path / 'evil.pth')
    runner_of(tmp_path, load_from=evil, resume=True, work_dir=str(tmp_path / 'next')).train()
    assert not (tmp_path / 'ran').exists()


def test_a_config_in_a_checkpoint_is_not_run_to_infer(tmp_path):
    meta = dict(cfg=config_that_runs(tmp_path / 'ran'))
    torch.save(dict(state_dict=Toy().state_dict(), meta=meta), tmp_path / 'evil.pth')
    with pytest.raises(UserError, match=r'evil.pth: give the config as `model`'):
        Inferencer(None, str(tmp_path / 'evil.pth'), 'cpu')
    assert not (tmp_path / 'ran').exists()
    Inferencer(config(), str(tmp_path / 'evil.pth'), 'cpu')


@pytest.fixture
def other(tmp_path):
    """A checkpoint of a model with three classes."""
    torch.save(dict(state_dict=Toy(num_classes=3).state_dict()), tmp_path / 'other.pth')
    return str(tmp_path / 'other.pth')


def test_a_config_starts_from_what_fits_and_the_rest_is_said(other, tmp_path, capsys):
    runner = runner_of(tmp_path, load_from=other)
    with mock.patch('torch.load', wraps=torch.load) as reads:
        runner.train()
    assert reads.call_count == 1
    said = capsys.readouterr().out.split('do not match exactly')[1].split('INFO')[0]
    assert 'head.weight' in said
    assert 'head.bias' in said
    assert 'body' not in said
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert 'size mismatch for head.weight' in log.read_text()


def test_what_an_option_names_may_be_of_other_classes(other, tmp_path, capsys):
    runner = runner_of(tmp_path, strict=True, load_from=other)
    runner.train()
    said = capsys.readouterr().out
    assert f'{other}: its classes are others in number; not loaded from it:' in said
    assert '  head.weight [3, 2] for [2, 2]\n  head.bias [3] for [2]\n' in said
    assert 'do not match exactly' not in said
    started = torch.load(other)['state_dict']['body.weight']
    assert (runner.model.body.weight - started).abs().max() < 0.2  # a step from there


def test_what_an_option_names_has_to_fit_in_all_else(tmp_path):
    path = str(tmp_path / 'wider.pth')
    torch.save(dict(state_dict=Toy(num_classes=3, width=4).state_dict()), path)
    with pytest.raises(
        UserError, match=r'wider.pth: the checkpoint is of another model\n.*3 of another shape'
    ):
        runner_of(tmp_path, strict=True, load_from=path).train()


def test_what_is_resumed_or_tested_has_to_fit(other, tmp_path):
    runner = runner_of(tmp_path, load_from=other, resume=True)
    with pytest.raises(UserError, match='the checkpoint is of another model'):
        runner.train()
    assert runner.iter == 0
    assert not list((tmp_path / 'run').glob('*.pth'))
    with pytest.raises(UserError, match='the checkpoint is of another model'):
        runner_of(tmp_path, load_from=other).test()


def test_a_checkpoint_is_tested_and_read_once(other, tmp_path):
    runner = runner_of(tmp_path, classes=3, load_from=other)
    with mock.patch('torch.load', wraps=torch.load) as reads:
        runner.test()
    assert reads.call_count == 1
    assert torch.equal(runner.model.head.bias, torch.load(other)['state_dict']['head.bias'])


def test_what_fits_nowhere_is_an_error(tmp_path):
    path = str(tmp_path / 'fits_nothing.pth')
    torch.save({'stem.weight': torch.ones(3)}, path)
    runs = (
        lambda: runner_of(tmp_path, load_from=path).train(),
        lambda: Toy(init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights(),
        lambda: Toy(
            init_cfg=dict(type='Pretrained', checkpoint=path, prefix='stem')
        ).init_weights(),
    )
    for run in runs:
        with pytest.raises(
            UserError, match=r'fits_nothing.pth: the checkpoint is of another model'
        ):
            run()


@pytest.mark.parametrize('ema', [False, True])
def test_mmengine_loads_nothing_in_silence(tmp_path, ema):
    path = str(tmp_path / 'fits_nothing.pth')
    torch.save({'backbone.stem.weight': torch.ones(3)}, path)
    hooks = [dict(type='EMAHook')] if ema else []
    runs = (
        lambda: load_checkpoint(Toy(), path),
        lambda: init_detector(config(), path, device='cpu', cfg_options=dict(a=1)),
        lambda: runner_of(tmp_path, load_from=path, custom_hooks=hooks).train(),
        lambda: Swin(checkpoint=path).init_weights(),
        lambda: PyramidVisionTransformer(
            embed_dims=8,
            num_layers=[1] * 4,
            init_cfg=ConfigDict(type='Pretrained', checkpoint=path),
        ).init_weights(),
    )
    for run in runs:
        with pytest.raises(
            UserError, match=r'fits_nothing.pth: the checkpoint is of another model'
        ):
            run()


def test_test_time_augmentation_wraps_a_model(tmp_path):
    path = str(tmp_path / 'toy.pth')
    weights = Toy().state_dict()
    torch.save(weights, path)
    wrapped = mock.Mock(spec=BaseTTAModel, module=Toy())
    load_checkpoint(wrapped, path)
    assert torch.equal(wrapped.module.head.bias, weights['head.bias'])


def test_pretrained_parts_load_as_by_mmengine(tmp_path):
    weights = {f'module.net.{k}': v for k, v in Toy(num_classes=3).state_dict().items()}
    torch.save(dict(model=weights), tmp_path / 'swin.pth')  # a key that its authors chose
    net = BaseModule()
    net.net = Toy()
    net.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'swin.pth'))
    net.init_weights()
    assert torch.equal(net.net.body.weight, weights['module.net.body.weight'])


def test_values_of_numpy_are_data(tmp_path):
    """As mmengine's log and best score, written by NumPy 2 or, under other names, by NumPy 1."""
    logs = dict(log_scalars={'loss': HistoryBuffer([0.5, 0.4], [1, 1])})
    best = dict(score=np.float32(0.5), found=np.bool_(True), epoch=np.int64(3))
    new, old = tmp_path / 'new.pth', tmp_path / 'old.pth'
    torch.save(dict(state_dict=dict(w=torch.zeros(2)), meta=best, message_hub=logs), new)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, 'w') as target:
        for item in source.infolist():
            content = source.read(item).replace(b'numpy._core.', b'numpy.core.')
            target.writestr(item.filename, content)
    for path in (new, old):
        checkpoint = load(path)
        assert checkpoint['meta'] == best
        assert checkpoint['message_hub']['log_scalars']['loss'].current() == 0.4
