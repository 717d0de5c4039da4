"""Train and test a detector from a config, and show what came out."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from sbzoo.engine.checkpoints import check_fits, find_checkpoint, latest_checkpoint
from sbzoo.engine.curves import draw_curves
from sbzoo.engine.noise_scale import explain
from sbzoo.engine.picture import draw_detections
from sbzoo.engine.result import write_result
from sbzoo.engine.unwrap import unwrapped


def train(
    cfg: Config, resume: str | None = None, weights: str | None = None
) -> tuple[Runner, dict[str, float]]:
    """Train to the end of the schedule and return the runner with the AP of the last epoch.

    Args:
        cfg: A complete config.
        resume: A checkpoint to go on from; `auto` is the newest of the work directory, if any.
        weights: The checkpoint that the config starts from, if it must fit the model strictly.

    Raises:
        UserError: A checkpoint is broken or of another model, or the loss is not finite.
    """
    Path(cfg.work_dir).mkdir(parents=True, exist_ok=True)
    checkpoint = latest_checkpoint(cfg.work_dir) if resume == 'auto' else resume
    if checkpoint:
        cfg.load_from, cfg.resume = str(checkpoint), True
    runner = Runner.from_cfg(cfg)
    if checkpoint or weights:
        check_fits(checkpoint or weights, unwrapped(runner))
    if resume and not checkpoint:
        runner.logger.info(f'{cfg.work_dir}: no checkpoint to resume from, so from the start')
    runner.train()
    scalars = runner.message_hub.log_scalars
    metrics = {k[4:]: scalars[k].current() for k in scalars if k.startswith('val/coco/')}
    return runner, metrics or runner.test()


def test(cfg: Config, checkpoint: str | Path) -> tuple[Runner, dict[str, float]]:
    """Evaluate a checkpoint, or the newest checkpoint of a folder.

    Raises:
        UserError: There is none, or it is broken or of another model.
    """
    path = find_checkpoint(checkpoint)
    cfg.load_from = str(path)
    runner = Runner.from_cfg(cfg)
    check_fits(path, unwrapped(runner))
    return runner, runner.test()


def show(runner: Runner, metrics: dict[str, float], next_command: str) -> None:
    """Print the AP table, the noise scale, the paths of the pictures, and what to type next.

    The numbers go to `result.json` in the work directory too, with their protocol.
    """
    if not is_main_process():
        return
    write_result(runner, metrics)
    console = Console(highlight=False)
    console.print(ap_table(metrics))
    picture = draw_detections(runner, Path(runner.work_dir) / 'detections.png')
    console.print(f'picture: {picture} (left ground truth, right detections)', soft_wrap=True)
    if noise := explain(runner.message_hub):
        console.print(f'noise:   {noise}', soft_wrap=True)
    if runner.iter and (curves := draw_curves(runner.work_dir)):  # it has trained
        console.print(f'curves:  {curves}', soft_wrap=True)
    console.print(f'next:    {next_command}', soft_wrap=True)


def ap_table(metrics: dict[str, float]) -> Table:
    """The metrics of `CocoAP` as a table, a row for boxes and one for masks."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        kind, _, metric = name.removeprefix('coco/').partition('_')
        rows.setdefault(kind, {})[metric] = value
    columns = list(next(iter(rows.values())))
    table = Table('', *columns)
    for kind, values in rows.items():
        table.add_row(kind, *(_cell(values[c]) for c in columns))
    return table


def _cell(value: float) -> str:
    return '-' if value < 0 else f'{value:.3f}'  # COCO's -1: no object of this size
