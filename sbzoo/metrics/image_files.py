"""The images of a folder."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL
import torch
from torch.utils.data import Dataset

from sbzoo.errors import UserError
from sbzoo.images import find_images, read_rgb


class ImageFiles(Dataset):
    """Every image in a folder and the folders in it, of any size and mode, as training reads them.

    An item is `dict(inputs=uint8 RGB [3, H, W], img_path=...)`.

    Args:
        root: The folder.

    Raises:
        UserError: There is no such folder, or it has fewer than two images.
    """

    def __init__(self, root: str | Path) -> None:
        self.paths = find_images(Path(root))
        if len(self) < 2:
            name = self.paths[0].name
            raise UserError(f'{root}: only one image, {name}; a distance takes two or more')

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        """Read an image.

        Raises:
            UserError: It is broken.
        """
        path = self.paths[index]
        pixels = np.array(read_rgb(path))
        return dict(inputs=torch.from_numpy(pixels).permute(2, 0, 1), img_path=str(path))

    def digest(self) -> str:
        """The sha256 over the bytes of all files, which is sooner had than that of their pixels."""
        digest = sha256(f'to_rgb, Pillow {PIL.__version__}'.encode())  # the reader of the bytes
        for path in self.paths:
            digest.update(sha256(path.read_bytes()).digest())
        return digest.hexdigest()
