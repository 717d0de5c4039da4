"""Normalization layers as functions of per-sample moments; needs torch alone."""

from sbzoo.norm.calibrate import Calibration, calibrate
from sbzoo.norm.convert import Conversion, convert_norm
from sbzoo.norm.layers import Norm, build_norm, norm_cfg
from sbzoo.norm.precise_bn import reestimate
from sbzoo.norm.spec import NORMS, norm_table

__all__ = [
    'NORMS',
    'Calibration',
    'Conversion',
    'Norm',
    'build_norm',
    'calibrate',
    'convert_norm',
    'norm_cfg',
    'norm_table',
    'reestimate',
]
