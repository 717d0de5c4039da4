"""`--data`: another folder in the place of a config's data."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from sbzoo.data.coco import CocoFolder
from sbzoo.data.datasets import CIFAR10Dataset, PairedFolders, UnpairedFolders
from sbzoo.data.detection_folder import read_detection_folder
from sbzoo.data.image_folder import read_image_folder
from sbzoo.data.paired_folders import Domains, read_domains, read_pairs
from sbzoo.engine.options.parts import leaf, typed_dicts
from sbzoo.errors import UserError
from sbzoo.metrics.coco_ap import DETECTIONS


def set_data(
    cfg: Config, root: str, drop_empty_boxes: bool = False, allow_leaks: bool = False
) -> None:
    """Train and evaluate on another folder, of the kind that the config's data set is of.

    What is found there is logged. The options are those of `read_detection_folder`.

    Raises:
        UserError: The folder is not of this kind, or something in it is malformed.
    """
    kind = DATASETS.get(leaf(cfg.train_dataloader.dataset).type)
    if kind is None:  # MMDetection's are in a registry of their own
        set_coco(cfg, read_detection_folder(root, drop_empty_boxes, allow_leaks))
    elif issubclass(kind, CIFAR10Dataset):
        set_cifar10(cfg, root)
    elif issubclass(kind, UnpairedFolders):
        set_domains(cfg, root)
    elif issubclass(kind, PairedFolders):
        set_pairs(cfg, root)
    else:
        set_images(cfg, root)


def set_images(cfg: Config, root: str) -> None:
    """Generate images like those of a folder; of a conditional model, sub-folders are classes."""
    conditional = bool(cfg.model.generator.get('num_classes'))
    folder = read_image_folder(root, labels=conditional)
    if folder.num_images < 2:
        raise UserError(f'{root}: one image; a distribution takes two or more')
    classes = f', {len(folder.classes)} classes' if conditional else ''
    _log(f'{root}: {folder.num_images:,} images{classes}')
    dataset = dict(
        type='ImageFolderDataset',
        data_root=str(root),
        image_size=cfg.model.generator.image_size,
        labels=conditional,
    )
    _replace(leaf(cfg.train_dataloader.dataset), dataset)
    if conditional:
        parts = cfg.model.generator, cfg.model.discriminator, *_evaluated(cfg)
        for part in parts:
            part.num_classes = len(folder.classes)
    for name in ('val', 'test'):
        evaluator = cfg[f'{name}_evaluator']
        evaluator.real = dict(dataset)
        evaluator.pop('held_out', None)


def set_cifar10(cfg: Config, root: str) -> None:
    """Train on CIFAR-10's own files, and compare with them, wherever they are."""
    evaluators = (cfg[f'{name}_evaluator'].real for name in ('val', 'test'))
    for dataset in (leaf(cfg.train_dataloader.dataset), *evaluators):
        dataset.data_root = str(root)


def set_domains(cfg: Config, root: str) -> None:
    """Translate between folders trainA and trainB, tested on testA and testB if there are such.

    Raises:
        UserError: One of these is missing or holds no images.
    """
    _log_domains(root, read_domains(root))
    names = 'testA', 'testB'
    if any((Path(root) / name).is_dir() for name in names):
        _log_domains(root, read_domains(root, *names))
    else:
        names = 'trainA', 'trainB'
    _set_translation(cfg, 'UnpairedFolders', root, root, source=names[0], target=names[1])
    for name, tested in zip(('val', 'test'), _evaluated(cfg), strict=True):
        target = dict(data_root=str(Path(root) / names[1]), image_size=tested.image_size)
        cfg[f'{name}_evaluator'].real = dict(type='ImageFolderDataset', **target)


def set_pairs(cfg: Config, root: str) -> None:
    """Translate between pairs, of the folders train and val or test if there are such.

    Raises:
        UserError: The folder is not of pairs, or it has a folder to test with and none to train on.
    """
    splits = [p for name in ('train', 'val', 'test') if (p := Path(root) / name).is_dir()]
    train, test = (splits[0], splits[-1]) if splits else (root, root)
    if splits and train.name != 'train':
        raise UserError(f'{root}: a folder {train.name}, and no folder train')
    for split in dict.fromkeys((train, test)):
        _log(f'{split}: {read_pairs(split).source.num_images:,} pairs')
    _set_translation(cfg, 'PairedFolders', train, test)


def _log_domains(root: str, domains: Domains) -> None:
    both = (f'{f.num_images:,} images in {f.root.name}' for f in (domains.source, domains.target))
    _log(f'{root}: {", ".join(both)}')


def _log(counts: str) -> None:
    print_log(f'data: {counts}', logger='current')


def _set_translation(
    cfg: Config, kind: str, train: str | Path, test: str | Path, **names: str
) -> None:
    trained = leaf(cfg.train_dataloader.dataset)
    _replace(trained, dict(type=kind, data_root=str(train), image_size=trained.image_size))
    for tested in _evaluated(cfg):
        size = tested.image_size
        _replace(tested, dict(type=kind, data_root=str(test), image_size=size, **names))


def _evaluated(cfg: Config) -> list[ConfigDict]:
    return [leaf(cfg[f'{name}_dataloader'].dataset) for name in ('val', 'test')]


def _replace(dataset: ConfigDict, by: dict) -> None:
    """Another data set, in the same pipeline."""
    names = 'pipeline', 'test_mode', 'indices', 'source', 'target', 'filter_cfg'
    kept = {k: v for k, v in dataset.items() if k in names}
    dataset.clear()
    dataset.update({**kept, **by})


def set_coco(cfg: Config, folder: CocoFolder) -> None:
    """Train and validate on a folder for detectors, with the config's own pipelines.

    Raises:
        UserError: The model learns masks and not all annotations have them in a form that it reads,
            or the config leaves out images as small as some of these.
    """
    _check_masks(cfg, folder)
    _check_sides(cfg, folder)
    if folder.kind != 'COCO':
        _log(f'{folder.root}: {folder.kind} format, converted to {folder.train.ann_file.parent}')
    for split in (folder.train, folder.val):
        _log(split.counts)
    metric = _coco_metric(cfg.val_evaluator)
    for name, split in (('train', folder.train), ('val', folder.val), ('test', folder.val)):
        coco = dict(
            type='CocoDataset',
            data_root='',
            ann_file=str(split.ann_file),
            data_prefix=dict(img=f'{split.image_dir}/'),
            metainfo=dict(classes=folder.classes),
        )
        loader = cfg[f'{name}_dataloader']
        loader.dataset = _one_of_several(loader.dataset)
        _replace(leaf(loader.dataset), coco)
        if name != 'train':
            evaluator = dict(type='CocoAP', ann_file=str(split.ann_file), metric=metric)
            cfg[f'{name}_evaluator'] = evaluator
    for part in typed_dicts(cfg.model):
        if 'num_classes' in part:
            part['num_classes'] = len(folder.classes)


def _check_masks(cfg: Config, folder: CocoFolder) -> None:
    readers = [p for p in typed_dicts(cfg.train_dataloader) if p.get('with_mask')]
    unmasked = folder.train.unmasked or folder.val.unmasked
    if readers and unmasked:
        raise UserError(
            f'{folder.root}: the model predicts masks, the annotations have none or not all of '
            f'them: the first without is {unmasked}'
        )
    if folder.train.has_rle and any(not p.get('poly2mask', True) for p in readers):
        raise UserError(
            f'{folder.root}: some segmentations are run lengths, and this config reads polygons '
            'alone (poly2mask=False)'
        )


def _check_sides(cfg: Config, folder: CocoFolder) -> None:
    least = (leaf(cfg.train_dataloader.dataset).get('filter_cfg') or {}).get('min_size', 0)
    if folder.train.shortest_side < least:
        raise UserError(
            f'{folder.root}: the config leaves out images with a side below {least} pixels, and '
            f'one has {folder.train.shortest_side}; filter_cfg=dict(min_size=0) keeps them'
        )


def _coco_metric(evaluator: dict | list) -> list[str]:
    """What of a config's evaluation COCO has: AP of boxes, of masks, or of both."""
    wanted = evaluator.get('metric') if isinstance(evaluator, dict) else None
    wanted = [wanted] if isinstance(wanted, str) else wanted or []
    return [metric for metric in wanted if metric in DETECTIONS] or ['bbox']


def _one_of_several(dataset: ConfigDict) -> ConfigDict:
    """A data set in its wrappers, without those that put several together."""
    if 'datasets' in dataset:
        return _one_of_several(dataset.datasets[0])
    if 'dataset' in dataset:
        dataset.dataset = _one_of_several(dataset.dataset)
    return dataset
