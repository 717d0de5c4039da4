"""Activation memory, peak and time of a training step of RetinaNet R50-FPN on a CPU."""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmarks import output
from benchmarks.clocks import Cost, cost
from sbzoo import records
from sbzoo.engine.options.config import load_config, set_scratch, use_sbzoo
from sbzoo.engine.options.memory import set_lean
from sbzoo.engine.options.norm import set_norm
from sbzoo.norm.recompute import make_lean
from sbzoo.report.measurements import memory
from sbzoo.tools.cli import positive_int

SEED = 0
CONFIG = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

Change = Callable[[Config], None]


def _with_cp(cfg: Config) -> None:
    cfg.model.backbone.with_cp = True


def _norm(cfg: Config) -> None:
    set_norm(cfg, 'gn')


ROWS: dict[str, tuple[Change, ...]] = {
    'MMDetection': (),
    'MMDetection, with_cp': (_with_cp,),
    'sbzoo': (_norm,),
    'sbzoo --lean': (_norm, set_lean),
    'sbzoo --lean, with_cp': (_norm, set_lean, _with_cp),
}


class Allocated(TorchDispatchMode):
    """Within, remembers every storage that an operation makes, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    def alive(self, *apart: Tensor) -> int:
        """Bytes that are still held, those of some tensors apart."""
        others = {tensor.untyped_storage()._cdata for tensor in apart}
        held = (k for k, (ref, _) in self.storages.items() if not ref.expired())
        return sum(self.storages[k][1] for k in held if k not in others)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How large and how often."""
    add = parser.add_argument
    add('--size', nargs=2, type=positive_int, default=(800, 1344), metavar=('H', 'W'))
    add('--rounds', type=positive_int, default=3, help='each model takes one step in each')
    output.add_out(parser, 'memory.jsonl')


def run(args: argparse.Namespace) -> None:
    """Compare activation memory and gradients, then time the models turn by turn."""
    models, batch = _models(), _batch(*args.size)
    reference = next(iter(models.values()))
    figures = {}
    for name, model in models.items():
        _copy_weights(reference, model)
        kept = kept_bytes(model, batch)
        figures[name] = dict(
            activations_bytes=kept, gradient_difference=_difference(reference, model)
        )
    rounds = [{name: step(m, batch) for name, m in models.items()} for _ in range(args.rounds)]
    for name in models:
        figures[name] |= median_costs(name, rounds)
    protocol = dict(
        model='RetinaNet R50-FPN',
        norm='GN(32)',
        dtype='float32',
        image=f'{args.size[0]} x {args.size[1]}',
        rounds=args.rounds,
        seed=SEED,
    )
    found = [
        records.measurement(dict(model=name), figures[name], protocol, ('mmdet',))
        for name in models
    ]
    records.record(args.out, found)
    output.show(args.out, memory(dict(memory=found)))


def _models() -> dict[str, nn.Module]:
    prepare()
    return {name: build(config(changes)) for name, changes in ROWS.items()}


def prepare() -> None:
    """Let models be built, of the same random weights and without a word."""
    register_all_modules()
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    torch.manual_seed(SEED)


def median_costs(name: str, rounds: list[dict[str, Cost]]) -> dict[str, float]:
    """Those of a model; its time is to the first model's within each round."""
    first = next(iter(rounds[0]))
    return dict(
        peak_bytes=statistics.median(costs[name].peak for costs in rounds),
        seconds=statistics.median(costs[name].seconds for costs in rounds),
        relative_seconds=statistics.median(
            costs[name].seconds / costs[first].seconds for costs in rounds
        ),
    )


def config(changes: Iterable[Change], name: str = CONFIG) -> Config:
    """MMDetection's, group norm in its backbone and nothing frozen, with some changes."""
    cfg = load_config(name)
    use_sbzoo(cfg)
    set_scratch(cfg)
    cfg.model.backbone.update(norm_cfg=dict(type='GN', num_groups=32), zero_init_residual=False)
    for change in changes:
        change(cfg)
    return cfg


def build(cfg: Config) -> nn.Module:
    """The model of a config, with random weights; a lean one if the config says so."""
    model = MODELS.build(cfg.model)
    model.init_weights()
    lean = any(hook.type == 'LeanHook' for hook in cfg.custom_hooks)
    return make_lean(model) if lean else model


def _batch(height: int, width: int, boxes: int = 10) -> tuple[Tensor, list[DetDataSample]]:
    """One image of noise, with boxes of all sizes."""
    corners = torch.rand(boxes, 2, 2).sort(dim=1).values * torch.tensor([width, height])
    truth = InstanceData(bboxes=corners.flatten(1), labels=torch.arange(boxes))
    size = dict(
        img_shape=(height, width), batch_input_shape=(height, width), pad_shape=(height, width)
    )
    return torch.randn(1, 3, height, width), [DetDataSample(metainfo=size, gt_instances=truth)]


def _copy_weights(source: nn.Module, target: nn.Module) -> None:
    """By position, as the norms of two models may have different names."""
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        ours.data.copy_(theirs.data)


def _loss(model: nn.Module, batch: tuple[Tensor, list[DetDataSample]]) -> Tensor:
    return model.parse_losses(model(*batch, mode='loss'))[0]


def kept_bytes(model: nn.Module, batch: tuple[Tensor, list[DetDataSample]]) -> int:
    """Bytes that a forward allocates and backward finds, and the gradients as a by-product.

    That is all that is alive between the two: what autograd saves, and what checkpoints hold.
    """
    with Allocated() as allocated:
        loss = _loss(model, batch)
    kept = allocated.alive(*model.parameters(), *model.buffers(), batch[0])
    loss.backward()
    return kept


def _difference(reference: nn.Module, model: nn.Module) -> float:
    """The largest relative difference of a parameter's gradient, in the Euclidean norm."""
    pairs = zip(reference.parameters(), model.parameters(), strict=True)
    return max(((p.grad - q.grad).norm() / p.grad.norm()).item() for p, q in pairs)


def step(model: nn.Module, batch: tuple[Tensor, list[DetDataSample]]) -> Cost:
    """Forward and backward."""
    model.zero_grad()
    found = cost(lambda: _loss(model, batch).backward())
    model.zero_grad()
    return found
