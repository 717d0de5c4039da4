"""A picture is to a detector what it is by itself, whatever shares its batch or surrounds it."""

import copy

import pytest
import torch
from mmcv import imread
from mmdet.datasets.transforms import PackDetInputs
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from sbzoo.detection.padding import FRACTION, layers_of_pictures
from sbzoo.engine.options.config import load_config
from sbzoo.norm import Norm
from sbzoo.zoo.load import load

SMALL = 64, 90
OF_SAMPLES = 'gn4', 'in', 'ln', 'rms', 'frn', 'evos0'
OTHERS = 'bn', 'hybrid', 'sn', 'ibn', 'brn', 'mabn', 'ghost2', 'bgn4'


def build(spec: str) -> nn.Module:
    """A small RetinaNet with a norm behind every convolution but the last ones."""
    norm = dict(type='Norm', spec=spec)
    cfg = load_config('configs/retinanet_gn_b2.py').model
    for part in (cfg.backbone, cfg.neck, cfg.bbox_head):
        part.norm_cfg = norm
    return MODELS.build(cfg)


def batch(pictures: list[Tensor]) -> dict:
    samples = []
    for picture in pictures:
        shape = tuple(picture.shape[1:])
        sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1, 1)))
        boxes = torch.tensor([[4.0, 6.0, 30.0, 28.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([3]))
        samples.append(sample)
    return dict(inputs=pictures, data_samples=samples)


def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        for size in (SMALL, (150, 120))
    )


def features(model: nn.Module, data: dict) -> list[Tensor]:
    """The maps of the neck and of the head at three levels, of the first picture alone."""
    seen = []
    prepared = model.data_preprocessor(copy.deepcopy(data), False)
    with model.neck.register_forward_hook(lambda _, args, maps: seen.extend(maps)):
        scores, boxes = model(prepared['inputs'].double(), prepared['data_samples'])
    return [
        m[:1, :, : -(-SMALL[0] // stride), : -(-SMALL[1] // stride)]
        for m, stride in zip([*seen, *scores, *boxes], 3 * (8, 16, 32), strict=True)
    ]


def assert_same(maps: list[Tensor], others: list[Tensor]) -> None:
    for one, other in zip(maps, others, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * other.abs().max().item())


@pytest.mark.parametrize('spec', OF_SAMPLES)
def test_features_and_gradients_in_training(spec):
    small, large = pictures()
    model = build(spec).double().train()
    alone = features(model, batch([small]))
    beside = features(model, batch([small, large]))
    assert_same(beside, alone)
    weight = model.backbone.layer2[0].conv1.weight
    one, other = (
        torch.autograd.grad(sum(m.square().sum() for m in maps), weight)[0]
        for maps in (alone, beside)
    )
    assert (other - one).norm() < 1e-4 * one.norm()


@pytest.mark.parametrize('spec', OF_SAMPLES + OTHERS)
def test_features_in_evaluation(spec):
    small, large = pictures()
    model = build(spec).double().train()
    features(model, batch([small, large]))  # for the running statistics
    model.eval()
    with torch.no_grad():
        alone = features(model, batch([small]))
        beside = features(model, batch([small, large]))
    assert_same(beside, alone)


@pytest.mark.parametrize('spec', ['gn4', 'hybrid'])
def test_detections(digits, spec):
    """Those that a picture is sure of: what a head's last convolution, which has no norm, sees at
    the border can add others."""
    model = load(f'retinanet_{spec.removesuffix("4")}_b2').model
    picture = torch.from_numpy(imread(next((digits / 'val').iterdir()))).permute(2, 0, 1)
    large = picture.repeat(1, 2, 2)[:, :190, :150]
    one, other = (
        model.test_step(batch(pictures))[0].pred_instances
        for pictures in ([picture], [picture, large])
    )
    sure = [found[found.scores > 0.3] for found in (one, other)]
    assert len(sure[0]) > 1
    torch.testing.assert_close(sure[1].scores, sure[0].scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(sure[1].bboxes, sure[0].bboxes, rtol=0, atol=1e-3)


def packed(picture: Tensor, *transforms: dict) -> dict:
    """What a pipeline makes of a picture."""
    results = dict(img=picture.permute(1, 2, 0).numpy(), img_shape=tuple(picture.shape[1:]))
    results |= dict(ori_shape=results['img_shape'], scale_factor=(1.0, 1.0))
    for cfg in transforms:
        results = TRANSFORMS.build(cfg)(results)
    item = PackDetInputs(meta_keys=('img_shape', 'ori_shape', 'scale_factor', 'pad_shape'))(results)
    return dict(inputs=[item['inputs']], data_samples=[item['data_samples']])


LETTERBOX = dict(type='Pad', size=(160, 160), pad_val=dict(img=(114, 114, 114)))


@pytest.mark.parametrize('spec', ['gn4', 'in', 'frn'])
def test_letterboxed(spec):
    small, _ = pictures()
    model = build(spec).double().eval()
    data = packed(small, LETTERBOX, dict(type='Pad', size_divisor=64))
    assert data['data_samples'][0].img_shape == (192, 192)
    with torch.no_grad():
        alone = features(model, batch([small]))
        letterboxed = features(model, data)
    assert_same(letterboxed, alone)


def test_a_picture_that_is_made_anew_behind_its_padding_is_taken_whole():
    small, _ = pictures()
    padded = packed(small, LETTERBOX)['data_samples'][0]
    assert padded.metainfo[FRACTION] == (64 / 160, 90 / 160)
    flipped = packed(small, LETTERBOX, dict(type='RandomFlip', prob=1.0))['data_samples'][0]
    assert FRACTION not in flipped
    assert FRACTION not in packed(small)['data_samples'][0]


def test_norms_of_regions_and_those_that_count_padding_are_left():
    cfg = Config.fromfile('configs/coco/mask_rcnn_r50_gn_b2.py').model
    cfg.backbone.init_cfg = None
    model = MODELS.build(cfg)
    names = {name.split('.')[0] for name, m in model.named_modules() if isinstance(m, Norm)}
    assert names == {'backbone', 'neck', 'roi_head'}

    def norms(*parts: nn.Module) -> set[nn.Module]:
        return {m for part in parts for m in part.modules() if isinstance(m, Norm)}

    expected = norms(model.backbone, model.neck) | {model.backbone.maxpool}
    assert {*layers_of_pictures(model)} == expected
    for norm in norms(model.backbone, model.neck):
        norm.count_padding = True
    assert layers_of_pictures(model) == []


@pytest.mark.parametrize('spec', ['gn4', 'bn'])
def test_a_batch_without_padding_is_as_before(spec):
    """Bit for bit, by torch's own kernels."""
    picture = pictures()[1][:, :128, :96]
    model, plain = build(spec).eval(), build(spec).eval()
    plain.load_state_dict(model.state_dict())
    for module in plain.modules():
        module.count_padding = True
    with torch.no_grad():
        one, other = (
            m.neck(m.backbone(m.data_preprocessor(batch([picture]), False)['inputs']))
            for m in (model, plain)
        )
        called = model(**model.data_preprocessor(batch([picture]), False), mode='tensor')
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert len(called) == 2
    for norm in layers_of_pictures(model):
        assert norm.pictures is None
