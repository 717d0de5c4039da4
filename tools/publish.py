#!/usr/bin/env python
"""Make a model card of finished runs: weights, results with their spread, a picture."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('publish', sys.argv[1:])
