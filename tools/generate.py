#!/usr/bin/env python
"""Generate images: sample a GAN, interpolate between its samples, or translate a folder."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('generate', sys.argv[1:])
