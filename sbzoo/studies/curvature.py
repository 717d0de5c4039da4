"""The curvature of a loss: top eigenvalue and trace of its Hessian, without the Hessian.

Both need no more than its products with vectors, each of which is one backward pass through a
gradient (Pearlmutter 1994): Lanczos' method (ARPACK) for the eigenvalue, Hutchinson's estimate for
the trace. It is the exact Hessian: differences of gradients would count every kink of a ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

VECTORS, TOLERANCE = 8, 0.01  # kept by Lanczos' method; of the eigenvalue
PROBES = 6  # of the trace


class Curvature(NamedTuple):
    """The largest eigenvalue of a Hessian, and its trace."""

    top: float
    trace: float


def measure(loss: Tensor, parameters: Sequence[nn.Parameter], probes: int = PROBES) -> Curvature:
    """The curvature of a scalar in some parameters.

    Args:
        loss: With its graph, of operations that can be differentiated twice.
        parameters: Where it does not depend on one, its curvature is 0.
        probes: Random vectors over which the estimate of the trace is averaged.

    Raises:
        RuntimeError: Torch knows no second derivative of an operation.
    """
    product, size = _product(loss, parameters), sum(p.numel() for p in parameters)
    device = parameters[0].device

    def matvec(vector: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(vector.astype(np.float32)).to(device)).cpu().numpy()

    hessian = LinearOperator((size, size), matvec, dtype=np.float32)
    options = dict(k=1, which='LA', ncv=min(VECTORS, size), tol=TOLERANCE)
    top = eigsh(hessian, v0=torch.randn(size).numpy(), return_eigenvectors=False, **options)
    signs = (torch.randint(2, (size,), device=device) * 2.0 - 1 for _ in range(probes))
    return Curvature(top.item(), sum((v @ product(v)).item() for v in signs) / probes)


def _product(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Callable[[Tensor], Tensor]:
    """What multiplies a vector by the Hessian; it keeps the graph of the gradient."""
    zeros = dict(allow_unused=True, materialize_grads=True)
    slope = _flat(torch.autograd.grad(loss, parameters, create_graph=True, **zeros))

    def product(vector: Tensor) -> Tensor:
        return _flat(torch.autograd.grad(slope, parameters, vector, retain_graph=True, **zeros))

    return product


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])
