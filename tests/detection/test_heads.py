"""Targets and losses of all images and levels at once, against MMDetection's heads."""

import copy

import pytest
import torch
from benchmarks.train import CONFIG, write_peer
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import InstanceData

import sbzoo
from sbzoo.paths import ROOT

HEADS = ('RetinaHead', 'RetinaSepBNHead')
MAPS = [(12, 12), (6, 6), (3, 3)]
LOOSE = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.0)
STRICT = dict(LOOSE, pos_iou_thr=0.7, min_pos_iou=0.3)
UNMATCHED = dict(LOOSE, match_low_quality=False)


def build(kind: str, **train_cfg) -> torch.nn.Module:
    cfg = copy.deepcopy(Config.fromfile(ROOT / 'configs/_base_/retinanet.py').model)
    head = cfg.bbox_head
    head.type, head.norm_cfg = kind, None
    head.train_cfg = dict(cfg.train_cfg) | train_cfg
    if 'SepBN' not in kind:
        del head.num_ins
    head.loss_cls.type = 'LeanFocalLoss' if kind.startswith('Lean') else 'FocalLoss'
    return MODELS.build(head)


def objects(count: int, generator: torch.Generator) -> InstanceData:
    corner = torch.rand(count, 2, generator=generator) * 60
    size = torch.rand(count, 2, generator=generator) * 40 + 4
    labels = torch.randint(10, (count,), generator=generator)
    return InstanceData(bboxes=torch.cat([corner, corner + size], 1), labels=labels)


def losses_and_gradients(head, maps, instances, metas):
    leaves = [[m.clone().requires_grad_() for m in kind] for kind in maps]
    losses = head.loss_by_feat(*leaves, instances, metas)
    summed = {k: sum(v) if isinstance(v, list) else v for k, v in losses.items()}
    sum(summed.values()).backward()
    return summed, [m.grad for kind in leaves for m in kind]


@pytest.mark.parametrize('kind', HEADS)
@pytest.mark.parametrize(
    'train_cfg',
    [
        dict(assigner=LOOSE),
        dict(assigner=STRICT, pos_weight=2.0),
        dict(assigner=UNMATCHED),
        dict(assigner=LOOSE, allowed_border=0),
    ],
    ids=['plain', 'strict', 'no low quality', 'inside only'],
)
def test_equals_the_head_of_mmdetection(kind, train_cfg):
    ours, theirs = build(f'Lean{kind}', **train_cfg), build(kind, **train_cfg)
    generator = torch.Generator().manual_seed(0)
    for counts, padded in (((5, 3), (96, 96)), ((0, 7), (96, 64)), ((0, 0), (96, 96))):
        instances = [objects(n, generator) for n in counts]
        if counts[0]:  # two objects that are nearest to the same anchors: the later takes them
            instances[0].bboxes[1] = instances[0].bboxes[0]
        metas = [dict(pad_shape=(96, 96), img_shape=(96, 96)), dict(pad_shape=padded)]
        metas[1]['img_shape'] = padded
        maps = [
            [torch.randn(2, c, *s, generator=generator, dtype=torch.float64) for s in MAPS]
            for c in (60, 24)
        ]
        one, two = (losses_and_gradients(h, maps, instances, metas) for h in (ours, theirs))
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)
        assert one[0]['loss_cls'] > 0
        assert (one[0]['loss_bbox'] > 0) == any(counts)


def test_anchors_follow_the_size_of_images():
    head = build('LeanRetinaHead')
    for side in (12, 8, 12):
        maps = [torch.zeros(1, 60, side >> i, side >> i) for i in range(3)]
        metas = [dict(pad_shape=(side * 8,) * 2, img_shape=(side * 8,) * 2)]
        anchors, inside = head._anchors(maps, metas)
        assert len(anchors) == 6 * sum(m[0, 0].numel() for m in maps)
        assert inside.all()


@pytest.mark.parametrize(
    'assigner',
    [dict(type='ATSSAssigner', topk=9), dict(LOOSE, ignore_iof_thr=0.5)],
    ids=['ATSS', 'ignored objects'],
)
def test_another_assigner_is_an_error(assigner):
    with pytest.raises(sbzoo.UserError, match=r'MaxIoUAssigner .* otherwise use RetinaHead'):
        build('LeanRetinaHead', assigner=assigner)


def test_the_benchmark_compares_equal_models(tmp_path):
    """The peer knows nothing of sbzoo, and takes the weights and gives the losses of ours."""
    peer = Config.fromfile(write_peer(tmp_path), import_custom_modules=False)
    assert 'sbzoo' not in peer.dump().replace(peer.data_root, '')
    assert peer.train_cfg.type == 'EpochBasedTrainLoop'
    ours, theirs = MODELS.build(Config.fromfile(CONFIG).model), MODELS.build(peer.model)
    state = ours.state_dict()
    theirs.load_state_dict({name.replace('.bn', '.gn'): value for name, value in state.items()})
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 96, 96, generator=generator)
    instances = [objects(n, generator) for n in (4, 2)]
    metas = [dict(pad_shape=(96, 96), img_shape=(96, 96))] * 2
    found = [
        m.bbox_head.loss_by_feat(*m.bbox_head(m.extract_feat(images)), instances, metas)
        for m in (ours, theirs)
    ]
    for name in ('loss_cls', 'loss_bbox'):
        torch.testing.assert_close(found[0][name], sum(found[1][name]), rtol=1e-5, atol=1e-6)
