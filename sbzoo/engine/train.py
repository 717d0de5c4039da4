"""Train and test from a config, and show what came out."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import METRICS, init_default_scope
from mmengine.runner import Runner
from rich.console import Console

from sbzoo.checkpoint.cards import TASKS, Card, card
from sbzoo.checkpoint.io import load
from sbzoo.checkpoint.resolve import CARD, latest_checkpoint, resolve
from sbzoo.engine.hooks.noise_scale import explain
from sbzoo.engine.model import config_of
from sbzoo.engine.options.parts import norm_of, section
from sbzoo.engine.options.resume import check_resumable
from sbzoo.engine.options.schedule import check_spans, warn_if_warm_up_outlasts
from sbzoo.engine.ranks import join_as
from sbzoo.engine.result import write_result
from sbzoo.engine.runner import unwrapped
from sbzoo.engine.visualize import (
    detection_table,
    draw_curves,
    draw_results,
    generation_table,
)
from sbzoo.engine.work_dir import check_unused, training_in
from sbzoo.errors import UserError
from sbzoo.files import naming
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.gan.models.image_to_image import Translation
from sbzoo.metrics.generative import FrechetDistance
from sbzoo.paths import command

TIMES = ('time', 'data_time')  # what mmengine logs of a validation beside its metrics


def train(cfg: Config, resume: str | None = None) -> tuple[Runner, dict[str, float]]:
    """Train to the end of the schedule and return the runner with the metrics of the last epoch.

    Args:
        cfg: A complete config.
        resume: A checkpoint to go on from; `auto` is the newest of the work directory, if any.

    Raises:
        UserError: The work directory or the checkpoint is of another run, the best checkpoint is to
            be found by a metric that does not exist, or the loss is not finite.
        OSError: The disk is full.
    """
    with training_in(cfg.work_dir, cfg.get('launcher', 'none')), naming(cfg.work_dir):
        return _train(cfg, resume)


def _train(cfg: Config, resume: str | None) -> tuple[Runner, dict[str, float]]:
    checkpoint = latest_checkpoint(cfg.work_dir) if resume == 'auto' else resume and resolve(resume)
    check_unused(cfg.work_dir, checkpoint)
    check_save_best(cfg)
    if checkpoint:  # before the config is written to the work directory
        check_resumable(checkpoint, load(checkpoint), cfg)
    join_as(cfg)
    runner = Runner.from_cfg(cfg)
    if checkpoint:  # not in the config, which stays that of a run from its start
        runner._load_from, runner._resume = str(checkpoint), True
    check_spans(cfg, len(runner.train_dataloader))
    warn_if_warm_up_outlasts(cfg, len(runner.train_dataloader))
    check_evaluation(runner)
    if resume and not checkpoint:
        runner.logger.info(f'{cfg.work_dir}: no checkpoint to resume from, so from the start')
    runner.train()
    scalars = runner.message_hub.log_scalars
    metrics = {k[4:]: scalars[k].current() for k in scalars if k.startswith('val/')}
    return runner, {k: v for k, v in metrics.items() if k not in TIMES} or runner.test()


def check_save_best(cfg: Config) -> None:
    """Check that the metric that picks the best checkpoint is one that the evaluation gives.

    Raises:
        UserError: It is not; mmengine would say so after the first epoch.
    """
    wanted = section(cfg, 'default_hooks').get('checkpoint', {}).get('save_best')
    if wanted in (None, 'auto'):
        return
    evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    with METRICS.switch_scope_and_registry(None) as registry:
        kinds = [registry.get(evaluator.type) for evaluator in evaluators]
    if not all(hasattr(kind, 'keys_of') for kind in kinds):
        return  # MMDetection's own metrics do not tell
    known = [
        key
        for kind, evaluator in zip(kinds, evaluators, strict=True)
        for key in kind.keys_of(**{k: v for k, v in evaluator.items() if k != 'type'})
    ]
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in known:
            raise UserError(f'save_best={name!r}: the evaluation gives {", ".join(known)}')


def check_evaluation(runner: Runner) -> None:
    """Check that the evaluation of a GAN has images enough.

    Raises:
        UserError: It has not; the metric would say so after the first epoch.
    """
    if runner.val_loop is None:
        return
    for metric in runner.val_evaluator.metrics:
        if isinstance(metric, FrechetDistance):
            metric.require(len(runner.val_dataloader.dataset))


def test(cfg: Config, reference: str | Path) -> tuple[Runner, dict[str, float]]:
    """Evaluate a checkpoint; see `sbzoo.checkpoint.resolve.resolve` for what names one.

    Raises:
        UserError: There is none, it is broken or of another model, or it is that of a card of a
            backbone or of another norm.
    """
    reference = str(reference)
    if reference.startswith(CARD):
        _check_is_of(cfg, card(reference.removeprefix(CARD)))
    cfg.load_from = reference if '://' in reference else str(resolve(reference))
    cfg.resume = False
    join_as(cfg)
    runner = Runner.from_cfg(cfg)
    return runner, runner.test()


def _check_is_of(cfg: Config, found: Card) -> None:
    """Check what the keys of the weights do not show: most norms have the same."""
    if not found.config or found.task == 'image-classification':
        raise UserError(f'card {found.name}: {TASKS[found.task]}, no model that is tested here')
    own, given = norm_of(config_of(found).model), norm_of(cfg.model)
    if own != given and {own, given} != {'gn', 'gn32'}:
        name = Path(cfg.filename).name
        raise UserError(f'card {found.name}: its norm is {own or "none"}, and {name} has {given}')


def next_command(runner: Runner) -> str:
    """What comes after a training: detectors are tested, generators generate.

    The config is the one that was left in the work directory, with every option in it.
    """
    model, folder = unwrapped(runner), Path(runner.work_dir)
    run = folder / Path(runner.cfg.filename).name, folder
    if isinstance(model, Translation):
        return command('generate', *run, '--input', 'FOLDER')
    return command('generate' if isinstance(model, AdversarialModel) else 'test', *run)


def show(runner: Runner, metrics: dict[str, float], next_command: str) -> None:
    """Print the metrics, the noise scale, the paths of the pictures, and what to type next.

    The numbers go to `result.json` in the work directory too, with their protocol.
    """
    if not is_main_process():
        return
    write_result(runner, metrics)
    generates = isinstance(unwrapped(runner), AdversarialModel)
    console = Console(highlight=False, markup=False, emoji=False)  # paths are as they are
    console.print((generation_table if generates else detection_table)(metrics))
    console.print(f'picture: {draw_results(runner)}', soft_wrap=True)
    if noise := explain(runner.message_hub):
        console.print(f'noise:   {noise}', soft_wrap=True)
    if runner.iter and (curves := draw_curves(runner.work_dir)):  # it has trained
        console.print(f'curves:  {curves}', soft_wrap=True)
    console.print(f'next:    {next_command}', soft_wrap=True)
