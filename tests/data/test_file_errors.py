"""An error of a pipeline names the file, in a data worker too."""

import numpy as np
import pytest
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, TRANSFORMS
from PIL import Image
from torch.utils.data import DataLoader

from sbzoo.errors import UserError
from sbzoo.tools.cli import _message


class Fails:
    """A transform with an error of two lines, of any type."""

    def __init__(self, error: str) -> None:
        self.error = {'KeyError': KeyError, 'UserError': UserError}[error]

    def __call__(self, results: dict) -> dict:
        if results['img_path'].endswith('1.png'):
            raise self.error('masks\n  and boxes')
        return dict(inputs=results['row'])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setitem(TRANSFORMS._module_dict, 'Fails', Fails)
    for i in range(2):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f'{i}.png')
    return tmp_path


@pytest.mark.parametrize(
    ('error', 'workers', 'text'),
    [
        ('KeyError', 0, "KeyError: 'masks\\n and boxes'"),
        ('KeyError', 1, "KeyError: 'masks\\n and boxes'"),
        ('UserError', 0, 'masks and boxes'),
    ],
)
def test_the_file_is_named(folder, error, workers, text):
    pipeline = [dict(type='Fails', error=error)]
    cfg = dict(type='ImageFolderDataset', data_root=folder, image_size=8, pipeline=pipeline)
    dataset = DATASETS.build(dict(cfg, _scope_='mmengine'))
    loader = DataLoader(dataset, num_workers=workers, collate_fn=pseudo_collate)
    with pytest.raises(UserError) as caught:
        list(loader)
    assert _message(caught.value) == f'error: {folder}/1.png: {text}'


def broken_collate(items: list) -> None:
    raise RuntimeError('sizes differ')


def test_other_errors_of_a_worker_keep_their_text(folder):
    loader = DataLoader([1], num_workers=1, collate_fn=broken_collate)
    with pytest.raises(RuntimeError) as caught:
        list(loader)
    assert _message(caught.value) == 'error: RuntimeError: sizes differ (--debug shows where)'
