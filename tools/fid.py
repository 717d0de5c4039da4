#!/usr/bin/env python
"""FID between two sets of images, and other distances, on pytorch-fid's weights or on others."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('fid', sys.argv[1:])
