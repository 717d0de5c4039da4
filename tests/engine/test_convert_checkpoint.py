"""A checkpoint with another norm, from the command line to the next training run."""

import json
import runpy
import shlex
import sys

import pytest
import torch

from sbzoo.checkpoint.io import load
from sbzoo.engine.convert_checkpoint import convert
from sbzoo.engine.model import build_model
from sbzoo.engine.options.config import load_config
from sbzoo.engine.options.norm import set_norm

BN = 'configs/retinanet_bn_b2.py'
SMALL = [
    '--cfg-options',
    'train_dataloader.dataset.indices=12',
    'val_dataloader.dataset.indices=2',
    'test_dataloader.dataset.indices=2',
]


def run(monkeypatch, tool: str, *args: object) -> None:
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, args), *SMALL])
    runpy.run_path(f'tools/{tool}.py', run_name='__main__')


@pytest.fixture
def checkpoint(digits, tmp_path):
    path = tmp_path / 'bn.pth'
    torch.save(dict(state_dict=build_model(load_config(BN)).state_dict()), path)
    return path


@pytest.mark.parametrize('options', [['--copy'], ['--images', 4]])
def test_a_converted_checkpoint_is_of_the_config_with_that_norm(
    checkpoint, tmp_path, monkeypatch, capsys, options
):
    out = tmp_path / 'gn8.pth'
    run(monkeypatch, 'convert', BN, checkpoint, '--norm', 'gn8', *options, '--out', out)
    printed = capsys.readouterr().out
    assert 'norm gn8: 38 layers replaced' in printed
    assert ('38 norms calibrated, 0 left' in printed) == ('--images' in options)
    cfg = load_config(BN)
    set_norm(cfg, 'gn8')
    converted, original = (load(p)['state_dict'] for p in (out, checkpoint))
    build_model(cfg).load_state_dict(converted)
    changed = {k for k, v in converted.items() if not torch.equal(v, original[k])}
    assert all('bn' in k or 'downsample.1' in k for k in changed)
    assert bool(changed) == ('--images' in options)


@pytest.mark.parametrize('spec', ['gn8', 'hybrid'])
def test_calibration_is_that_of_the_pictures_without_their_padding(digits, tmp_path, spec):
    """On a canvas that they fill, and on one of four times as many pixels."""
    found, errors = [], []
    for divisor in (32, 192):
        cfg, out = load_config(BN), tmp_path / f'{divisor}.pth'
        cfg.model.data_preprocessor.pad_size_divisor = divisor
        record = convert(cfg, 'card://retinanet_bn_b2', spec, images=2, out=out)[1]
        found.append(load(out)['state_dict'])
        errors.append([match.after for match in record.matches])
    for key, alone in found[0].items():
        scale = alone.abs().max().item()
        torch.testing.assert_close(found[1][key], alone, rtol=0, atol=1e-4 * scale, msg=key)
    assert errors[1] == pytest.approx(errors[0], rel=1e-2)


def test_checkpoints_by_reference(digits, tmp_path, monkeypatch, capsys):
    reference, out = 'card://retinanet_bn_b2', tmp_path / 'gn8.pth'
    run(monkeypatch, 'convert', BN, reference, '--norm', 'gn8', '--copy', '--out', out)
    assert 'norm gn8: 38 layers replaced' in capsys.readouterr().out
    folder = tmp_path / 'run'
    for given in (['test', BN, reference], ['train', BN, '--load-from', reference, '--lr', 1e-9]):
        run(monkeypatch, *given, '--work-dir', folder)
        metrics = json.loads((folder / 'result.json').read_text())['metrics']
        assert metrics['coco/bbox_mAP'] > 0.5 * 2 / 200  # images; random weights have 0


def test_the_command_that_is_printed_trains_on(checkpoint, tmp_path, monkeypatch, capsys):
    out = tmp_path / "it's in ln.pth"
    run(monkeypatch, 'convert', BN, checkpoint, '--norm', 'ln', '--images', 2, '--out', out)
    last = capsys.readouterr().out.splitlines()[-1]
    python, tool, *arguments = shlex.split(last.removeprefix('next:'))
    assert (python, tool) == ('python', 'tools/train.py')
    arguments += ['--lr', '1e-9', '--work-dir', tmp_path / 'run']
    run(monkeypatch, 'train', *arguments)
    assert f'Load checkpoint from {out}' in capsys.readouterr().out
    trained = load(tmp_path / 'run/epoch_3.pth')['state_dict']
    for key, value in load(out)['state_dict'].items():
        torch.testing.assert_close(trained[key], value, msg=key)


@pytest.mark.parametrize(
    ('norm', 'start', 'says'),
    [
        ('gn8', 'bn.pth', 'is there already'),
        ('gn8', 'missing.pth', 'no such file of weights'),
        ('gn99x', 'bn.pth', "unknown norm 'gn99x'"),
    ],
)
def test_refusals_name_what_is_wrong(checkpoint, tmp_path, monkeypatch, capsys, norm, start, says):
    out = checkpoint if 'already' in says else tmp_path / 'out.pth'
    with pytest.raises(SystemExit):
        run(monkeypatch, 'convert', BN, tmp_path / start, '--norm', norm, '--out', out)
    assert says in capsys.readouterr().err


def test_training_refuses_weights_of_another_norm(checkpoint, tmp_path, monkeypatch, capsys):
    options = '--load-from', checkpoint, '--work-dir', tmp_path
    with pytest.raises(SystemExit):
        run(monkeypatch, 'train', 'configs/retinanet_in_b2.py', *options)
    said = 'the checkpoint is of this model with another norm; python tools/convert.py makes one'
    assert said in capsys.readouterr().err
