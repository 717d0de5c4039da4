"""Every way by which mmengine brings a weights file to a model, through the one safe reader.

So `load_from`, `resume` and `init_cfg` of any config run no code of the file, and weights of which
nothing fits are an error.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

from mmdet.models.backbones import pvt
from mmdet.models.backbones.swin import SwinTransformer
from mmengine.config import Config
from mmengine.fileio import get_local_path
from mmengine.infer import BaseInferencer
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, PretrainedInit, is_model_wrapper, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from sbzoo.checkpoint.io import check_fit, load
from sbzoo.checkpoint.key_maps import Weights, below
from sbzoo.checkpoint.resolve import CARD, HUB, TABLES
from sbzoo.errors import UserError

OURS = ['', 'http://', 'https://', 'pavi://', CARD, HUB, *(f'{scheme}://' for scheme in TABLES)]
STORES = [r'(\S+\:)?s3://', r'(\S+\:)?petrel://']


class _Source:
    """Where the weights are from that were read last, for the message if they do not fit."""

    last = 'checkpoint'


@CheckpointLoader.register_scheme(OURS, force=True)
def load_from_reference(reference: str, map_location: str | None = None) -> dict:
    """What mmengine loads; it stays on the CPU."""
    checkpoint = load(reference)
    checkpoint['meta'].pop('config', None)  # mmengine would run it as Python to resume
    _Source.last = reference
    return checkpoint


@CheckpointLoader.register_scheme(STORES, force=True)
def load_from_ceph(reference: str, map_location: str | None = None) -> dict:
    """What mmengine's client of an object store brings."""
    with get_local_path(reference, backend_args=dict(backend='petrel')) as path:
        return load_from_reference(str(path))


def load_state_dict(
    module: nn.Module,
    state_dict: Weights,
    strict: bool = False,
    logger: logging.Logger | str | None = None,
) -> None:
    """mmengine's, with what does not fit in the log file too; it is an error if nothing does."""
    wrapped = isinstance(module, BaseTTAModel) or is_model_wrapper(module)
    model = module.module if wrapped else module
    weights = OrderedDict(check_fit(_Source.last, state_dict, model, strict=False))
    weights._metadata = getattr(state_dict, '_metadata', OrderedDict())
    _of_mmengine(model, weights, strict, logger or 'current')


def _load_into_swin(model: SwinTransformer, weights: Weights, *args: Any, **kwargs: Any) -> Any:
    """It takes what fits by torch's method, in silence."""
    weights = check_fit(_Source.last, weights, model, strict=False)
    return super(SwinTransformer, model).load_state_dict(weights, *args, **kwargs)


_of_mmengine = mmengine_checkpoint.load_state_dict
mmengine_checkpoint.load_state_dict = pvt.load_state_dict = load_state_dict
SwinTransformer.load_state_dict = _load_into_swin
# Its other loaders are not called any more; on the onedl line they fall back on unsafe unpickling.
mmengine_checkpoint._safe_torch_load = lambda file, *_, **__: load(file)


@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class Pretrained(PretrainedInit):
    """mmengine's `init_cfg=dict(type='Pretrained', ...)`, for which a wrong file is an error.

    Raises:
        UserError: Nothing in the file fits the module.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load what fits."""
        weights = CheckpointLoader.load_checkpoint(self.checkpoint, 'cpu')['state_dict']
        if self.prefix:
            weights = below(f'{self.prefix.rstrip(".")}.', weights)
        print_log(f'load {self.prefix or "model"} from: {self.checkpoint}', logger='current')
        load_state_dict(module, weights, logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def _init_model(
    self: BaseInferencer, cfg: Config, weights: str | None, device: str = 'cpu'
) -> nn.Module:
    if not cfg:
        raise UserError(f'{weights}: give the config as `model`; the one in it would run as Python')
    return _init_of_mmengine(self, cfg, weights, device)


_init_of_mmengine = BaseInferencer._init_model
BaseInferencer._init_model = _init_model
