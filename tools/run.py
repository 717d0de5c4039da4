#!/usr/bin/env python
"""Run a script of MMDetection, or any other, as the plugin needs it."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('run', sys.argv[1:])
