"""Errors in reading and transforming an item of any data set of mmengine name its file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.dataset import BaseDataset

from sbzoo.errors import UserError


def _naming(prepare: Callable[[BaseDataset, int], Any]) -> Callable[[BaseDataset, int], Any]:
    def prepare_data(self: BaseDataset, idx: int) -> Any:
        """As mmengine's; an error tells the picture, also to who sees its text alone.

        Raises:
            UserError: The pipeline fails.
        """
        try:
            return prepare(self, idx)
        except Exception as error:
            name = BaseDataset.get_data_info(self, idx).get('img_path', f'item {idx}')
            kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
            raise UserError(f'{name}: {kind}{" ".join(str(error).split())}') from error

    return prepare_data


BaseDataset.prepare_data = _naming(BaseDataset.prepare_data)
