"""`--data`: another folder in the place of a config's data."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict

from sbzoo.data.coco import CocoFolder
from sbzoo.engine.configs import typed_dicts
from sbzoo.errors import UserError


def set_data(cfg: Config, folder: CocoFolder) -> None:
    """Train and validate on a COCO-format folder, with the config's own pipelines.

    Raises:
        UserError: The model predicts masks and the annotations have none.
    """
    predicts_masks = any('mask' in part['type'].lower() for part in typed_dicts(cfg.model))
    if predicts_masks and not (folder.train.has_masks and folder.val.has_masks):
        raise UserError(f'{folder.root}: the model predicts masks, the annotations have none')
    for name, split in (('train', folder.train), ('val', folder.val), ('test', folder.val)):
        dataset = _leaf(cfg[f'{name}_dataloader'].dataset)
        kept = {k: v for k, v in dataset.items() if k in ('pipeline', 'test_mode', 'indices')}
        dataset.clear()
        dataset.update(
            type='CocoDataset',
            data_root='',
            ann_file=str(split.ann_file),
            data_prefix=dict(img=f'{split.image_dir}/'),
            metainfo=dict(classes=folder.classes),
            **kept,
        )
        if name != 'train':
            metric = ['bbox', 'segm'] if predicts_masks else ['bbox']
            cfg[f'{name}_evaluator'] = dict(
                type='CocoAP', ann_file=str(split.ann_file), metric=metric
            )
    for part in typed_dicts(cfg.model):
        if 'num_classes' in part:
            part['num_classes'] = len(folder.classes)


def _leaf(dataset: ConfigDict) -> ConfigDict:
    """The innermost dataset of wrappers such as RepeatDataset."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset
