"""Calls that a thread walks through row by row: the same bits, what passes is left unwritten."""

import pytest
import torch
from torch import Tensor

from fastconv.ops import (
    pack_depthwise_weight,
    pack_pointwise_pairs,
    pack_pointwise_weight,
    pack_stem_weight,
)

from .helpers import ISAS, MATRIX_ISAS, channels_last, isa, threads

sequence = torch.ops.fastconv.sequence
STEM = "stem_conv2d i0 i1 i2 2,2 1,1,1,1 relu6"
NEAR = "separable_conv2d o0 i3 i4 i5 i6 - - - - - 1,1 1,1,1,1 1,1 silu relu - sigmoid"
FAR = "separable_conv2d o1 i7 - i8 - - - - - - 1,1 1,2,2,2 1,1 relu6 - - sigmoid"
BLOCK = "inverted_residual o2 i9 i10 i11 i12 i13 i14 - - - - 1,1 1,1,1,1 relu6 true - sigmoid"
HALVE = "inverted_residual o3 i9 - i11 - i13 - i15 - i16 - 2,2 1,1,1,1 silu false relu sigmoid"
LAST = "separable_conv2d o4 i7 - i8 - - - - - - 2,2 2,2,2,2 1,1 relu6 - - sigmoid"
CALLS = [STEM, NEAR, FAR, BLOCK, HALVE, LAST]
SHAPES = [(16, 3, 3, 3), (16,), (16, 1, 3, 3), (16,), (24, 16, 1, 1), (24,), (24, 1, 5, 5)]
SHAPES += [(24, 24, 1, 1), (40, 24, 1, 1), (40,), (40, 1, 3, 3), (40,), (24, 40, 1, 1), (24,)]
SHAPES += [(4, 40, 1, 1), (40, 4, 1, 1)]


def packed(weight: Tensor) -> Tensor:
    if weight.dim() == 1:
        return weight
    weight = weight / weight[0].numel() ** 0.5
    pack = pack_stem_weight if weight.shape[1] == 3 else pack_pointwise_weight
    return (pack_depthwise_weight if weight.shape[1] == 1 else pack)(weight)


def inputs_of(batch: int, height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, *weights = (
        torch.randn(s, generator=generator) for s in [(batch, 3, height, width), *SHAPES]
    )
    return [image, *map(packed, weights)]


def results_of(batch: int, height: int, width: int, count: int) -> list[Tensor]:
    """Results yet to be filled, for the first calls."""
    h, w = (height + 1) // 2, (width + 1) // 2
    half = -(-(h - 1) // 2), -(-w // 2)
    last = -(-half[0] // 2), -(-half[1] // 2)
    sizes = [(16, h, w), (24, h, w), (24, h - 1, w), (24, h - 1, w), (24, *half), (24, *last)]
    return [channels_last(torch.full((batch, *size), torch.nan)) for size in sizes[:count]]


def walked(inputs: list[Tensor], calls: list[str], out: list[Tensor]) -> list[bool]:
    """Runs the calls, all but the last marked as read by the next alone; which left no result."""
    sequence(inputs, "\n".join([*("~" + call for call in calls[:-1]), calls[-1]]), out=out)
    return [bool(t.isnan().all()) for t in out]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize(
    ("batch", "height", "width", "count", "threads_and_passed"),
    [
        # Bytes that pass: 283, 424, 418, 418 and 104 KiB an image.
        (6, 131, 131, 6, {1: [1, 1, 1, 1, 1, 0], 2: [1, 1, 1, 1, 0, 0], 3: [1, 1, 1, 1, 0, 0]}),
        (5, 131, 131, 4, {1: [1, 1, 1, 0], 2: [1, 1, 0, 0], 3: [0, 1, 0, 0]}),
        # One image is cut, and the rows at the cut are made by both threads.
        (1, 500, 131, 3, {1: [1, 1, 0], 2: [1, 1, 0], 3: [0, 1, 0], 7: [0, 0, 0]}),
        (1, 1203, 67, 3, {1: [1, 1, 0], 2: [1, 1, 0], 3: [0, 1, 0]}),
        (2, 7, 3001, 3, {1: [1, 1, 0], 2: [0, 1, 0]}),
    ],
)
def test_the_bits_of_single_calls(name, batch, height, width, count, threads_and_passed):
    inputs, calls = inputs_of(batch, height, width), CALLS[:count]
    expected = results_of(batch, height, width, count)
    with isa(name), torch.no_grad():
        sequence(inputs, "\n".join(calls), out=expected)
        for number, passed in threads_and_passed.items():
            with threads(number):
                out = results_of(batch, height, width, count)
                if name == "scalar":
                    passed = [0] * count
                assert walked(inputs, calls, out) == list(map(bool, passed)), number
                assert torch.equal(out[-1], expected[-1])


@pytest.mark.parametrize("name", MATRIX_ISAS)
def test_the_bits_of_single_calls_in_bfloat16(name):
    def narrowed(t):
        if t.dim() == 4 and t.shape[2:] == (1, 1):
            return pack_pointwise_pairs(t.to(torch.bfloat16))
        return t.to(torch.bfloat16) if t.dim() == 4 and t.shape[1] == 3 else t

    inputs, calls = [narrowed(t) for t in inputs_of(8, 131, 131)], CALLS[:4]
    expected, *others = ([t.to(torch.bfloat16) for t in results_of(8, 131, 131, 4)] for _ in "1234")
    passes = {1: [1, 1, 1, 0], 2: [1, 1, 1, 0], 3: [0, 1, 0, 0]}
    with isa(name), torch.no_grad():
        sequence(inputs, "\n".join(calls), out=expected)
        for out, (number, passed) in zip(others, passes.items(), strict=True):
            with threads(number):
                left = walked(inputs, calls, out)
                assert left == list(map(bool, passed if name != "scalar" else [0] * 4)), number
                assert torch.equal(out[-1], expected[-1])


def test_an_output_where_the_input_lies_is_not_written_too_early():
    inputs, calls = inputs_of(8, 131, 131), CALLS[:4]
    expected = results_of(8, 131, 131, 4)
    _, *out, last = results_of(8, 131, 131, 4)
    memory = last.new_empty(last.numel())
    first, last = (memory[: t.numel()].as_strided(t.shape, t.stride()) for t in (expected[0], last))
    with torch.no_grad(), threads(1):
        sequence(inputs, "\n".join(calls), out=expected)
        inputs[0] = first.copy_(expected[0])
        rest = [NEAR.replace("o0", "i0"), FAR.replace("o1", "o0"), BLOCK.replace("o2", "o1")]
        assert walked(inputs, rest, [*out, last]) == [True, False, False]
    assert torch.equal(last, expected[3])
