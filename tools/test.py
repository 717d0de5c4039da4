#!/usr/bin/env python
"""Test a detector or a GAN: its AP or its distance from real images, and a picture."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('test', sys.argv[1:])
