"""Norms as functions on a small table; needs torch alone."""

from sbzoo.norm.convert import Conversion, convert_norm
from sbzoo.norm.layers import Norm, build_norm, norm_cfg
from sbzoo.norm.spec import NORMS, norm_table

__all__ = ['NORMS', 'Conversion', 'Norm', 'build_norm', 'convert_norm', 'norm_cfg', 'norm_table']
