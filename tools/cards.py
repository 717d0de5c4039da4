#!/usr/bin/env python
"""List the model cards, ours and published ones, or show one."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('cards', sys.argv[1:])
