"""How mmcv finds its operators, and whole detectors on them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import mmcv
import mmdet
import mmdet.models
import pytest
import torch
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine import Config, DefaultScope
from mmengine.model import revert_sync_batchnorm
from mmengine.utils.dl_utils.misc import mmcv_full_available
from references import rand

import sbzoo.detection.mmcv_ops

CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'


def test_found_as_the_extension_of_mmcv():
    """The module is in place and counts as mmcv's extension."""
    assert sys.modules['mmcv._ext'] is sbzoo.detection.mmcv_ops is mmcv._ext
    assert importlib.util.find_spec('mmcv._ext') is not None
    assert mmcv_full_available()
    assert mmcv.utils.ext_loader.check_ops_exist()


def test_a_compiled_extension_is_left_alone(monkeypatch, tmp_path):
    """An `_ext` that mmcv itself ships wins."""
    (tmp_path / '_ext.py').write_text('compiled = True\n')
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    monkeypatch.delattr(mmcv, '_ext')
    monkeypatch.setattr(mmcv, '__path__', [*mmcv.__path__, str(tmp_path)])
    assert importlib.import_module('mmcv._ext').compiled


def test_unknown_operators_raise_at_use_by_name():
    """They can be fetched, as mmcv does on import, but not called."""
    boxes = torch.rand(2, 5)
    with pytest.raises(NotImplementedError, match=r"'nms_rotated'.*MMCV_WITH_OPS"):
        ops.nms_rotated(boxes, boxes[:, 0], 0.5)
    with pytest.raises(NotImplementedError, match='roi_align_forward with pool_mode max'):
        ops.RoIAlign(2, pool_mode='max')(torch.rand(1, 1, 4, 4), torch.rand(1, 5))
    with pytest.raises(AttributeError, match='__wrapped__'):
        sbzoo.detection.mmcv_ops.__wrapped__  # noqa: B018


def test_versions_are_strings():
    """What mmcv prints into training logs."""
    assert 'torchvision' in ops.get_compiler_version()
    assert ops.get_compiling_cuda_version() in (torch.version.cuda, 'not available')


def low_precision_calls():
    """One call per operator, as a function of its floating point tensors."""
    rois, target = torch.tensor([[0, 1.0, 1.0, 4.0, 3.0]]), torch.tensor([0, 4])
    image, logits = rand(1, 4, 5, 5).float(), rand(2, 4).float()
    offset, mask = rand(1, 18, 5, 5).float(), rand(1, 9, 5, 5).float()
    weight, shapes, start = rand(4, 4, 3, 3).float(), torch.tensor([[5, 5]]), torch.tensor([0])
    attend = MultiScaleDeformableAttnFunction.apply
    value, place = rand(1, 25, 2, 2).float(), rand(1, 3, 2, 1, 2, 2, low=0).float()
    attention = rand(1, 3, 2, 1, 2).float()
    return {
        'roi_align': (lambda x: ops.RoIAlign(2)(x, rois.to(x)), image),
        'roi_pool': (lambda x: ops.RoIPool(2)(x, rois.to(x)), image),
        'deform': (lambda *x: ops.deform_conv2d(*x, 1, 1), image, offset, weight),
        'modulated': (
            lambda *x: ops.modulated_deform_conv2d(*x, None, 1, 1),
            *(image, offset, mask, weight),
        ),
        'sigmoid': (lambda x: ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'sum'), logits),
        'softmax': (lambda x: ops.softmax_focal_loss(x, target, 2.0, 0.25, None, 'sum'), logits),
        'attention': (
            lambda v, p, a: attend(v, shapes, start, p, a, 64),
            *(value, place, attention),
        ),
    }


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', list(low_precision_calls()))
def test_low_precision(name, dtype):
    """Half inputs give half outputs and gradients that one rounding explains."""
    call, *tensors = low_precision_calls()[name]
    low = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    wide = [tensor.detach().float().requires_grad_() for tensor in low]
    output, reference = call(*low), call(*wide)
    assert output.dtype == dtype
    torch.testing.assert_close(output, reference.to(dtype))
    grads = torch.autograd.grad(output.sum(), low)
    expected = torch.autograd.grad(reference.sum(), wide)
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted.to(dtype))


def small(config):
    """A model config of mmdet's, thin, with few proposals and no checkpoint."""
    model = Config.fromfile(CONFIGS / config).model
    model.backbone.init_cfg = None
    if model.backbone.type == 'ResNet':
        model.backbone.base_channels = model.backbone.stem_channels = 4
        first, *others = model.neck if isinstance(model.neck, list) else [model.neck]
        first.in_channels = [16, 32, 64, 128]
        for dyhead in others:
            dyhead.num_blocks = 1
    if 'roi_head' in model:
        if 'Deform' in (pool := model.roi_head.bbox_roi_extractor.roi_layer).type:
            pool.deform_fc_channels = 8
        heads = model.roi_head.bbox_head
        for head in heads if isinstance(heads, list) else [heads]:
            head.fc_out_channels = 32
        for proposals in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
            proposals.max_per_img = 50
        model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)  # untrained scores are low
    return model


DETECTORS = {
    'retinanet/retinanet_r50_fpn_1x_coco.py': 'loss_bbox',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': 'loss_centerness',
    'atss/atss_r50_fpn_1x_coco.py': 'loss_centerness',
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': 'loss_bbox',
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': 'loss_mask',
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py': 's2.loss_bbox',
    'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py': 'loss_bbox',
    'dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py': 'loss_bbox',
    'dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco.py': 'loss_bbox',
    'dyhead/atss_r50_fpn_dyhead_1x_coco.py': 'loss_centerness',
    'carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py': 'loss_bbox',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py': 'loss_bbox',
}


@pytest.mark.parametrize('config', DETECTORS)
def test_detector_trains_and_predicts(config):
    """One loss, its gradients, and one prediction of mmdet's own models."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = revert_sync_batchnorm(MODELS.build(small(config)))
        packed = demo_mm_inputs(1, [[3, 64, 64]], [2], 80, with_mask='mask' in config)
        data = model.data_preprocessor(packed, True)
        losses = model.train()(**data, mode='loss')
        loss, _ = model.parse_losses(losses)
        loss.backward()
        with torch.no_grad():
            predicted = model.eval()(**data, mode='predict')[0].pred_instances
    assert DETECTORS[config] in losses
    assert loss.isfinite()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert any(grad.any() for grad in grads)
    assert len(predicted) > 0
    assert predicted.bboxes.isfinite().all()
    assert predicted.scores.isfinite().all()
