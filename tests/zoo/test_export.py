"""tools/export.py: files that compute what torch computes, or none."""

import re
from pathlib import Path

import forks
import onnx
import onnxruntime
import pytest
import small_detectors
import torch
from forks import ROOT
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from torch import nn

import sbzoo
from sbzoo import UserError
from sbzoo.__main__ import parser_of
from sbzoo.engine.model import build_model
from sbzoo.engine.options.config import load_config
from sbzoo.tools import export as tool
from sbzoo.zoo import export as zoo_export
from sbzoo.zoo.export import Exportable, export, of_detector, of_generator, validation_pictures
from sbzoo.zoo.exportable import Detect, Heads, as_input
from sbzoo.zoo.load import Detector, Generator

SIDE = small_detectors.SIDE
SIZE = SIDE, SIDE
CLASSES = tuple('abcd')
RETINANET = ('--card', 'retinanet_gn_b2')


def small(name: str, **changes) -> Detector:
    """With random weights."""
    model = small_detectors.build(name, **changes).eval()
    return Detector(None, model, CLASSES)


def pictures(count: int = 3) -> list[torch.Tensor]:
    return small_detectors.batch([1] * count)['inputs']


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path)


@pytest.mark.parametrize('bgr_to_rgb', [False, True])
@pytest.mark.parametrize('name', ['retinanet', 'fcos', 'rtmdet', 'detr'])
@torch.no_grad()
def test_heads_are_those_of_mmdetection(name, bgr_to_rgb):
    settings = dict(bgr_to_rgb=bgr_to_rgb, mean=[1.0, 20.0, 3.0], std=[4.0, 5.0, 60.0])
    changes = {f'data_preprocessor.{key}': value for key, value in settings.items()}
    model = small(name, **changes).model
    batch = small_detectors.batch([1])
    outputs = Heads(model, SIZE)(as_input(batch['inputs'][0], SIZE))
    expected = model(**model.data_preprocessor(batch), mode='tensor')
    flat = [
        tensor
        for each in expected
        for tensor in (each if isinstance(each, (list, tuple)) else [each])
    ]
    torch.testing.assert_close(list(outputs), flat)


@pytest.mark.parametrize('name', ['retinanet', 'faster', 'mask'])
@torch.no_grad()
def test_what_is_found_is_what_mmdetection_predicts(name, digits):
    detector, batch = small(name), small_detectors.batch([1])
    if name == 'retinanet':  # whose scores are equal at first
        detector = sbzoo.load('retinanet_gn_b2', 'cpu')
        batch['inputs'] = validation_pictures(detector, 1)
    model = detector.model
    boxes, scores, labels, *masks = Detect(model, SIZE)(as_input(batch['inputs'][0], SIZE))
    found = model.test_step(batch)[0].pred_instances
    assert len(found) > 20
    for ours, theirs in ((boxes, found.bboxes), (scores, found.scores), (labels, found.labels)):
        torch.testing.assert_close(ours, theirs)
    assert bool(masks) == (name == 'mask')
    for mask in masks:
        pasted, _ = _do_paste_mask(mask[:, None], boxes, SIDE, SIDE, skip_empty=False)
        assert ((pasted >= 0.5) == found.masks).float().mean() > 0.999  # which rounding decides


def test_a_mask_rcnn_in_onnxruntime(tmp_path):
    out = tmp_path / 'mask.onnx'
    exported = export(of_detector(small('mask'), pictures(4)), out, tolerance=1e-3)
    assert exported.difference < 1e-3
    assert list(exported.shapes) == ['image', 'boxes', 'scores', 'labels', 'masks']


def test_pictures_with_and_without_objects(digits, tmp_path):
    out, retinanet = tmp_path / 'nms.onnx', sbzoo.load('retinanet_hybrid_b2', 'cpu')
    retinanet.model.bbox_head.test_cfg.score_thr = 0.3
    given = of_detector(retinanet, _with_blank(retinanet), nms=True)
    export(given, out, tolerance=1e-3)
    run = session(out)
    found = [len(run.run(None, {'image': image.numpy()})[0]) for (image,) in given.inputs]
    assert found[0] > 0
    assert found[-1] == 0
    (meta,) = onnx.load(out).metadata_props
    assert meta.value.count(',') == len(retinanet.classes) - 1


def _with_blank(detector: Detector) -> list[torch.Tensor]:
    found = validation_pictures(detector, 2)
    return [*found, torch.full_like(found[0], 128)]


class Branch(nn.Module):
    """Of which a trace keeps one way."""

    def named_outputs(self, x):
        yield 'y', self(x)

    def forward(self, x):
        return x if x.sum() > 0 else 2 * x


def test_what_differs_is_not_written(tmp_path):
    out, inputs = tmp_path / 'branch.onnx', [(torch.ones(2),), (-torch.ones(2),)]
    with pytest.raises(UserError, match='not written: it differs from torch by 1, and the toler'):
        export(Exportable(Branch(), ('x',), inputs, finds=True), out, tolerance=0.5)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r'branch.onnx: not exported: \w+: '):
        export(Exportable(Branch(), ('x',), inputs), out, tolerance=0.5)
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path, monkeypatch):
    cascade, mask = small('cascade'), small('mask')
    with pytest.raises(UserError, match='CascadeRoIHead: of heads of RoIs, those of Faster'):
        of_detector(cascade, pictures())
    with pytest.raises(UserError, match='--size 96 90: the network takes multiples of 32'):
        of_detector(mask, pictures(), (96, 90))
    with pytest.raises(UserError, match='is no constant; it takes --format onnx'):
        export(of_detector(mask, pictures()), tmp_path / 'mask.pt2', 1.0)
    mask.model.roi_head.test_cfg.score_thr = 1.0
    with pytest.raises(UserError, match='nothing is found in these pictures'):
        export(of_detector(mask, pictures()), tmp_path / 'mask.onnx', 1.0)
    monkeypatch.setattr(zoo_export, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"not installed; pip install 'sbzoo\[export\]'"):
        export(of_detector(mask, pictures()), tmp_path / 'mask.onnx', 1.0)


def test_labels_of_a_conditional_generator(tmp_path):
    cfg = load_config(str(ROOT / 'configs/sngan_hybrid_b2.py'))
    model = build_model(cfg).eval()
    given = of_generator(Generator(None, model), 12)
    assert given.input_names == ('noise', 'labels')
    assert [label.item() for _, label in given.inputs] == [*range(10), 0, 1]
    exported = export(given, tmp_path / 'sngan.pt2', 1e-3)
    assert exported.shapes == dict(noise=[1, 64], labels=[1], images=[1, 3, 32, 32])


def test_the_tool(digits, tmp_path):
    out, photo = tmp_path / 'gn.onnx', next((digits / 'val').iterdir())
    options = '--out', out, '--input', photo, '--size', 96, 128
    ended = forks.tool('export', *RETINANET, *options)
    assert ended.status == 0, ended.errors
    assert 'largest difference from torch on 1 pictures: ' in ended.printed
    assert f"InferenceSession('{out}').run(None, {{'image': image}})" in ended.printed
    graph = onnx.load(out).graph
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 96, 128]
    assert sum(node.op_type == 'GroupNormalization' for node in graph.node) == 38
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ((*RETINANET, '--out', 'there.onnx'), 'there.onnx: exists already; give a new file'),
        ((*RETINANET, '--out', 'gn.pt2'), 'gn.pt2: the suffix of --format onnx is .onnx'),
        (('--card', 'dcgan_in_b2', '--nms'), '--nms: of detectors, and this is a generator'),
        (('dcgan_in_b2.py',), 'give a config and a checkpoint, a work directory, or --card NAME'),
    ],
)
def test_wrong_options(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('there.onnx').touch()
    with pytest.raises(UserError, match=re.escape(says)):
        tool.main(parser_of('export').parse_args(arguments))
    assert [path.name for path in Path().iterdir()] == ['there.onnx']
