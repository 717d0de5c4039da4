"""The images of a folder."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from sbzoo.errors import UserError


class ImageFiles(Dataset):
    """Every image in a folder and the folders in it, of any size and mode.

    An item is `dict(inputs=uint8 RGB [3, H, W], img_path=...)`.

    Args:
        root: The folder.

    Raises:
        UserError: There is no such folder, or it has fewer than two images.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f'{root}: no such folder')
        files = (path for path in self.root.rglob('*') if path.suffix.lower() in IMG_EXTENSIONS)
        self.paths = sorted(path for path in files if path.is_file())
        if len(self) < 2:
            found = f'only one image, {self.paths[0].name}' if self.paths else 'no image'
            kinds = ' '.join(IMG_EXTENSIONS)
            raise UserError(f'{root}: {found}; a distance takes two or more ({kinds})')

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        """Read an image.

        Raises:
            UserError: It is broken.
        """
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert('RGB'))
        except Exception as error:  # Pillow says in many ways that bytes make no image
            raise UserError(f'{path}: not an image that can be read ({error})') from error
        return dict(inputs=torch.from_numpy(pixels).permute(2, 0, 1), img_path=str(path))

    def digest(self) -> str:
        """The sha256 over the bytes of all files, which is sooner had than that of their pixels."""
        digest = sha256()
        for path in self.paths:
            digest.update(sha256(path.read_bytes()).digest())
        return digest.hexdigest()
