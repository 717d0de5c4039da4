"""The sections of the benchmark on a GPU, each of what this library does beside its peer."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from itertools import product
from typing import NamedTuple
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from benchmarks import fid, memory, norm, padding
from benchmarks.clocks import CPU, Call, Name, cost, kernels, milliseconds, wait, wall
from sbzoo import records
from sbzoo.data.synthetic import SyntheticScenes
from sbzoo.engine.options.memory import set_amp
from sbzoo.engine.options.norm import set_norm
from sbzoo.engine.options.parts import typed_dicts
from sbzoo.norm import Norm
from sbzoo.norm.kernels.dispatch import kernels_for
from sbzoo.norm.normalize import normalize
from sbzoo.records import Measurement

COMPILED = (
    *('BatchNorm2d', 'GroupNorm(32)', 'GroupNorm(32), ReLU', 'gn32', 'gn32 with ReLU'),
    *('ln', 'hybrid', 'hybrid with ReLU'),
)
BATCHES, CLASSES, BOXES = (1, 2), 80, 10


class Scale(NamedTuple):
    """How large everything is, and where.

    Attributes:
        device: Where it runs.
        shapes: Of the maps that norms are timed on; one is compiled and padded, the first.
        specs: The norms beside torch's.
        backend: Of torch.compile.
        image: Height and width of a detector's pictures.
        changes: Of a detector's config.
        files: Images that features are made of.
        rounds: That medians are of.
    """

    device: torch.device
    shapes: tuple[tuple[int, ...], ...]
    specs: tuple[str, ...]
    backend: str
    image: tuple[int, int]
    changes: tuple[memory.Change, ...]
    files: int
    rounds: int


def _small(cfg: Config) -> None:
    """With fewer layers, channels and regions."""
    for part in typed_dicts(cfg.model):
        wide = [key for key in part if key.endswith('_channels') and part[key] in (256, 1024)]
        part.update(dict.fromkeys(wide, 32))
    cfg.model.backbone.update(depth=18, base_channels=32)
    cfg.model.neck.in_channels = [32, 64, 128, 256]
    if 'rpn_proposal' in cfg.model.train_cfg:
        cfg.model.train_cfg.rpn_proposal.max_per_img = 8


FULL = Scale(
    device=torch.device('cuda'),
    shapes=norm.SHAPES,
    specs=norm.SPECS,
    backend='inductor',
    image=(800, 1344),
    changes=(),
    files=1000,
    rounds=15,
)
SMOKE = Scale(
    device=CPU,
    shapes=((2, 32, 6, 8),),
    specs=('gn32', 'ln', 'hybrid'),
    backend='aot_eager',  # which needs no compiler
    image=(64, 96),
    changes=(_small,),
    files=4,
    rounds=1,
)


class Failure(NamedTuple):
    """What has failed, and how."""

    what: str
    error: str
    trace: str


class Failures(list[Failure]):
    """Those of a section, which goes on without what has failed."""

    def add(self, what: str, error: Exception) -> None:
        """Put the error that is being handled down."""
        said = f'{type(error).__name__}: {error}'.partition('\n')[0]
        self.append(Failure(what, said, traceback.format_exc()))

    def running(self, calls: Mapping[Name, Call], where: str) -> dict[Name, Call]:
        """Make each call once, and return those that have not failed."""
        running = {}
        for name, call in calls.items():
            try:
                call()
                wait()  # so that an error of the GPU is of this call
            except Exception as error:
                self.add(f'{name}, {where}', error)
            else:
                running[name] = call
        return running


Section = Callable[[Scale, Failures], Iterator[Measurement]]


class ByMoments(nn.Module):
    """A norm by the kernels that other norms have, where it takes torch's."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        return normalize(x, norm.statistics, norm.eps, norm.weight, norm.bias, norm.relu)


def norms(scale: Scale, failures: Failures, dtype: torch.dtype) -> Iterator[Measurement]:
    """Every norm beside torch's own."""
    for shape, memory_format in product(scale.shapes, norm.FORMATS):
        layers = _layers(scale, shape)
        for name in ('gn32', 'gn32 with ReLU'):
            layers[f'{name}, by moments'] = ByMoments(layers[name])
        maps = norm.Maps(shape, memory_format, dtype, scale.device)
        yield from _times(layers, maps, scale, failures)


def compiled(scale: Scale, failures: Failures, dtype: torch.dtype) -> Iterator[Measurement]:
    """Some of them by torch.compile, beside themselves."""
    for memory_format in norm.FORMATS:
        layers = _layers(scale, scale.shapes[0])
        layers = {name: layers[name] for name in COMPILED}
        maps = norm.Maps(scale.shapes[0], memory_format, dtype, scale.device)
        with norm.compiled(layers, scale.backend) as made:
            both = layers | {f'{name}, compiled': layer for name, layer in made.items()}
            yield from _times(both, maps, scale, failures)


def _layers(scale: Scale, shape: tuple[int, ...]) -> dict[str, nn.Module]:
    return norm.peers(shape[1]) | norm.layers(shape[1], scale.specs)


def _times(
    layers: dict[str, nn.Module], maps: norm.Maps, scale: Scale, failures: Failures
) -> Iterator[Measurement]:
    clocks = dict(ms=wall) if maps.device == CPU else dict(ms=wall, kernels_ms=kernels)
    protocol = dict(
        dtype=str(maps.dtype).removeprefix('torch.'),
        kernels=_kernels(maps, failures),
        rounds=scale.rounds,
    )
    steps = failures.running(norm.steps(layers, maps), _place(maps))
    times = {key: milliseconds(steps, scale.rounds, clock) for key, clock in clocks.items()}
    for layer in steps:
        figures = {key: of_layers[layer] for key, of_layers in times.items()}
        yield records.measurement(dict(layer=layer, **maps.row), figures, protocol)


def _kernels(maps: norm.Maps, failures: Failures) -> str:
    """The name of the kernels that norms use; that Triton's are not right is a failure."""
    x = maps.random()
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'Norms use')
        failures.running({'self-test of the kernels': lambda: kernels_for(x)}, _place(maps))
    return kernels_for(x).__name__.rpartition('.')[2]


def _place(maps: norm.Maps) -> str:
    return f'{list(maps.shape)}, {maps.memory_format}'


def padded(scale: Scale, failures: Failures) -> Iterator[Measurement]:
    """Norms that leave a quarter of padding out, beside the same of full maps."""
    for memory_format in norm.FORMATS:
        maps = norm.Maps(scale.shapes[0], memory_format, device=scale.device)
        steps = failures.running(padding.padded_steps(maps), _place(maps))
        both = {key: step for key, step in steps.items() if (key[0], not key[1]) in steps}
        times = milliseconds(both, scale.rounds)
        yield from padding.measurements(maps, times, scale.rounds)


def _hybrid(cfg: Config) -> None:
    set_norm(cfg, 'hybrid')


def _lean_head(cfg: Config) -> None:
    cfg.model.bbox_head.type = 'LeanRetinaHead'


def _amp(cfg: Config) -> None:
    with _amp_anywhere():
        set_amp(cfg, True)


def _amp_anywhere() -> AbstractContextManager:
    """Mixed precision runs on a CPU too, where training refuses it."""
    return mock.patch.object(torch.cuda, 'is_available', return_value=True)


ARMS = memory.ROWS | {
    'sbzoo, hybrid': (_hybrid,),
    'MMDetection, amp': (_amp,),
    'sbzoo, amp': (*memory.ROWS['sbzoo'], _amp),
    'sbzoo --lean, amp': (*memory.ROWS['sbzoo --lean'], _amp),
    'sbzoo, hybrid, amp': (_hybrid, _amp),
}
PEER = next(iter(ARMS))
OF_RETINANET = ARMS | {'sbzoo, LeanRetinaHead': (*memory.ROWS['sbzoo'], _lean_head)}
MASK_RCNN = 'mmdet::gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py'


def detector(
    scale: Scale, failures: Failures, config: str, arms: dict[str, tuple[memory.Change, ...]]
) -> Iterator[Measurement]:
    """Training steps of a detector with group norm, from uint8 pictures to new weights.

    Raises:
        RuntimeError: MMDetection's own model does not run.
    """
    trainings = _trainings(scale, failures, config, arms)
    scenes = SyntheticScenes(scale.image, max(BATCHES), BOXES, CLASSES, masks=True)
    for batch in BATCHES:
        data = pseudo_collate([scenes[i] for i in range(batch)])
        steps = {name: partial(train, data) for name, train in trainings.items()}
        steps = failures.running(steps, f'batch {batch}')
        if PEER not in steps:
            raise RuntimeError(f'nothing to compare with at batch {batch}: {PEER} has failed')
        rounds = [
            {name: cost(step, scale.device) for name, step in steps.items()}
            for _ in range(scale.rounds)
        ]
        for name in steps:
            figures = memory.median_costs(name, rounds)
            figures |= dict(images_per_second=batch / figures['seconds'])
            row = dict(model=name, batch=batch)
            yield records.measurement(row, figures, _protocol(config, scale), ['mmdet'])


def _protocol(config: str, scale: Scale) -> dict[str, object]:
    image = f'{scale.image[0]} x {scale.image[1]}'
    return dict(config=config, norm='GN(32)', image=image, boxes=BOXES, rounds=scale.rounds)


def _trainings(
    scale: Scale, failures: Failures, config: str, arms: dict[str, tuple[memory.Change, ...]]
) -> dict[str, Callable[[dict], object]]:
    """A training step of each arm, on a batch."""
    trainings = {}

    def make(name: str) -> None:
        trainings[name] = _training(config, (*scale.changes, *arms[name]), scale.device)

    failures.running({name: partial(make, name) for name in arms}, 'built')
    return trainings


def _training(
    config: str, changes: Iterable[memory.Change], device: torch.device
) -> Callable[[dict], object]:
    """A training step, which leaves the weights as they are: the learning rate is 0."""
    memory.prepare()
    cfg = memory.config(changes, config)
    cfg.optim_wrapper.optimizer.lr = 0
    model = memory.build(cfg).to(device).train()
    with _amp_anywhere():
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    return partial(model.train_step, optim_wrapper=optim_wrapper)


def features(scale: Scale, failures: Failures) -> Iterator[Measurement]:
    """Inception features of image files, by pytorch-fid and by this library."""
    figures = fid.images_a_second(scale.files, scale.rounds, scale.device)
    row = dict(what='features, images per second')
    protocol = dict(dtype='float32', dimensions=fid.D, images=scale.files, rounds=scale.rounds)
    yield records.measurement(row, figures, protocol, ('pytorch-fid', 'torchvision'))


SECTIONS: dict[str, Section] = {
    'float32': partial(norms, dtype=torch.float32),
    'bfloat16': partial(norms, dtype=torch.bfloat16),
    'compiled-float32': partial(compiled, dtype=torch.float32),
    'compiled-bfloat16': partial(compiled, dtype=torch.bfloat16),
    'padding': padded,
    'retinanet': partial(detector, config=memory.CONFIG, arms=OF_RETINANET),
    'mask-rcnn': partial(detector, config=MASK_RCNN, arms=ARMS),
    'fid': features,
}
