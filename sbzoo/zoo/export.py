"""Export: a network to ONNX or torch.export, compared with torch before it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmdet.models.detectors import TwoStageDetector
from mmengine.registry import DATASETS
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sbzoo.engine.model import scope_of
from sbzoo.errors import UserError
from sbzoo.files import write
from sbzoo.images import to_plus_minus_one
from sbzoo.zoo.exportable import Detect, Generate, Heads, Size, as_input
from sbzoo.zoo.load import Detector, Generator, Translator

Inputs = tuple[Tensor, ...]
Run = Callable[[Inputs], Sequence[Tensor]]
OPSET = 21  # the first with a group norm that has a weight for each channel
TRACED_OPSET = 17  # of torch's exporter of traces
ONNX = '.onnx'
PACKAGES = 'onnx', 'onnxruntime', 'onnxscript'


@dataclass(frozen=True)
class Exportable:
    """A network in evaluation on the CPU, and inputs that it is exported with and compared on.

    Attributes:
        classes: Of a detector.
        finds: Whether the sizes of its outputs follow from values, as after NMS.
    """

    network: nn.Module
    input_names: tuple[str, ...]
    inputs: Sequence[Inputs]
    classes: tuple[str, ...] = ()
    finds: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares with torch.

    Attributes:
        difference: The largest, of all outputs on all inputs.
        shapes: Of inputs and outputs by name, on one of the inputs.
        nodes: Of an ONNX graph, without constants.
    """

    difference: float
    shapes: dict[str, list[int]]
    nodes: int | None = None


def of_detector(
    detector: Detector, pictures: Sequence[Tensor], size: Size | None = None, nms: bool = False
) -> Exportable:
    """The heads of a detector or, after `nms` and where there is a second stage, what it finds.

    Args:
        detector: Loaded on the CPU.
        pictures: BGR [3, h, w] behind a test pipeline; those of another size are resized.
        size: Height and width of the input; by default those of the first picture, padded.
        nms: Whether boxes, scores and labels are put out.

    Raises:
        UserError: The size is none that the network takes, or the second stage is of a kind that
            is not exported.
    """
    divisor = getattr(detector.model.data_preprocessor, 'pad_size_divisor', 1)
    size = size or tuple(-(-pixels // divisor) * divisor for pixels in pictures[0].shape[1:])
    if any(pixels % divisor for pixels in size):
        raise UserError(f'--size {size[0]} {size[1]}: the network takes multiples of {divisor}')
    finds = nms or isinstance(detector.model, TwoStageDetector)
    network = (Detect if finds else Heads)(detector.model, size).eval()
    inputs = [(as_input(picture, size),) for picture in pictures]
    return Exportable(network, ('image',), inputs, detector.classes, finds)


def of_generator(generator: Generator, num: int) -> Exportable:
    """A generator of images, on the noise of the seeds 0 to `num`; labels are cycled."""
    sampler, noise = generator.model.sampler, generator.model.noise(range(num))
    if not sampler.num_classes:
        return Exportable(Generate(sampler).eval(), ('noise',), [(row[None],) for row in noise])
    labels = torch.arange(num) % sampler.num_classes
    inputs = [(row[None], label[None]) for row, label in zip(noise, labels, strict=True)]
    return Exportable(Generate(sampler).eval(), ('noise', 'labels'), inputs)


def of_translator(translator: Translator, pictures: Sequence[Tensor]) -> Exportable:
    """An image-to-image generator, on pictures RGB uint8 [3, S, S]."""
    inputs = [(to_plus_minus_one(picture[None]),) for picture in pictures]
    return Exportable(Generate(translator.model.generator).eval(), ('image',), inputs)


def validation_pictures(model: Detector | Translator, num: int) -> list[Tensor]:
    """The first pictures of the validation set of a model's config, behind its pipeline.

    Raises:
        UserError: They are not there.
    """
    cfg = model.model.cfg
    loader = cfg.get('val_dataloader') or cfg.test_dataloader
    try:
        with scope_of(cfg), redirect_stdout(StringIO()):  # pycocotools tells of its progress
            dataset = DATASETS.build(loader.dataset)
    except (OSError, AttributeError) as error:
        raise UserError(
            f'{Path(cfg.filename).name}: its validation pictures are not here ({error}); '
            'give some by --input'
        ) from error
    items = (dataset[index]['inputs'] for index in range(min(num, len(dataset))))
    return [item['source'] if isinstance(item, dict) else item for item in items]


@torch.no_grad()
def export(given: Exportable, out: Path, tolerance: float) -> Exported:
    """Export a network, compare the file with it, and give the file its name if they agree.

    Args:
        given: The network and its inputs.
        out: A file, of ONNX by the suffix .onnx, else of `torch.export`.
        tolerance: The largest difference of an output.

    Raises:
        UserError: The network cannot be exported, the difference is larger, or packages are not
            installed.
    """
    to_onnx = out.suffix == ONNX
    if to_onnx:
        _require_packages()
    example = _example(given)
    outputs = dict(given.network.named_outputs(*example))
    with TemporaryDirectory() as folder:
        scratch = Path(folder, out.name)
        with _saying_what(out):
            (_write_onnx if to_onnx else _write_program)(given, example, list(outputs), scratch)
        nodes = _annotate(scratch, given.classes) if to_onnx else None
        run = (_of_onnx if to_onnx else _of_program)(scratch, given.input_names)
        difference = max(_difference(run(i), list(_outputs(given, i))) for i in given.inputs)
        if not difference <= tolerance:
            raise UserError(
                f'{out}: not written: it differs from torch by {difference:.3g}, '
                f'and the tolerance is {tolerance:g}'
            )
        write(out, scratch.read_bytes())
    tensors = dict(zip(given.input_names, example, strict=True)) | outputs
    return Exported(difference, {name: list(t.shape) for name, t in tensors.items()}, nodes)


def _require_packages() -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"{', '.join(missing)}: not installed; pip install 'sbzoo[export]'")


def _example(given: Exportable) -> Inputs:
    """Inputs to export with; where things are found, those with the most of them."""
    if not given.finds:
        return given.inputs[0]
    found = [len(next(_outputs(given, inputs))) for inputs in given.inputs]
    if not any(found):
        raise UserError(
            'nothing is found in these pictures, and what comes after is traced by one in which '
            'something is; give others by --input'
        )
    return given.inputs[found.index(max(found))]


def _outputs(given: Exportable, inputs: Inputs) -> Iterator[Tensor]:
    return (tensor for _, tensor in given.network.named_outputs(*inputs))


@contextmanager
def _saying_what(out: Path) -> Iterator[None]:
    """Tell of what torch does not export in a line; it raises whatever the network does."""
    try:
        yield
    except Exception as error:
        reason = next(filter(None, str(error).splitlines()), '')
        raise UserError(f'{out}: not exported: {type(error).__name__}: {reason}') from error


def _write_onnx(given: Exportable, example: Inputs, outputs: list[str], path: Path) -> None:
    names = dict(input_names=list(given.input_names), output_names=outputs)
    if not given.finds:
        settings = dict(dynamo=True, opset_version=OPSET, external_data=False, verbose=False)
        torch.onnx.export(given.network, example, path, **settings, **names)
        return
    # Traced before, as in an export MMDetection imports what it has no longer.
    trace = torch.jit.trace(given.network, example, check_trace=False)
    settings = dict(dynamo=False, opset_version=TRACED_OPSET)
    numbers = {name: {0: 'found'} for name in outputs}
    torch.onnx.export(trace, example, path, dynamic_axes=numbers, **settings, **names)


def _write_program(given: Exportable, example: Inputs, outputs: list[str], path: Path) -> None:
    if given.finds:
        raise UserError('how many objects there are is no constant; it takes --format onnx')
    torch.export.save(torch.export.export(given.network, example), path)


def _annotate(path: Path, classes: tuple[str, ...]) -> int:
    """Put the names of classes into an ONNX file; how many nodes it has, without constants."""
    import onnx

    model = onnx.load(path)
    if classes:
        onnx.helper.set_model_props(model, dict(classes=json.dumps(classes)))
        onnx.save(model, path)
    return sum(node.op_type != 'Constant' for node in model.graph.node)


def _of_onnx(path: Path, names: tuple[str, ...]) -> Run:
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=['CPUExecutionProvider'])

    def run(inputs: Inputs) -> list[Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, arrays)]

    return run


def _of_program(path: Path, names: tuple[str, ...]) -> Run:
    module = torch.export.load(path).module()
    return lambda inputs: [*tree_leaves(module(*inputs))]


def _difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest of all outputs; infinite if their shapes are others, or one is not a number."""
    if [output.shape for output in outputs] != [tensor.shape for tensor in expected]:
        return inf
    gaps = [(a.double() - b.double()).abs() for a, b in zip(outputs, expected, strict=True)]
    largest = max((gap.max().item() for gap in gaps if gap.numel()), default=0.0)
    return largest if largest == largest else inf
