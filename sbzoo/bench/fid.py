"""FID against pytorch-fid: images a second, the Frechet distance and memory."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """To come."""


def run(args: argparse.Namespace) -> None:
    """To come."""
