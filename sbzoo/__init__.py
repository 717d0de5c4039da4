"""A small-batch model zoo: norms for one or two images a step, for every OpenMMLab model.

Importing it registers everything with mmengine and MMDetection where they are installed;
`sbzoo.norm` needs torch alone.
"""

from importlib.util import find_spec

from sbzoo.errors import UserError
from sbzoo.norm import NORMS, Norm, build_norm, calibrate, convert_norm, norm_cfg, reestimate

__version__ = '0.3.0'
__all__ = [
    'NORMS',
    'Norm',
    'UserError',
    'build_norm',
    'calibrate',
    'convert_norm',
    'norm_cfg',
    'reestimate',
]

if find_spec('mmengine') and find_spec('mmcv') and find_spec('mmdet'):
    import sbzoo.registry  # noqa: F401
    from sbzoo.checkpoint.cards import card, list_cards
    from sbzoo.zoo.load import load

    __all__ += ['card', 'list_cards', 'load']
