"""Bad input: one clear message, a non-zero exit, no traceback, nothing half-written."""

import logging
import math
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData

from sbzoo import UserError
from sbzoo.checkpoint.io import check_fit, load
from sbzoo.checkpoint.resolve import latest_checkpoint
from sbzoo.engine.batch_faults import faults, files
from sbzoo.engine.hooks.resume import StopAtInvalidLossHook
from sbzoo.engine.options.norm import set_norm
from sbzoo.engine.runner import Window
from sbzoo.files import write

ROOT = Path(__file__).parents[2]


@pytest.fixture
def train(monkeypatch, capsys):
    """Run tools/train.py in this process; returns exit status and the error message."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(logging, 'raiseExceptions', False)  # of handlers that outlive a test
        monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path('tools/train.py', run_name='__main__')
        return stop.value.code, capsys.readouterr().err

    return call


CONFIG = 'configs/retinanet_gn_b2.py'
TRACKER = 'mmdet::sort/sort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['configs/retinanet_gn2.py'], 'no such config; did you mean configs/retinanet_gn_b'),
        (['configs/retinanet_gn_b3.py'], 'is an option: configs/retinanet_gn_b2.py --batch 3'),
        (['sbzoo::retinanet_gn_b3.py'], 'is an option: sbzoo::retinanet_gn_b2.py --batch 3'),
        (['mmdet::atss/atss-r50_fpn_1x_coco.py'], 'mean mmdet::atss/atss_r50_fpn_1x_coco.py'),
        (['mmfoo::a.py'], 'mmfoo is not installed'),
        (['LICENSE'], 'not a config that can be read'),
        ([CONFIG, '--norm', 'gm'], "unknown norm 'gm'; known are"),
        ([CONFIG, '--lr', 'fast'], 'give a positive number, "auto" or "linear"'),
        ([CONFIG, '--data', '/nowhere'], '/nowhere: no such folder'),
        ([TRACKER], f'{TRACKER}: it trains nothing (no train_dataloader)'),
        ([CONFIG, '--resume', '/nowhere.pth'], '/nowhere.pth: no such file of weights'),
        ([CONFIG, '--cfg-options', 'lr'], 'give KEY=VALUE'),
        ([CONFIG, '--cfg-options', 'a=[dict(b=1,c=2)]'], 'KEY.0.KEY in a list'),
        ([CONFIG, '--cfg-options', 'a=[1,2'], 'give KEY=VALUE'),
        ([CONFIG, '--work-dir', '/dev/null/runs'], 'Not a directory'),
        ([CONFIG, '--amp'], 'needs a GPU'),
    ],
)
def test_one_clear_line(train, tmp_path, digits, arguments, message):
    if '--work-dir' not in arguments:
        arguments = [*arguments, '--work-dir', tmp_path]
    status, errors = train(*arguments)
    assert status == 1
    assert errors.startswith('error: ')
    assert message in errors
    assert 'Traceback' not in errors


def test_debug_shows_the_traceback(train):
    status, errors = train('configs/nothing.py', '--debug')
    assert status == 1
    assert 'Traceback' in errors
    assert 'error: configs/nothing.py: no such config' in errors


def test_unknown_norm_lists_the_known(train, tmp_path):
    _, errors = train(CONFIG, '--norm', 'gm', '--work-dir', tmp_path)
    assert all(f'\n  {name}' in errors for name in ('bn', 'in', 'ln', 'gn[G]', 'hybrid'))


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=torch.nn.Conv2d(3, 4, 1).state_dict(), meta={}), path)
    return path


def test_truncated_checkpoint(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    with pytest.raises(UserError, match='broken or cut short'):
        load(checkpoint)


def test_checkpoint_that_runs_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / 'pwned'), 'w'))

    torch.save(dict(state_dict={}, x=Attack()), tmp_path / 'bad.pth')
    with pytest.raises(UserError, match='not a checkpoint of plain data'):
        load(tmp_path / 'bad.pth')
    assert not (tmp_path / 'pwned').exists()


def test_checkpoint_of_another_model(checkpoint):
    weights = load(checkpoint)['state_dict']
    check_fit(checkpoint, weights, torch.nn.Conv2d(3, 4, 1))
    with pytest.raises(
        UserError, match=r'of another shape: weight \[4, 3, 1, 1\] for \[4, 3, 3, 3\]'
    ):
        check_fit(checkpoint, weights, torch.nn.Conv2d(3, 4, 3))
    with pytest.raises(UserError, match='1 unknown to the model: bias'):
        check_fit(checkpoint, weights, torch.nn.Conv2d(3, 4, 1, bias=False))


def test_file_that_is_no_checkpoint(tmp_path):
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(UserError, match='no state_dict'):
        load(tmp_path / 'list.pth')
    (tmp_path / 'text.pth').write_text('hello')
    with pytest.raises(UserError, match=r'text\.pth'):
        load(tmp_path / 'text.pth')


def test_newest_checkpoint_is_by_number(tmp_path):
    for name in ('epoch_9.pth', 'epoch_10.pth', 'best_coco_epoch_11.pth', '.epoch_12.pth-x'):
        (tmp_path / name).touch()
    assert latest_checkpoint(tmp_path).name == 'epoch_10.pth'
    assert latest_checkpoint(tmp_path / 'empty') is None


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write(path, b'old')

    def full(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space'):
        write(path, b'new')
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_invalid_loss_stops_with_step_and_last_good_checkpoint(tmp_path, value):
    (tmp_path / 'epoch_3.pth').touch()
    runner = types.SimpleNamespace(iter=41, work_dir=tmp_path)
    hook = StopAtInvalidLossHook()
    hook.after_train_iter(runner, 0, None, dict(loss=torch.tensor(1.0)))
    with pytest.raises(UserError, match=r'step 42: .*loss_cls .*epoch_3.pth'):
        hook.after_train_iter(runner, 0, None, dict(loss_cls=torch.tensor(value)))
    hook.before_save_checkpoint(runner, dict(state_dict=dict(w=torch.ones(2), n=torch.tensor(1))))
    with pytest.raises(UserError, match='w is not finite'):
        hook.before_save_checkpoint(runner, dict(state_dict=dict(w=torch.tensor([1.0, value]))))


def batch(value: float, box: list[float]) -> dict:
    """One that MMDetection's pipelines pack, of a fine picture and another."""
    pictures = {'fine.png': (1.0, [0.0, 0.0, 8.0, 6.0]), 'odd.png': (value, box)}
    packed = dict(inputs=[], data_samples=[])
    for path, (pixel, edges) in pictures.items():
        sample = DetDataSample(metainfo=dict(img_path=path))
        sample.gt_instances = InstanceData(bboxes=HorizontalBoxes(torch.tensor([edges])))
        packed['inputs'].append(torch.full((3, 6, 8), pixel))
        packed['data_samples'].append(sample)
    return packed


@pytest.mark.parametrize(
    ('pixel', 'box', 'says'),
    [
        (math.nan, [0, 0, 8, 6], 'at fault: odd.png: 144 of its 144 values are not finite'),
        (1, [0, 0, math.inf, 6], 'at fault: odd.png: box [0, 0, inf, 6] is not finite'),
        (1, [2, 1, 2, 6], 'at fault: odd.png: box [2, 1, 2, 6] has no area'),
        (1, [0, 0, 800, 6], 'at fault: odd.png: box [0, 0, 800, 6] is far outside of 8 x 6 pixels'),
        (1, [0, 0, 1, 1], 'try a lower --lr or a longer warm-up (the batch: fine.png, odd.png)'),
    ],
)
def test_an_invalid_loss_names_the_picture_at_fault(tmp_path, pixel, box, says):
    runner = types.SimpleNamespace(iter=0, work_dir=tmp_path)
    nan = dict(loss=torch.tensor(math.nan))
    with pytest.raises(UserError) as error:
        StopAtInvalidLossHook().after_train_iter(runner, 0, batch(pixel, [*map(float, box)]), nan)
    assert str(error.value) == (
        f'step 1: the loss is not finite (loss nan); last good checkpoint: none yet; {says}'
    )


def test_an_invalid_loss_names_the_picture_in_any_micro_batch(tmp_path):
    runner = types.SimpleNamespace(iter=0, work_dir=tmp_path)
    window = Window([batch(1.0, [0.0, 0.0, 8.0, 6.0]), batch(1.0, [4.0, 2.0, 4.0, 5.0])])
    with pytest.raises(UserError, match=r'at fault: odd.png: box \[4, 2, 4, 5\] has no area$'):
        StopAtInvalidLossHook().after_train_iter(
            runner, 0, window, dict(loss=torch.tensor(math.nan))
        )


def test_an_invalid_loss_of_a_gan_names_its_images(tmp_path):
    images = [torch.zeros(3, 4, 4), torch.full((3, 4, 4), math.inf)]
    samples = [BaseDataElement(metainfo=dict(img_path=f'{i}.png')) for i in range(2)]
    assert faults(dict(inputs=images, data_samples=samples)) == [
        '1.png: 48 of its 48 values are not finite'
    ]
    pairs = dict(source=images, target=images[::-1])
    assert len(faults(dict(inputs=pairs, data_samples=samples))) == 2
    several = dict(inputs=dict(sup=images), data_samples=dict(sup=samples))  # semi-supervised
    assert (faults(several), files(several)) == ([], [])


def test_model_without_norms_is_refused():
    generator = dict(type='AnchorGenerator', scales=[8], ratios=[1.0], strides=[4])
    head = dict(type='RPNHead', num_classes=1, in_channels=8, anchor_generator=generator)
    cfg = Config(dict(model=head))
    set_norm(cfg, 'gn')
    with pytest.raises(UserError, match='RPNHead has no norm to replace'):
        MODELS.build(cfg.model)


WITHOUT_OPENMMLAB = (
    'import runpy, sys\n'
    'sys.modules.update(dict.fromkeys(["mmengine", "mmcv", "mmdet"]))  # not to be found\n'
)


def run_without_openmmlab(script: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-c', WITHOUT_OPENMMLAB + script],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_norms_work_without_openmmlab():
    done = run_without_openmmlab(
        'import torch, sbzoo.norm\n'
        'print(sbzoo.norm.build_norm("hybrid", 8)(torch.randn(2, 8, 4, 4)).shape)\n'
    )
    assert done.stdout == 'torch.Size([2, 8, 4, 4])\n', done.stderr


@pytest.mark.parametrize('tool', ['train', 'test', 'bench'])
def test_tools_name_the_missing_extra(tool):
    done = run_without_openmmlab(
        'sys.path.insert(0, "tools")\n'
        f'sys.argv = ["{tool}", "{CONFIG}", *["x"] * ("{tool}" == "test")]\n'
        f'runpy.run_path("tools/{tool}.py", run_name="__main__")\n'
    )
    assert done.returncode == 1
    assert done.stderr == (
        'error: mmengine, mmcv, mmdet not installed; run: pip install -e ".[onedl]"\n'
    )
