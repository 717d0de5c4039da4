#!/usr/bin/env python
"""Export a model to ONNX or torch.export, and compare the file with torch on real pictures."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('export', sys.argv[1:])
