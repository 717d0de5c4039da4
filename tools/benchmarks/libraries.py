"""Models of other libraries, small, with random weights, and an input for each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

SIDE = 96
DETECTION = torch.tensor([[10.0, 10, 60, 70], [30, 20, 90, 90]])
TORCHVISION = (
    *('alexnet', 'convnext_tiny', 'densenet121', 'efficientnet_b0', 'efficientnet_v2_s'),
    *('googlenet', 'inception_v3', 'maxvit_t', 'mnasnet0_5', 'mobilenet_v2'),
    *('mobilenet_v3_small', 'regnet_x_400mf', 'regnet_y_400mf', 'resnet18', 'resnext50_32x4d'),
    *('shufflenet_v2_x0_5', 'squeezenet1_1', 'swin_t', 'swin_v2_t', 'vgg11', 'vgg11_bn'),
    *('vit_b_16', 'quantized_googlenet', 'quantized_mobilenet_v2', 'quantized_resnet18'),
    *('deeplabv3_mobilenet_v3_large', 'deeplabv3_resnet50', 'fcn_resnet50'),
    *('lraspp_mobilenet_v3_large', 'fasterrcnn_resnet50_fpn', 'fasterrcnn_resnet50_fpn_v2'),
    *('fasterrcnn_mobilenet_v3_large_320_fpn', 'fcos_resnet50_fpn', 'keypointrcnn_resnet50_fpn'),
    *('maskrcnn_resnet50_fpn', 'maskrcnn_resnet50_fpn_v2', 'retinanet_resnet50_fpn'),
    *('retinanet_resnet50_fpn_v2', 'ssd300_vgg16', 'ssdlite320_mobilenet_v3_large'),
    *('mc3_18', 'mvit_v2_s', 'r2plus1d_18', 'r3d_18', 's3d', 'swin3d_t'),
    *('raft_large', 'raft_small'),
)
SEGMENTATION = (  # decoder and encoder
    *('Unet resnet18', 'UnetPlusPlus resnet18', 'MAnet resnet18', 'Linknet resnet18'),
    *('FPN resnet18', 'PSPNet resnet18', 'DeepLabV3 resnet18', 'DeepLabV3Plus resnet18'),
    *('PAN resnet18', 'UPerNet resnet18', 'Segformer resnet18', 'DPT tu-vit_tiny_patch16_224'),
    *('Unet dpn68', 'Unet vgg11', 'Unet vgg11_bn', 'Unet se_resnext50_32x4d'),
    *('Unet densenet121', 'Unet inceptionresnetv2', 'Unet inceptionv4', 'Unet efficientnet-b0'),
    *('Unet mobilenet_v2', 'Unet xception', 'Unet timm-efficientnet-b0'),
    *('Unet timm-tf_efficientnet_lite0', 'Unet timm-skresnet18', 'Unet mit_b0'),
    *('Unet mobileone_s0', 'Unet tu-resnest14d'),
)
SMALL = (  # in the names of timm's models
    *('_test_', 'atto', 'femto', 'pico', 'nano', 'micro', 'xxs', 'xxt', 'tiny', 'mini', 'lite0'),
    *('_xs_', '_xt_', 'small', 'b0', '_0_', '18', '_t0', '_s0', '_n_', '_t_', '_s_', '002'),
    *('1_0', '_m1', '121', '26', '_m_', '_b_'),
)
OTHER_NORMS = 'resnetv2_50d_gn', 'resnetv2_50d_frn', 'resnetv2_50d_evos'
LAYERS = 'encoder_layers', 'decoder_layers', 'num_hidden_layers'  # of configs of transformers
SPATIAL = dict(spatial_dims=3, in_channels=1, out_channels=2)
NETWORKS = {  # of MONAI: class and arguments, behind its name what tells it from others
    'UNet 2-D instance': dict(SPATIAL, spatial_dims=2, channels=(8, 16, 32), strides=(2, 2)),
    'UNet instance': dict(SPATIAL, channels=(8, 16, 32), strides=(2, 2), num_res_units=2),
    'UNet batch': dict(SPATIAL, channels=(8, 16, 32), strides=(2, 2), norm='batch'),
    'UNet group': dict(
        SPATIAL, channels=(8, 16, 32), strides=(2, 2), norm=('group', dict(num_groups=4))
    ),
    'AttentionUnet': dict(SPATIAL, channels=(8, 16, 32), strides=(2, 2)),
    'BasicUNet': dict(SPATIAL, features=(8, 8, 16, 32, 64, 8)),
    'BasicUNetPlusPlus': dict(SPATIAL, features=(8, 8, 16, 32, 64, 8)),
    'DynUNet': dict(SPATIAL, kernel_size=(3, 3, 3), strides=(1, 2, 2), upsample_kernel_size=(2, 2)),
    'DynUNet deep supervision': dict(
        SPATIAL,
        kernel_size=(3, 3, 3, 3),
        strides=(1, 2, 2, 2),
        upsample_kernel_size=(2, 2, 2),
        deep_supervision=True,
        norm_name='batch',
    ),
    'SegResNet': dict(SPATIAL, init_filters=8),
    'SegResNet 2-D batch': dict(SPATIAL, spatial_dims=2, init_filters=8, norm='batch'),
    'SegResNetVAE': dict(
        in_channels=1, out_channels=2, spatial_dims=3, input_image_size=(32,) * 3, init_filters=8
    ),
    'SegResNetDS': dict(SPATIAL, init_filters=8, blocks_down=(1, 1, 1)),
    'SegResNetDS2': dict(SPATIAL, init_filters=8, blocks_down=(1, 1, 1)),
    'VNet': dict(SPATIAL),
    'HighResNet': dict(SPATIAL),
    'FlexibleUNet resnet18': dict(
        in_channels=1, out_channels=2, backbone='resnet18', spatial_dims=3
    ),
    'FlexibleUNet 2-D efficientnet-b0': dict(
        in_channels=1, out_channels=2, backbone='efficientnet-b0', spatial_dims=2
    ),
    'DAF3D': dict(in_channels=1, out_channels=2),
    'DenseNet121': dict(SPATIAL),
    'EfficientNetBN': dict(
        model_name='efficientnet-b0', pretrained=False, spatial_dims=3, in_channels=1
    ),
    'resnet10': dict(pretrained=False, spatial_dims=3, n_input_channels=1),
    'resnet50 2-D group': dict(
        pretrained=False,
        spatial_dims=2,
        n_input_channels=1,
        norm=('group', dict(num_groups=8)),
    ),
    'SEResNet50': dict(spatial_dims=3, in_channels=1),
    'HoVerNet 2-D': dict(in_channels=1, out_classes=2),
    'MedNeXt': dict(spatial_dims=3, in_channels=1, out_channels=2, init_filters=8),
    'Quicknat 2-D': dict(num_classes=2, num_channels=1, num_filters=8),
    'RegUNet': dict(spatial_dims=3, in_channels=1, num_channel_initial=8, depth=2, out_channels=2),
    'GlobalNet': dict(
        image_size=(32,) * 3, spatial_dims=3, in_channels=1, num_channel_initial=8, depth=2
    ),
    'LocalNet': dict(
        spatial_dims=3,
        in_channels=1,
        num_channel_initial=8,
        extract_levels=(0, 1, 2),
        out_channels=2,
    ),
    'VoxelMorphUNet': dict(
        spatial_dims=3,
        in_channels=2,
        unet_out_channels=8,
        channels=(8, 8, 8, 8),
        final_conv_channels=(8, 8),
    ),
    'SwinUNETR': dict(SPATIAL, feature_size=12, depths=(1, 1, 1, 1)),
    'UNETR': dict(SPATIAL, img_size=32, hidden_size=48, mlp_dim=48, num_heads=4),
    'AutoEncoder': dict(SPATIAL, channels=(8, 16), strides=(2, 2)),
    'VarAutoEncoder': dict(
        spatial_dims=3,
        out_channels=2,
        in_shape=(1, 32, 32, 32),
        latent_size=4,
        channels=(8, 16),
        strides=(2, 2),
    ),
    'Classifier 2-D': dict(in_shape=(1, SIDE, SIDE), classes=2, channels=(8, 16), strides=(2, 2)),
    'PatchDiscriminator 2-D': dict(spatial_dims=2, channels=8, in_channels=1),
    'AutoencoderKL': dict(
        SPATIAL,
        channels=(8, 8),
        num_res_blocks=1,
        attention_levels=(False, False),
        norm_num_groups=4,
    ),
}
SIDES = {'HoVerNet 2-D': 256, 'SwinUNETR': 64}


class Case(NamedTuple):
    """A model and what it is called with, in training and in evaluation."""

    model: nn.Module
    args: tuple


class Library(NamedTuple):
    """A package, the names of its models, and how one of them is built."""

    package: str
    names: Callable[[], Sequence[str]]
    build: Callable[[str], Case]


def _pictures(channels: int = 3, side: int = SIDE, dims: int = 2) -> Tensor:
    return torch.rand(1, channels, *(side,) * dims)


def _timm_names() -> list[str]:
    import timm

    modules = [timm.list_models(module=module) for module in timm.list_modules()]
    return [*(min(names, key=_size) for names in modules if names), *OTHER_NORMS]


def _size(name: str) -> tuple[int, int, str]:
    """What its name says of how large a model is: building all 1,371 takes minutes."""
    said = next((i for i, word in enumerate(SMALL) if word in f'_{name}_'), len(SMALL))
    return said, len(name), name


def _timm(name: str) -> Case:
    import timm

    model = timm.create_model(name)
    settings = model.pretrained_cfg
    channels, *sides = settings['input_size']
    least = settings.get('min_input_size') or (channels, SIDE, SIDE)
    return Case(
        model, (_pictures(channels, sides[0] if settings.get('fixed_input_size') else least[1]),)
    )


def _untrained(name: str) -> nn.Module:
    from torchvision import models

    keys = inspect.signature(models.get_model_builder(name)).parameters
    settings = dict(weights_backbone=None) if 'weights_backbone' in keys else {}
    if 'rcnn' in name or name.startswith(('retinanet', 'fcos')):
        settings |= dict(min_size=SIDE, max_size=SIDE)  # else pictures are resized to 800
    return models.get_model(name, weights=None, **settings)


def _torchvision(name: str) -> Case:
    from torchvision import models

    model, kind = _untrained(name), models.get_model_builder(name).__module__
    if '.detection' in kind:
        target = dict(boxes=DETECTION, labels=torch.tensor([1, 1]))
        target['masks'] = torch.ones(2, SIDE, SIDE, dtype=torch.uint8)
        target['keypoints'] = torch.full((2, 17, 3), 50.0)
        return Case(model, (list(_pictures()), [target]))
    if '.video' in kind:
        side = 224 if name in ('mvit_v2_s', 's3d') else 64
        return Case(model, (torch.rand(1, 3, 16, side, side),))
    if '.optical_flow' in kind:
        return Case(model, (_pictures(side=128), _pictures(side=128)))
    return Case(model, (_pictures(side=_side(model, name)),))


def _side(model: nn.Module, name: str) -> int:
    if 'inception' in name:  # its auxiliary classifier pools 17 x 17 maps
        return 299
    return getattr(model, 'image_size', 224 if name == 'maxvit_t' else SIDE)


def _transformers_names() -> list[str]:
    from transformers.models.auto import modeling_auto as auto

    return list(auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)


def _transformers(name: str) -> Case:
    from transformers import CONFIG_MAPPING, AutoModelForObjectDetection

    config = CONFIG_MAPPING[name]()
    for key in LAYERS:
        if isinstance(layers := getattr(config, key, None), int):
            setattr(config, key, min(layers, 2))
    return Case(AutoModelForObjectDetection.from_config(config), (_pictures(side=128),))


def _smp(name: str) -> Case:
    import segmentation_models_pytorch as smp

    decoder, encoder = name.split()
    side = dict(DPT=224, PAN=256).get(decoder, SIDE)
    return Case(getattr(smp, decoder)(encoder, encoder_weights=None), (_pictures(side=side),))


def _monai(name: str) -> Case:
    from monai.networks import nets

    settings = NETWORKS[name]
    dims = 2 if '2-D' in name else 3
    side = SIDES.get(name, {2: SIDE, 3: 32}[dims])
    channels = settings.get('in_channels', 1)
    return Case(getattr(nets, name.split()[0])(**settings), (_pictures(channels, side, dims),))


def _ultralytics_names() -> list[str]:
    import ultralytics

    return sorted(p.name for p in Path(ultralytics.__file__).parent.glob('cfg/models/**/*.yaml'))


def _ultralytics(name: str) -> Case:
    from ultralytics import RTDETR, YOLO

    kind = RTDETR if 'rtdetr' in name else YOLO
    return Case(kind(name).model, (_pictures(side=128),))


LIBRARIES = {
    'timm': Library('timm', _timm_names, _timm),
    'torchvision': Library('torchvision', lambda: TORCHVISION, _torchvision),
    'transformers': Library('transformers', _transformers_names, _transformers),
    'segmentation_models_pytorch': Library(
        'segmentation_models_pytorch', lambda: SEGMENTATION, _smp
    ),
    'MONAI': Library('monai', lambda: list(NETWORKS), _monai),
    'ultralytics': Library('ultralytics', _ultralytics_names, _ultralytics),
}
