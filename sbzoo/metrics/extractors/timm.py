"""The pooled features of any network of timm."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from sbzoo import files
from sbzoo.checkpoint.io import load
from sbzoo.checkpoint.resolve import resolve
from sbzoo.errors import UserError
from sbzoo.metrics.extractors.base import Extractor


class Timm(Extractor):
    """The pooled features of a network of timm, at the size and scale that it was trained at.

    Args:
        model: A name of timm, with or without a tag.
        weights: A .safetensors file or a .pth file of plain tensors, under the names of timm.

    Raises:
        UserError: timm has no such model, or the file is not of its weights.
    """

    def __init__(self, model: str, weights: str | Path | None) -> None:
        super().__init__()
        if not timm.is_model(model):
            raise UserError(f'timm has no model {model!r}')
        if not weights:
            raise UserError(f'timm:{model} needs its weights in a local file')
        self.spec, self.sha256 = f'timm:{model}', files.sha256(resolve(weights))
        self.net = _network(model, weights, load(weights)['state_dict'])
        cfg = resolve_model_data_config(self.net)
        self.d, self.size = self.net.head_hidden_size, cfg['input_size'][1:]
        self.mode = 'bilinear' if cfg['interpolation'] == 'bilinear' else 'bicubic'
        self.resize = f'{self.mode}, antialiased, to {self.size[0]} x {self.size[1]}'
        for name in ('mean', 'std'):
            self.register_buffer(name, torch.tensor(cfg[name]).view(3, 1, 1), persistent=False)

    def prepare(self, image: Tensor) -> Tensor:
        """To the size, the mean and the standard deviation of its training."""
        x = F.interpolate(image / 255, size=self.size, mode=self.mode, antialias=True)
        return (x.clamp(0, 1) - self.mean) / self.std  # bicubic overshoots

    def embed(self, x: Tensor) -> Tensor:
        """What the network has before its classifier."""
        return self.net(x)


def _network(model: str, path: str | Path, weights: dict[str, Tensor]) -> nn.Module:
    """A network of timm without its classifier, with every other weight from `weights`."""
    net = timm.create_model(model, num_classes=0)
    classifier = net.default_cfg.get('classifier') or ()
    heads = (classifier,) if isinstance(classifier, str) else classifier
    body = {k: v for k, v in weights.items() if not k.startswith(tuple(f'{h}.' for h in heads))}
    try:
        net.load_state_dict(body, strict=True)
    except RuntimeError as error:
        reason = ' '.join(str(error).split('\n\t')[1:2])
        raise UserError(f'{path}: weights of another network than {model} ({reason})') from error
    return net
