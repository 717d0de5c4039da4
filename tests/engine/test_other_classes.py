"""Weights of a model with other classes: all is kept but what depends on their number."""

import copy
import re

import pytest
import small_detectors
import torch
from mmengine.config import Config

from sbzoo import UserError
from sbzoo.checkpoint.key_maps import Weights
from sbzoo.engine.model import build_model
from sbzoo.engine.options.config import load_config
from sbzoo.engine.other_classes import fit_but_for_classes
from sbzoo.paths import ROOT

ROI = 'roi_head.bbox_head'
OF_CLASSES = dict(
    retinanet=['bbox_head.retina_cls'],
    fcos=['bbox_head.conv_cls'],
    mask=[f'{ROI}.fc_cls', f'{ROI}.fc_reg', 'roi_head.mask_head.conv_logits'],
    cascade=[f'{ROI}.{stage}.fc_cls' for stage in range(3)],
    rtmdet=[f'bbox_head.rtm_cls.{level}' for level in range(3)],
    detr=['bbox_head.fc_cls'],
)
WEIGHTS = 'weight', 'bias'


def with_classes(cfg: Config, count: int) -> Config:
    """As `--data` sets them."""
    cfg = copy.deepcopy(cfg)
    heads = cfg.model.get('roi_head', cfg.model)
    boxes = heads.bbox_head if isinstance(heads.bbox_head, list) else [heads.bbox_head]
    for head in [*boxes, *([heads.mask_head] if 'mask_head' in heads else [])]:
        head.num_classes = count
    return cfg


def assert_kept_but(taken: Weights, given: Weights, own: Weights, left: set[str]) -> None:
    assert taken.keys() == own.keys()
    for key, value in taken.items():
        assert torch.equal(value, (own if key in left else given)[key]), key


@pytest.mark.parametrize('name', OF_CLASSES)
def test_layers_of_classes_keep_the_values_of_the_model(name):
    cfg = small_detectors.config(name)
    weights = build_model(with_classes(cfg, 7)).state_dict()
    model = build_model(copy.deepcopy(cfg))  # some heads write to theirs
    taken = fit_but_for_classes('seven.pth', weights, model, cfg)
    left = {f'{layer}.{kind}' for layer in OF_CLASSES[name] for kind in WEIGHTS}
    assert_kept_but(taken, weights, model.state_dict(), left)


def test_embeddings_of_classes_keep_the_values_of_the_model():
    cfg = load_config(str(ROOT / 'configs/sngan_hybrid_b2.py'))
    model, other = build_model(cfg), copy.deepcopy(cfg)
    for network in (other.model.generator, other.model.discriminator):
        network.num_classes = 3
    weights = build_model(other).state_dict()
    taken = fit_but_for_classes('three.pth', weights, model, cfg)
    own = model.state_dict()
    of_classes = r'\b(scale|shift|embedding)\b.*(?<!_v)$'  # which has a value for each feature
    left = {key for key in own if re.search(of_classes, key)}
    assert len(left) > 12
    assert_kept_but(taken, weights, own, left)


def test_another_number_of_anything_else_is_refused():
    cfg = small_detectors.config('retinanet')
    wider = with_classes(cfg, 7)
    wider.model.neck.out_channels = wider.model.bbox_head.in_channels = 48
    weights = build_model(wider).state_dict()
    with pytest.raises(UserError, match=r'of another model\n.* of another shape'):
        fit_but_for_classes('wider.pth', weights, build_model(cfg), cfg)


def test_another_norm_is_named_beside_other_classes():
    cfg = small_detectors.config('retinanet')
    batch_norm = with_classes(cfg, 7)
    batch_norm.model.backbone.norm_cfg = dict(type='BN')
    weights = build_model(batch_norm).state_dict()
    with pytest.raises(UserError, match=r'with another norm; .*convert.*\n.*unknown to the model'):
        fit_but_for_classes('bn.pth', weights, build_model(cfg), cfg)
