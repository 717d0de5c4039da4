"""A small-batch model zoo: normalization that does not depend on the batch, for OpenMMLab.

Importing it registers everything with mmengine and MMDetection, where they are installed, as soon
as they are used; `sbzoo.norm` needs torch alone.
"""

from typing import Any

from sbzoo import plugin
from sbzoo.errors import UserError
from sbzoo.norm import NORMS, Norm, build_norm, calibrate, convert_norm, norm_cfg, reestimate

__version__ = '0.6.0'
__all__ = [
    'NORMS',
    'Norm',
    'UserError',
    'build_norm',
    'calibrate',
    'card',
    'convert_norm',
    'list_cards',
    'load',
    'norm_cfg',
    'reestimate',
]

plugin.install()


def __getattr__(name: str) -> Any:
    if name in ('card', 'list_cards'):
        from sbzoo.checkpoint import cards

        return getattr(cards, name)
    if name == 'load':
        plugin.require_host()
        plugin.register()
        from sbzoo.zoo.load import load

        return load
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
