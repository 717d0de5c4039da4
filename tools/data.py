#!/usr/bin/env python
"""Check a data set for detectors and show what is in it."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('data', sys.argv[1:])
