"""Any timm model as a backbone of MMDetection."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import WEIGHT_INITIALIZERS
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sbzoo.checkpoint.io import load
from sbzoo.detection.preprocessing import Preprocessing
from sbzoo.errors import UserError, did_you_mean
from sbzoo.norm.convert import convert_norm

STRIDE_OF_STAGE_1 = 4


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """Feature maps of a timm model.

    Its weights come from `init_cfg=dict(type='TimmPretrained')`, which `--scratch` and testing
    skip as they do for any other backbone.

    Args:
        model: Its name in timm, with or without a tag of weights: `resnet50_gn.a1h_in1k`.
        out_indices: Which of timm's feature maps are returned. Of most networks 0 has stride 2;
            of ConvNeXt and the like, 4.
        norm: A spec for `convert_norm`; None keeps the norms of timm.
        frozen_stages: As in MMDetection's `ResNet`: -1 freezes nothing, 0 the stem, 1 also the
            stage of stride 4, 2 that of stride 8 ...
        norm_eval: Whether batch norm uses its running statistics in training and keeps them.
        with_cp: Whether stages are recomputed in backward (activation checkpointing).
        init_cfg: The initialization.
        **kwargs: Further arguments of timm's `create_model` (`drop_path_rate` ...).

    Raises:
        UserError: timm has no model of this name, or the model no such stage.
    """

    def __init__(
        self,
        model: str,
        out_indices: Sequence[int],
        norm: str | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(init_cfg)
        if not timm.is_model(model):
            near = timm.list_models(f'*{model.partition(".")[0]}*')[:3]
            raise UserError(f'timm has no model {model!r}{did_you_mean(near)}')
        self.model, self.norm, self.norm_eval = model, norm, norm_eval
        self.options = dict(kwargs, out_indices=tuple(out_indices))
        self.net = self.create()
        if with_cp:
            self.net.set_grad_checkpointing(True)
        self.frozen = self._first_stages(frozen_stages)
        for module in self.frozen:
            module.requires_grad_(False)

    def create(self, **weights) -> nn.Module:
        """Another such network, with random weights unless `weights` say otherwise."""
        net = timm.create_model(self.model, features_only=True, **self.options, **weights)
        if self.norm:
            print_log(str(convert_norm(net, self.norm)), logger='current')
        return net

    @property
    def out_channels(self) -> list[int]:
        """Channels of the feature maps: `in_channels` of the neck."""
        return self.net.feature_info.channels()

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing that timm's weights were trained with."""
        cfg = get_pretrained_cfg(self.model)
        return Preprocessing.of_unit_range(cfg.mean, cfg.std)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """From images [N, 3, H, W] to feature maps [N, C, H / stride, W / stride]."""
        return tuple(self.net(x))

    def train(self, mode: bool = True) -> nn.Module:
        """Training mode, except for frozen stages and, with `norm_eval`, batch norms."""
        super().train(mode)
        norms = (m for m in self.net.modules() if isinstance(m, _BatchNorm))
        for module in (*self.frozen, *(norms if self.norm_eval else ())):
            module.eval()
        return self

    def _first_stages(self, stages: int) -> list[nn.Module]:
        """The modules of the stem and of the first `stages` stages, in forward order."""
        if stages < 0:
            return []
        modules = dict(self.net.named_modules())
        names = list(modules)
        stage = self._name_of_stage(max(stages, 1), modules)
        parts = [i for i, name in enumerate(names) if f'{name}.'.startswith(f'{stage}.')]
        end = parts[-1] + 1 if stages else parts[0]
        return [modules[n] for n in names[1:end] if not stage.startswith(f'{n}.')]

    def _name_of_stage(self, stage: int, modules: dict[str, nn.Module]) -> str:
        stride = STRIDE_OF_STAGE_1 * 2 ** (stage - 1)
        for level in self.net.feature_info.info:
            name = level['module']
            for candidate in (name, name.replace('.', '_')):  # timm flattens some models
                if level['reduction'] == stride and candidate in modules:
                    return candidate
        raise UserError(f'{self.model}: frozen_stages: no stage {stage}, of stride {stride}')


@WEIGHT_INITIALIZERS.register_module()
class TimmPretrained:
    """Loads weights into a `TimmBackbone`, before its norms are replaced.

    They must fit exactly, except for those of the classifier.

    Args:
        checkpoint: A reference to the weights of the whole network under the names of timm; None
            downloads those that timm publishes for the model and tag.
        sha256: Expected hash of the file in hexadecimal digits.

    Raises:
        UserError: The file is missing, has another hash, or is of another model.
    """

    def __init__(self, checkpoint: str | None = None, sha256: str | None = None) -> None:
        self.checkpoint, self.sha256 = checkpoint, sha256

    def __call__(self, backbone: TimmBackbone) -> None:
        """Load them; mmengine calls this."""
        weights = dict(pretrained=True)  # those that timm publishes
        if self.checkpoint:
            state_dict = load(self.checkpoint, self.sha256)['state_dict']
            _check_fits(self.checkpoint, state_dict, backbone)
            weights['pretrained_cfg_overlay'] = dict(state_dict=state_dict, custom_load=False)
        trained = backbone.create(**weights)
        backbone.net.load_state_dict(trained.state_dict(), strict=True)


def _check_fits(path: str, state_dict: dict[str, Tensor], backbone: TimmBackbone) -> None:
    options = {k: v for k, v in backbone.options.items() if k != 'out_indices'}
    with torch.device('meta'):
        whole = timm.create_model(backbone.model, **options).state_dict()
    classifier = get_pretrained_cfg(backbone.model).classifier or ()
    names = (classifier,) if isinstance(classifier, str) else classifier
    head = tuple(f'{name}.' for name in names)
    want, have = (
        {f'{k} {list(v.shape)}' for k, v in state.items() if not k.startswith(head)}
        for state in (whole, state_dict)
    )
    if want != have:
        differ = '\n  '.join([*sorted(want - have)[:3], 'in the file:', *sorted(have - want)[:3]])
        raise UserError(f'{path}: weights of another network than {backbone.model}\n  {differ}')
