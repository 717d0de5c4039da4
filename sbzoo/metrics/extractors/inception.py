"""The Inception network that FID is defined by, with the weights that pytorch-fid publishes."""

from __future__ import annotations

from pathlib import Path
from unittest import mock
from urllib.error import URLError

import pytorch_fid.inception as pytorch_fid
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.inception import BasicConv2d

from sbzoo import files
from sbzoo.checkpoint.io import load
from sbzoo.checkpoint.resolve import resolve
from sbzoo.errors import UserError
from sbzoo.metrics.extractors.base import Extractor

URL = pytorch_fid.FID_WEIGHTS_URL
SHA256_PREFIX = '6726825d'  # in the name of the file; more of its hash is not published
DIMS = tuple(pytorch_fid.InceptionV3.BLOCK_INDEX_BY_DIM)


class Inception(Extractor):
    """pytorch-fid's InceptionV3: the same features to rounding, sooner on a CPU.

    Args:
        weights: The file; None takes it from torch hub's cache, into which it is downloaded.
        dims: 64, 192, 768 or 2048: features of the first pooling to those of the last.

    Raises:
        UserError: Other dimensions; the file could not be downloaded, or is another one.
    """

    resize = 'bilinear to 299 x 299'

    def __init__(self, weights: str | Path | None = None, dims: int = 2048) -> None:
        super().__init__()
        self.d = inception_dims(str(dims))
        self.spec = 'inception' if dims == 2048 else f'inception:{dims}'
        state_dict, self.sha256 = load_state_dict(weights or cached_weights())
        self.net = fold_batch_norms(build(state_dict, dims)).to(memory_format=torch.channels_last)

    def prepare(self, image: Tensor) -> Tensor:
        """To [0, 1] and 299 x 299, in pytorch-fid's order."""
        return F.interpolate(image / 255, size=(299, 299), mode='bilinear', align_corners=False)

    def embed(self, x: Tensor) -> Tensor:
        """The mean over positions of the block's maps."""
        return self.net(x.contiguous(memory_format=torch.channels_last))[0].mean((2, 3))


def inception_dims(text: str) -> int:
    """The dimensions that a number in an extractor's name says.

    Raises:
        UserError: Inception has no such features.
    """
    if text not in map(str, DIMS):
        raise UserError(f'inception:{text}: Inception has {", ".join(map(str, DIMS))} dimensions')
    return int(text)


def build(state_dict: dict[str, Tensor], dims: int) -> nn.Module:
    """pytorch-fid's own module, in evaluation mode, with these weights instead of a download."""
    with mock.patch.object(pytorch_fid, 'load_state_dict_from_url', return_value=state_dict):
        block = pytorch_fid.InceptionV3.BLOCK_INDEX_BY_DIM[dims]
        return pytorch_fid.InceptionV3([block], resize_input=False).eval()


def fold_batch_norms(net: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution before it."""
    for module in net.modules():
        if isinstance(module, BasicConv2d):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
    return net


def load_state_dict(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """The published weights and the sha256 of their file, which is checked every time.

    Raises:
        UserError: There is no such file, or it is another one.
    """
    digest = files.sha256(resolve(path))
    if not digest.startswith(SHA256_PREFIX):
        raise UserError(
            f'{path}: not the Inception of 2015-12-05 (sha256 {digest[:8]}..., not '
            f'{SHA256_PREFIX}...); it is at {URL}'
        )
    return load(path)['state_dict'], digest


def cached_weights() -> Path:
    """The file in torch hub's cache, downloaded if it is not there.

    Raises:
        UserError: It cannot be downloaded; the message says where it is and where to put it.
    """
    path = Path(torch.hub.get_dir()) / 'checkpoints' / URL.rsplit('/', 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:  # to a temporary name, which becomes this one when its hash is right
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256_PREFIX)
        except (URLError, OSError, RuntimeError) as error:
            reason = getattr(error, 'reason', error)
            raise UserError(
                f'the weights of Inception could not be downloaded ({reason}); download '
                f'{URL} and put it to {path}, or give it by --weights'
            ) from error
    return path
