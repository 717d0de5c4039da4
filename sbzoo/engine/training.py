"""Train and test from a config, and show what came out."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from rich.console import Console

from sbzoo.engine import detection, generation
from sbzoo.engine.checkpoints import check_fits, find_checkpoint, latest_checkpoint
from sbzoo.engine.curves import draw_curves
from sbzoo.engine.noise_scale import explain
from sbzoo.engine.result import write_result
from sbzoo.engine.unwrap import unwrapped
from sbzoo.errors import UserError
from sbzoo.gan.adversarial import AdversarialModel
from sbzoo.gan.translation import Translation

TIMES = ('time', 'data_time')  # what mmengine logs of a validation beside its metrics


def train(
    cfg: Config, resume: str | None = None, weights: str | None = None
) -> tuple[Runner, dict[str, float]]:
    """Train to the end of the schedule and return the runner with the metrics of the last epoch.

    Args:
        cfg: A complete config.
        resume: A checkpoint to go on from; `auto` is the newest of the work directory, if any.
        weights: The checkpoint that the config starts from, if it must fit the model strictly.

    Raises:
        UserError: A checkpoint is broken or of another model, the best checkpoint is to be found
            by a metric that does not exist, or the loss is not finite.
    """
    Path(cfg.work_dir).mkdir(parents=True, exist_ok=True)
    checkpoint = latest_checkpoint(cfg.work_dir) if resume == 'auto' else resume
    if checkpoint:
        cfg.load_from, cfg.resume = str(checkpoint), True
    runner = Runner.from_cfg(cfg)
    check_save_best(runner)
    if checkpoint or weights:
        check_fits(checkpoint or weights, unwrapped(runner))
    if resume and not checkpoint:
        runner.logger.info(f'{cfg.work_dir}: no checkpoint to resume from, so from the start')
    runner.train()
    scalars = runner.message_hub.log_scalars
    metrics = {k[4:]: scalars[k].current() for k in scalars if k.startswith('val/')}
    return runner, {k: v for k, v in metrics.items() if k not in TIMES} or runner.test()


def check_save_best(runner: Runner) -> None:
    """Check that the metric that picks the best checkpoint is one that the evaluation gives.

    Raises:
        UserError: It is not; mmengine would say so after the first epoch.
    """
    wanted = [
        name
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and hook.save_best not in (None, 'auto')
        for name in hook.key_indicators
    ]
    metrics = runner.val_loop.evaluator.metrics if wanted else ()
    if all(hasattr(metric, 'keys') for metric in metrics):
        known = [key for metric in metrics for key in metric.keys]
        for name in wanted:
            if name not in known:
                raise UserError(f'save_best={name!r}: the evaluation gives {", ".join(known)}')


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


def next_tool(runner: Runner) -> str:
    """What comes after a training: detectors are tested, generators generate."""
    model = unwrapped(runner)
    if isinstance(model, Translation):
        return 'python tools/generate.py --input FOLDER'
    return f'python tools/{"generate" if isinstance(model, AdversarialModel) else "test"}.py'


def show(runner: Runner, metrics: dict[str, float], next_command: str) -> None:
    """Print the metrics, the noise scale, the paths of the pictures, and what to type next.

    The numbers go to `result.json` in the work directory too, with their protocol.
    """
    if not is_main_process():
        return
    write_result(runner, metrics)
    kind = generation if isinstance(unwrapped(runner), AdversarialModel) else detection
    console = Console(highlight=False)
    console.print(kind.table(metrics))
    console.print(f'picture: {kind.draw(runner)}', soft_wrap=True)
    if noise := explain(runner.message_hub):
        console.print(f'noise:   {noise}', soft_wrap=True)
    if runner.iter and (curves := draw_curves(runner.work_dir)):  # it has trained
        console.print(f'curves:  {curves}', soft_wrap=True)
    console.print(f'next:    {next_command}', soft_wrap=True)
