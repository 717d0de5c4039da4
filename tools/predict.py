#!/usr/bin/env python
"""Find objects in pictures or a video: drawn, as COCO results, and on a page to look through."""

import sys

from sbzoo.__main__ import run

if __name__ == '__main__':
    run('predict', sys.argv[1:])
