"""A norm with running statistics that is no batch norm must not be folded into a convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from sbzoo.errors import UserError


class UnfoldableEps(float):
    """The eps of a norm that has running statistics, and cannot be folded into a convolution.

    Batch norm in evaluation is a constant scale and shift of each channel, which torch's
    `fuse_conv_bn_eval`, mmcv, ultralytics and timm fold into the weights of the convolution before
    it. They know it by `running_mean` and `running_var`, and all add `eps` to the latter: a number
    in every other respect, this refuses.

    Args:
        eps: The number.
        spec: The norm, for the message.
    """

    def __new__(cls, eps: float, spec: str) -> UnfoldableEps:
        """A float that knows its norm."""
        number = super().__new__(cls, eps)
        number.spec = spec
        return number

    def __add__(self, variance: object) -> NoReturn:
        raise UserError(
            f'norm {self.spec!r} cannot be folded into a convolution: in evaluation it is not a '
            'constant scale and shift of each channel, as bn and fbn are; it has to stay a layer'
        )

    __radd__ = __add__

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> NoReturn:
        """What torch calls in the place of a function of a tensor and this."""
        eps = next(value for value in args if isinstance(value, cls))
        return eps + None
