#!/usr/bin/env python
"""Give a trained checkpoint another norm: convert it, and calibrate it on a few training images."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('convert', sys.argv[1:])
