"""Norms as functions on a small table; needs torch alone."""

from sbzoo.norm.layers import Norm, build_norm, norm_cfg
from sbzoo.norm.spec import NORMS, norm_table

__all__ = ['NORMS', 'Norm', 'build_norm', 'norm_cfg', 'norm_table']
