#!/usr/bin/env python
"""Train a detector or a GAN, from a config of sbzoo or of MMDetection."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('train', sys.argv[1:])
