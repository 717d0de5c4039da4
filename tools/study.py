#!/usr/bin/env python
"""Test a claim about small batches, on embedded data or on your own model and data."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('study', sys.argv[1:])
