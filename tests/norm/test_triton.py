"""The Triton kernels: by Triton's interpreter, compiled for a GPU that is not here, and on one."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from sbzoo.norm.kernels import dispatch

triton = pytest.importorskip('triton')

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from sbzoo.norm.kernels import triton as triton_kernels  # noqa: E402

CPU = torch.device('cpu')


@pytest.mark.parametrize(
    'interpreted',
    [pytest.param('1', id='interpreter'), pytest.param('0', marks=pytest.mark.gpu, id='gpu')],
)
def test_kernels(interpreted):
    """In a process of its own: what Triton has compiled or interpreted once, it keeps so."""
    tests = Path(__file__).with_name('triton_kernels.py')
    run = subprocess.run(
        [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '--noconftest', tests],
        env={**os.environ, 'TRITON_INTERPRET': interpreted},
        cwd=tests.parent.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout


class Ampere:
    """A GPU that can be compiled for."""

    get_current_device = staticmethod(lambda: 'no device')
    get_current_stream = staticmethod(lambda device: 'no stream')
    get_current_target = staticmethod(lambda: GPUTarget('cuda', 80, 32))


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The PTX of every kernel launched, by name; nothing runs."""
    codes = {}

    def compile_only(kernel, grid, *args, **kwargs):
        binary = kernel.run(*args, grid=grid, warmup=True, **kwargs)
        codes[kernel.__name__] = binary.asm['ptx']

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, '_active', Ampere())
    monkeypatch.setattr(
        JITFunction, '__getitem__', lambda kernel, grid: partial(compile_only, kernel, grid)
    )
    return codes


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_compiled_kernels_move_16_bytes_a_thread(compiled, dtype, memory_format):
    """The widest load and store there are, which memory formats both should get."""
    x = torch.zeros(2, 64, 80, 80, dtype=dtype).contiguous(memory_format=memory_format)
    table = torch.zeros(2, 64)
    triton_kernels.moments(x)
    triton_kernels.affine(x, table, table, relu=True)
    triton_kernels.products(x, x, table, x)
    triton_kernels.blend(x, x, table, table, table, x)
    assert compiled.keys() == {
        '_moments_of_tile',
        '_combine_tiles',
        '_affine_of_tile',
        '_products_of_tile',
        '_blend_of_tile',
    }
    assert all('ld.global.v4.b32' in code for code in compiled.values())
    assert all(
        'st.global.v4.b32' in compiled[name] for name in ('_affine_of_tile', '_blend_of_tile')
    )


def test_a_device_that_cannot_run_them_is_reported():
    with pytest.warns(UserWarning, match=r'cpu, torch.float32.*Triton.s do not run: \w+: .+'):
        assert not dispatch.passes_self_test(CPU, torch.float32, torch.contiguous_format)


def test_without_triton_no_kernel_passes_the_self_test(monkeypatch):
    monkeypatch.setattr(dispatch, 'has_triton', lambda: False)
    assert not dispatch.passes_self_test(CPU, torch.float64, torch.contiguous_format)
