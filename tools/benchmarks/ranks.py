"""Training throughput of two ranks beside one, a thread each, and what the machine itself loses."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from benchmarks import output
from benchmarks.train import seconds
from sbzoo import records
from sbzoo.data.embedded.digit_scenes import ensure_digits
from sbzoo.paths import cache_dir
from sbzoo.report.measurements import scaling
from sbzoo.tools.cli import positive_int

BATCH, RANKS = 2, 2
GN, HYBRID = 'configs/retinanet_gn_b2.py', 'configs/retinanet_hybrid_b2.py'
RUNS = {  # by what is averaged over ranks in a step
    'gn: gradients': (GN,),
    'hybrid(bn,ln): gradients': (HYBRID, '--norm', 'hybrid(bn,ln)'),
    'hybrid: gradients and batch statistics': (HYBRID,),
}
TORCHRUN = '-m', 'torch.distributed.run', f'--nproc_per_node={RANKS}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long and how often."""
    add = parser.add_argument
    add('--steps', type=positive_int, default=250, metavar='N', help='of each run')
    add('--rounds', type=positive_int, default=3, metavar='N', help='runs of each kind, in turn')
    output.add_out(parser, 'ranks.jsonl')


def run(args: argparse.Namespace) -> None:
    """Train in one process, in two that know nothing of each other, and on two ranks."""
    ensure_digits(cache_dir() / 'digits')
    protocol = dict(steps=args.steps, rounds=args.rounds, batch_per_rank=BATCH)
    measured = []
    for name, training in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            rounds = [_round(training, args.steps, folder) for _ in range(args.rounds)]
        figures = {kind: statistics.median(each[kind] for each in rounds) for kind in rounds[0]}
        row = dict(training=name)
        measured.append(records.measurement(row, figures, protocol, ('mmdet',), threads=1))
        records.record(args.out, measured)
    output.show(args.out, scaling(dict(ranks=measured)))


def _round(training: tuple[str, ...], steps: int, folder: str) -> dict[str, float]:
    """Images per second of one process, and the gain of two."""
    alone = [sys.executable, 'tools/train.py', *training]
    ranks = [sys.executable, *TORCHRUN, 'tools/train.py', *training, '--launcher', 'pytorch']
    one = seconds(alone, steps, 1, folder)
    with ThreadPoolExecutor(RANKS) as pool:
        several = list(pool.map(lambda _: seconds(alone, steps, 1, folder), range(RANKS)))
    together = seconds(ranks, steps, 1, folder, images=BATCH * RANKS)
    return dict(
        images_per_second=BATCH / one,
        side_by_side=sum(one / each for each in several),
        ranks=RANKS * one / together,
    )
