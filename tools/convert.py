#!/usr/bin/env python
"""Replace the normalization layers of a trained checkpoint and calibrate the new ones."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('convert', sys.argv[1:])
