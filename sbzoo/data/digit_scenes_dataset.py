"""Dataset classes of the embedded sets, for configs."""

from typing import ClassVar

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from sbzoo.data.embedded.digit_scenes import CLASSES, ensure_digits


@DATASETS.register_module()
class DigitScenes(CocoDataset):
    """The embedded digit scenes; built under `data_root` when that does not exist yet."""

    METAINFO: ClassVar = dict(classes=CLASSES)

    def __init__(self, *args, data_root: str, **kwargs) -> None:
        super().__init__(*args, data_root=str(ensure_digits(data_root)), **kwargs)
