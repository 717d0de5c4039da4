"""torchvision's kernels, and the precision in which they compute."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

VERSION = torchvision.__version__
KERNELS = torch.ops.torchvision


def wide(tensor: Tensor) -> Tensor:
    """In float32 at least, as torchvision computes under autocast."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
