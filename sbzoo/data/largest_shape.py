"""The largest batch that a training pipeline can make, worked out without running it.

A size is height and width in pixels. Transforms that are not in `SIZES` keep it, or make less of
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil, inf, isinf

Size = tuple[float, float]
ANY = (inf, inf)  # the size of a picture that nobody has seen
APART = 'AspectRatioBatchSampler', 'GroupMultiSourceSampler'  # keep portrait and landscape apart


def largest_batch(
    loader: dict, preprocessor: dict, pictures: Iterable[Size], batch: int
) -> tuple[int, int]:
    """Height and width of the largest batch of a data loader, padded as the model wants it.

    Pictures of a batch are padded to the highest and to the widest of them. Where a pipeline has
    branches, as for semi-supervised training, a batch is of one of them.

    Args:
        loader: Its config.
        preprocessor: The config of the model's data preprocessor.
        pictures: The sizes of the data set's pictures; `ANY` if not known.
        batch: How many pictures.

    Returns:
        Infinite sides if they are those of the pictures, which are not known.
    """
    sizes = _of_dataset(loader['dataset'], set(pictures))
    canvases = map(_around, _groups(loader, sizes, batch))
    preprocessor = preprocessor.get('data_preprocessor', preprocessor)  # of all branches
    divisor = preprocessor.get('pad_size_divisor', 1)
    padded = {tuple(_up(side, divisor) for side in size) for size in canvases}
    for augment in preprocessor.get('batch_augments') or []:
        padded = _after(augment, padded)
    return max(padded, key=lambda size: (size[0] * size[1], size[1]))


def _groups(loader: dict, sizes: set[Size], batch: int) -> list[set[Size]]:
    """The pictures that may share a batch."""
    if batch == 1:
        return [{size} for size in sizes]
    samplers = {(loader.get(key) or {}).get('type') for key in ('sampler', 'batch_sampler')}
    if not samplers.intersection(APART):
        return [sizes]
    portrait = {size for size in sizes if size[1] < size[0]}
    return [group for group in (portrait, sizes - portrait) if group]


def _around(sizes: set[Size]) -> Size:
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


def _up(side: float, divisor: int) -> float:
    return side if isinf(side) else ceil(side / divisor) * divisor


def _of_dataset(dataset: dict, pictures: set[Size]) -> set[Size]:
    """Through the pipeline of the innermost data set first."""
    inner = dataset.get('datasets') or [d for d in [dataset.get('dataset')] if d]
    if inner:
        pictures = set().union(*(_of_dataset(part, pictures) for part in inner))
    return _sequence(dataset.get('pipeline') or [], pictures)


def _sequence(transforms: Sequence[dict], sizes: set[Size]) -> set[Size]:
    for transform in transforms:
        sizes = _after(transform, sizes)
    return sizes


def _after(transform: dict, sizes: set[Size]) -> set[Size]:
    change = SIZES.get(transform['type'])
    return set().union(*(change(transform, size) for size in sizes)) if change else sizes


def _scaled(size: Size, scale: Sequence[float]) -> set[Size]:
    """As large as fits into `scale`, whichever of its sides is the longer one."""
    short, long = sorted(scale)
    if isinf(size[0]):
        return {(short, long), (long, short)}
    factor = min(long / max(size), short / min(size))
    return {tuple(int(side * factor + 0.5) for side in size)}


def _pair(value: float | Sequence[float]) -> tuple[float, float]:
    return tuple(value) if isinstance(value, Sequence) else (value, value)


def _resize(transform: dict, size: Size) -> set[Size]:
    if transform.get('scale') is None:
        width, height = _pair(transform['scale_factor'])
        return {(size[0] * height, size[1] * width)}
    scale = _pair(transform['scale'])
    return _scaled(size, scale) if transform.get('keep_ratio') else {scale[::-1]}


def _random_resize(transform: dict, size: Size) -> set[Size]:
    """At the largest scale, which is between two or that of a ratio."""
    scale = transform['scale']
    if isinstance(scale[0], Sequence):
        largest = tuple(map(max, zip(*scale, strict=True)))
    else:
        largest = tuple(int(side * transform['ratio_range'][1]) for side in scale)
    return _resize({**transform, 'scale': largest}, size)


def _choice_resize(transform: dict, size: Size) -> set[Size]:
    kind = transform.get('resize_type', 'Resize')
    choices = [{**transform, 'type': kind, 'scale': scale} for scale in transform['scales']]
    return set().union(*(_after(choice, {size}) for choice in choices))


def _shortest_edge(transform: dict, size: Size) -> set[Size]:
    return _scaled(size, (min(_pair(transform['scale'])), transform.get('max_size') or inf))


def _random_crop(transform: dict, size: Size) -> set[Size]:
    crop, kind = transform['crop_size'][::-1], transform.get('crop_type', 'absolute')
    if kind == 'relative':
        return {tuple(int(side * part + 0.5) for side, part in zip(size, crop, strict=True))}
    if kind == 'absolute_range':
        crop = (max(crop), max(crop))
    return {size} if kind == 'relative_range' else {tuple(map(min, size, crop))}


def _pad(transform: dict, size: Size) -> set[Size]:
    height, width = size
    if transform.get('pad_to_square'):
        height = width = max(size)
    if transform.get('size'):  # width first, as all of mmcv's
        height, width = max(height, transform['size'][1]), max(width, transform['size'][0])
    divisor = transform.get('size_divisor') or 1
    return {(_up(height, divisor), _up(width, divisor))}


def _mosaic(transform: dict, size: Size) -> set[Size]:
    """Four pictures, and without luck the one."""
    width, height = transform.get('img_scale', (640, 640))
    return {(2 * height, 2 * width)} | ({size} if transform.get('prob', 1) < 1 else set())


def _affine(transform: dict, size: Size) -> set[Size]:
    width, height = transform.get('border', (0, 0))
    return {(size[0] + 2 * height, size[1] + 2 * width)}


def _expand(transform: dict, size: Size) -> set[Size]:
    largest = transform.get('ratio_range', (1, 4))[1]
    return {tuple(side if isinf(side) else int(side * largest) for side in size)}


def _center_crop_pad(transform: dict, size: Size) -> set[Size]:
    """Around a centre, padded where the picture ends."""
    largest = max(transform.get('ratios', (0.9, 1.0, 1.1)))
    return {tuple(int(side * largest) for side in reversed(transform['crop_size']))}


def _choice(transform: dict, size: Size) -> set[Size]:
    return _any_of(transform['transforms'], size)


def _branches(transform: dict, size: Size) -> set[Size]:
    names = transform.keys() - {'type', 'branch_field'}
    return _any_of([transform[name] for name in names], size)


def _any_of(branches: Iterable[dict | Sequence[dict]], size: Size) -> set[Size]:
    """Of pipelines, which may be single transforms."""
    pipelines = [part if isinstance(part, Sequence) else [part] for part in branches]
    return set().union(*(_sequence(pipeline, {size}) for pipeline in pipelines))


def _all_of(transform: dict, size: Size) -> set[Size]:
    return _sequence(transform['transforms'], {size})


def _sync_resize(augment: dict, size: Size) -> set[Size]:
    """The batch at the largest scale of the range, and before the first scale is drawn."""
    divisor = augment.get('size_divisor', 32)
    steps = round(augment['random_size_range'][1] / divisor)
    width = size[1] if isinf(size[1]) else int(size[1] / size[0] * steps) * divisor
    return {size, (steps * divisor, width)}


def _batch_resize(augment: dict, size: Size) -> set[Size]:
    divisor = augment.get('pad_size_divisor', 1)
    return {tuple(_up(s, divisor) for s in scaled) for scaled in _scaled(size, augment['scale'])}


SIZES: dict[str, Callable[[dict, Size], set[Size]]] = dict(
    Resize=_resize,
    FixScaleResize=_resize,
    FixShapeResize=lambda transform, _: {(transform['height'], transform['width'])},
    RandomResize=_random_resize,
    RandomChoiceResize=_choice_resize,
    ResizeShortestEdge=_shortest_edge,
    RandomCrop=_random_crop,
    RandomCenterCropPad=_center_crop_pad,
    RandomSquare=lambda transform, _: {(transform['size'], transform['size'])},
    Pad=_pad,
    Expand=_expand,
    Mosaic=_mosaic,
    CachedMosaic=_mosaic,
    RandomAffine=_affine,
    RandomChoice=_choice,
    RandomApply=lambda transform, size: {size} | _sequence(transform['transforms'], {size}),
    RandomOrder=_all_of,
    TransformBroadcaster=_all_of,
    ProposalBroadcaster=_all_of,
    MultiBranch=_branches,
    BatchSyncRandomResize=_sync_resize,
    BatchFixedSizePad=lambda augment, size: {tuple(map(max, size, augment['size']))},
    BatchResize=_batch_resize,
)
