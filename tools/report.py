#!/usr/bin/env python
"""Gather model cards, result files and work directories into a page and tables, or check cards."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('report', sys.argv[1:])
