"""`import sbzoo` makes a plugin of it, in whatever order it and its hosts are imported."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sbzoo import UserError, plugin

ROOT = Path(__file__).parent.parent
SCOPE = "from mmengine.registry import init_default_scope; init_default_scope('mmdet')\n"


def python(script: str, cwd: Path = ROOT) -> str:
    """What a script prints, in a process of its own."""
    command = [sys.executable, '-c', script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORTS = (
    'import sbzoo; from mmengine.registry import MODELS',
    'import sbzoo; from mmdet.registry import MODELS',
    'import sbzoo, mmdet.models; from mmdet.registry import MODELS',
    'import sbzoo, mmcv.ops, mmcv.cnn; from mmdet.registry import MODELS',
    'from mmengine.registry import MODELS; import sbzoo',
    'from mmdet.registry import MODELS; import sbzoo',
)
EACH = f"""
import os, sys, torch, torchvision
for imports in {IMPORTS}:
    if not os.fork():
        exec(imports)
        norm = MODELS.build(dict(type='Norm', num_features=8, spec='hybrid'))
        print(imports, norm.spec, flush=True, sep=' -> ')
        os._exit(0)
    os.wait()
"""


def test_types_are_known_whatever_is_imported_first():
    assert python(EACH).splitlines() == [f'{imports} -> hybrid' for imports in IMPORTS]


def test_types_are_known_to_a_config_that_names_sbzoo():
    printed = python(
        SCOPE + 'from mmengine.config import Config\n'
        "model = Config.fromfile('configs/retinanet_gn_b2.py').model\n"
        'from mmdet.registry import MODELS\n'
        'print(MODELS.build(model).backbone.bn1.spec)\n'
    )
    assert printed.splitlines()[-1] == 'gn8'


def test_operators_of_mmcv_are_found_before_any_lookup():
    assert python(
        'import sbzoo, torch\nfrom mmcv.ops import nms\n'
        'boxes = torch.tensor([[0., 0., 2., 2.], [0., 0., 2., 2.]])\n'
        'print(nms(boxes, torch.tensor([.9, .8]), 0.5)[1].tolist())\n'
    ).endswith('[0]\n')


def test_operators_are_found_by_what_was_imported_before():
    assert python(
        'import torch\nfrom mmdet.structures.mask import BitmapMasks\nimport numpy as np, sbzoo\n'
        'mask = BitmapMasks(np.ones((1, 8, 8), np.uint8), 8, 8)\n'
        'boxes = torch.tensor([[0., 0., 8., 8.]]).numpy()\n'
        'print(mask.crop_and_resize(boxes, (4, 4), np.array([0]), device="cpu").masks.sum())\n'
    ).endswith('16\n')


def test_base_configs_of_the_package(tmp_path):
    """By mmengine's own rule for installed packages, with types of MMDetection and of sbzoo."""
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = 'sbzoo::coco/retinanet_r50_gn_b2.py'\n")
    printed = python(
        'import sbzoo\nfrom mmengine.config import Config\n'
        f"model = Config.fromfile('{config}').model\n"
        'del model.backbone.init_cfg\n' + SCOPE + 'from mmengine.registry import MODELS\n'
        'print(type(MODELS.build(model).backbone).__name__)\n',
        cwd=tmp_path,
    )
    assert printed.splitlines()[-1] == 'NormResNet'


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    """What a wheel installs."""
    folder, source = tmp_path_factory.mktemp('site'), tmp_path_factory.mktemp('source') / 'sbzoo'
    others = shutil.ignore_patterns('.git', '.venv', 'build', 'work_dirs', '__pycache__')
    shutil.copytree(ROOT, source, symlinks=True, ignore=others)  # a build leaves files behind
    options = '--no-deps', '--no-build-isolation', '--no-index', '--quiet'
    build = [sys.executable, '-m', 'pip', 'wheel', *options, '--wheel-dir', str(folder)]
    done = subprocess.run([*build, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob('*.whl')
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_a_wheel_is_whole(site, tmp_path):
    there = site / 'sbzoo' / '.mim'
    for folder in ('configs', 'model_cards'):
        tracked = subprocess.run(
            ['git', 'ls-files', folder], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        assert [name for name in tracked if not (there / name).is_file()] == []
    printed = python(
        f'import sys; sys.path.insert(0, {str(site)!r})\n'
        'import sbzoo, torch\n'
        'print(sbzoo.__file__)\n'
        'print(len(sbzoo.list_cards()))\n'
        "print(sbzoo.load('retinanet_gn_b2').classes[3])\n"
        "print(tuple(sbzoo.load('dcgan_in_b2').sample(2).shape))\n",
        cwd=tmp_path,
    )
    import sbzoo

    file, count, name, shape = printed.splitlines()
    assert file == str(site / 'sbzoo' / '__init__.py')
    assert (int(count), name, shape) == (len(sbzoo.list_cards()), '3', '(2, 3, 32, 32)')


@pytest.mark.parametrize(
    ('installed', 'extra'),
    [
        ({}, 'onedl'),
        ({'mmengine': ['onedl-mmengine']}, 'onedl'),
        ({'mmengine': ['mmengine'], 'mmcv': ['mmcv-lite']}, 'classic'),
    ],
)
def test_what_is_missing_is_of_the_line_that_is_there(monkeypatch, installed, extra):
    monkeypatch.setattr(plugin, 'packages_distributions', lambda: installed)
    monkeypatch.setattr(plugin, 'find_spec', installed.get)
    with pytest.raises(UserError, match=rf'mmdet not installed; run: pip .*\[{extra}\]"'):
        plugin.require_host()
