"""Nothing outside a tensor is read or written: the tensors end, or begin, where memory does."""

import ctypes
import mmap
from functools import partial

import pytest
import torch

from fastconv import reference
from fastconv.ops import pack_dense_weight, pack_pointwise_pairs, pack_winograd_weight
from tests.helpers import ISAS, MATRIX_ISAS, assert_close, channels_last, contiguous, isa

BF16 = torch.bfloat16
NO_ACCESS, ALL_ACCESS = 0, mmap.PROT_READ | mmap.PROT_WRITE


class Fenced:
    """Copies of tensors, each between pages that no one may touch."""

    def __init__(self):
        self.held = []
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def copy(self, t, at_end):
        page, size = mmap.PAGESIZE, t.numel() * t.element_size()
        inner = -(-size // page) * page
        memory = mmap.mmap(-1, inner + 2 * page)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for fence in address, address + page + inner:
            assert self.libc.mprotect(fence, page, NO_ACCESS) == 0
        self.held.append((memory, address, inner))
        offset = page + (inner - size if at_end else 0)
        copy = torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=offset)
        return copy.as_strided(t.shape, t.stride()).copy_(t)

    def open(self):
        for _, address, inner in self.held:
            for fence in address, address + mmap.PAGESIZE + inner:
                assert self.libc.mprotect(fence, mmap.PAGESIZE, ALL_ACCESS) == 0


@pytest.fixture
def fenced():
    fenced = Fenced()
    yield fenced
    fenced.open()


# batch, in, out, height, width: whole tiles, and a rest of rows, columns, depth, and of each
SHAPES = [
    (1, 32, 32, 8, 4),
    (1, 64, 48, 7, 7),
    (1, 34, 33, 5, 5),
    (1, 144, 24, 10, 9),
    (2, 16, 1, 3, 1),
    (1, 66, 1, 4, 4),
    (1, 7, 5, 1, 1),
]


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pointwise_conv2d(shape, layout, at_end, name, fenced):
    batch, channels, out, height, width = shape
    x = layout(torch.randn(batch, channels, height, width).to(BF16))
    weight = torch.randn(out, channels, 1, 1).to(BF16) * channels**-0.5
    bias, residual = torch.randn(out), layout(torch.randn(batch, out, height, width).to(BF16))
    tensors = x, pack_pointwise_pairs(weight), bias, residual, torch.empty_like(residual)
    x, packed, bias, residual, y = (fenced.copy(t, at_end) for t in tensors)
    with isa(name):
        torch.ops.fastconv.pointwise_conv2d.out(x, packed, bias, residual, (1, 1), "relu6", out=y)
    exact = (t.double() for t in (x, weight, bias, residual))
    expected = reference.pointwise_conv2d(*exact, (1, 1), "relu6")
    assert_close(y, expected, terms=channels + 2, scale=4)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("pack", "scale"),
    [
        (pack_dense_weight, 4),
        (pack_winograd_weight, 30),
        (partial(pack_winograd_weight, at_points=False), 30),
    ],
)
def test_dense_conv2d(pack, scale, shape, at_end, name, fenced):
    batch, channels, out, height, width = shape
    x = channels_last(torch.randn(batch, channels, height, width))
    weight = torch.randn(out, channels, 3, 3) * channels**-0.5 / 3
    bias, residual = torch.randn(out), channels_last(torch.randn(batch, out, height, width))
    tensors = x, pack(weight), bias, residual, torch.empty_like(residual)
    x, packed, bias, residual, y = (fenced.copy(t, at_end) for t in tensors)
    window = (1, 1), (1, 1, 1, 1), (1, 1)
    with isa(name):
        torch.ops.fastconv.dense_conv2d.out(x, packed, bias, residual, *window, "relu6", out=y)
    exact = (t.double() for t in (x, weight, bias, residual))
    expected = reference.dense_conv2d(*exact, *window, "relu6")
    assert_close(y, expected, terms=9 * channels + 2, scale=scale)
