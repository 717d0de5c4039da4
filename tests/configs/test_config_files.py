"""What holds for every file under configs/, base files included."""

import ast
from pathlib import Path

import pytest
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config

FILES = sorted(Path('configs').rglob('*.py'))


@pytest.mark.parametrize('path', FILES, ids=str)
def test_no_config_imports_a_module(path):
    """mmengine 0.10.7 on Python >= 3.11 takes a config with any import for a lazy one."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    assert not any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes)
    assert not Config._is_lazy_import(str(path))


def test_a_config_that_was_written_finds_the_cache_of_whoever_loads_it(
    tmp_path, digits, monkeypatch
):
    Config.fromfile('configs/retinanet_gn_b2.py').dump(tmp_path / 'left.py')
    (tmp_path / '.cache/sbzoo').mkdir(parents=True)
    (tmp_path / '.cache/sbzoo/digits').symlink_to(digits)
    monkeypatch.setenv('HOME', str(tmp_path))
    cfg = Config.fromfile(tmp_path / 'left.py')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    assert dataset.get_data_info(0)['img_path'] == f'{tmp_path}/.cache/sbzoo/digits/val/000001.bmp'
    assert len(METRICS.build(cfg.val_evaluator)._coco_api.imgs) == len(dataset)
