import logging
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import fastconv
from fastconv import ops
from fastconv.dispatch.told import _said
from tests.helpers import channels_last, isa


def test_each_kernel_and_each_convolution_of_torch_has_a_row():
    model = nn.Sequential(
        fastconv.nn.Conv2d(3, 8, 3, activation="relu"),
        fastconv.nn.DepthwiseConv2d(8, 3),
        fastconv.nn.PointwiseConv2d(8, 4),
        fastconv.nn.LocalResponseNorm(5),
    )
    rows = fastconv.explain(model, torch.randn(1, 3, 9, 9))
    assert [row["backend"].split()[0] for row in rows] == ["torch", "cpu", "cpu", "cpu"]
    assert [row["op"] for row in rows[1:]] == [
        "depthwise_conv2d",
        "pointwise_conv2d",
        "local_response_norm",
    ]
    assert rows[2]["variant"] == "nchw"
    assert rows[2]["input"] == [1, 8, 5, 5]
    assert rows[2]["dtype"] == "torch.float32"
    assert all(row["reason"] for row in rows)


def test_rows_name_layer_and_layout_of_plain_swapped_and_optimized_networks():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1))).eval()
    x = torch.randn(1, 3, 9, 9)
    optimized = fastconv.optimize(model, (x,))
    for network, layout in ((model, "contiguous"), (optimized, "channels_last")):
        rows = fastconv.explain(network, x)
        assert [row["layer"] for row in rows] == ["0", "1.1"]
        assert [row["layout"] for row in rows] == ["contiguous", layout]
    (row,) = fastconv.explain(ops.residual_add, x.transpose(2, 3), x)
    assert (row["layer"], row["layout"]) == ("", "strided")


def test_subnormal_weights_are_counted_and_images_are_not():
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3)).eval()
    with torch.no_grad():
        model[0].weight[0] = 1e-40
        model[0].weight[1] = 0
        model[1].weight[0, 0, 0, :2] = -1e-41
        x = torch.full((1, 4, 6, 6), 1e-40)
    for network in (model, fastconv.swap_(model), fastconv.optimize(model, (x,))):
        assert [row["subnormal_weights"] for row in fastconv.explain(network, x)] == [4, 2]
    meta = fastconv.explain(model, torch.empty(1, 4, 6, 6), device="meta-h100")
    assert {row["subnormal_weights"] for row in meta} == {None}


def test_timed_rows_hold_time_bytes_and_share_of_a_copy():
    layer, x = fastconv.nn.LocalResponseNorm(5), torch.randn(1, 16, 32, 32)
    (row,) = fastconv.explain(layer, x, timed=True)
    assert row["bytes"] == 2 * x.nbytes
    assert 0 < row["ms"] < 1e3
    assert row["share_of_copy"] > 0
    rows = fastconv.explain(ops.residual_add, *2 * [torch.ones(4, dtype=torch.int16)], timed=True)
    assert len(rows) == 1  # what serves a repeated call is told once
    with pytest.raises(ValueError, match="nothing runs on meta-h100"):
        fastconv.explain(layer, x, device="meta-h100", timed=True)


def test_a_plan_for_a_gpu_keeps_channels_last_behind_torchs_convolutions():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), fastconv.nn.DepthwiseConv2d(8, 3))
    x = torch.empty(1, 8, 9, 9)
    for images, layout in ((x, "contiguous"), (channels_last(x), "channels_last")):
        rows = fastconv.explain(model, images, device="meta-h100")
        assert [row["layout"] for row in rows] == [layout, layout]


WHERE_IT_WINS = "ours, ops.dense_conv2d, is called by fastconv.optimize where it wins"
CALL_OURS = "called by torch's name: fastconv.swap_ or ops.conv{}d calls ours"


@pytest.mark.parametrize(
    ("layer", "size", "reason"),
    [
        (nn.Conv2d(8, 8, 7), (9, 9), f"dense 7x7: {WHERE_IT_WINS}"),
        (nn.Conv2d(8, 8, (1, 3)), (9, 9), f"dense 1x3: {WHERE_IT_WINS}"),
        (nn.Conv2d(8, 8, 3, padding="same"), (9, 9), f"dense 3x3: {WHERE_IT_WINS}"),
        (nn.Conv2d(8, 8, 1, padding=1), (9, 9), "dense 1x1 with padding: our 1x1 has none"),
        (
            nn.Conv2d(8, 8, 3, groups=2),
            (9, 9),
            "2 groups, 3x3: neither depthwise nor 1x1 over all channels",
        ),
        (
            nn.Conv2d(8, 8, 1, groups=2),
            (9, 9),
            "2 groups, 1x1: neither depthwise nor 1x1 over all channels",
        ),
        (nn.ConvTranspose2d(8, 8, 3), (9, 9), "transposed 3x3: no kernel of ours"),
        (nn.Conv1d(8, 8, 3), (9,), f"dense 1x3: {WHERE_IT_WINS}"),
        (nn.Conv3d(8, 8, 3), (9, 9, 9), "3d: our kernels are 2d"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_runs_what_has_no_kernel_and_the_shape_says_why(layer, size, reason, dtype):
    """The same words for a swapped and for an optimized layer, whatever op of torch they call."""
    layer = layer.to(dtype).eval()
    x = torch.randn(1, 8, *size, dtype=dtype)
    for model in (fastconv.swap_(nn.Sequential(layer)), fastconv.optimize(layer, (x,))):
        (row,) = fastconv.explain(model, x)
        assert (row["backend"], row["variant"], row["reason"]) == ("torch", "", reason)


@pytest.mark.parametrize(
    ("layer", "size", "reason"),
    [
        (nn.Conv2d(4, 8, 1), (9, 9), f"1x1 {CALL_OURS.format(2)}"),
        (nn.Conv2d(4, 8, (5, 3), groups=4), (9, 9), f"depthwise 5x3 {CALL_OURS.format(2)}"),
        (nn.Conv1d(4, 8, 1), (9,), f"1x1 {CALL_OURS.format(1)}"),
        (nn.Conv1d(4, 8, 3, groups=4), (9,), f"depthwise 1x3 {CALL_OURS.format(1)}"),
    ],
    ids=repr,
)
def test_a_layer_that_could_be_swapped_is_told_so(layer, size, reason):
    x = torch.randn(1, 4, *size)
    (row,) = fastconv.explain(layer, x)
    assert (row["backend"], row["reason"]) == ("torch", reason)
    (row,) = fastconv.explain(fastconv.swap_(nn.Sequential(layer)), x)
    assert row["backend"].startswith("cpu")


def test_a_convolution_called_by_keywords_has_its_reason():
    x, weight = torch.randn(1, 4, 9, 9), torch.randn(8, 2, 3, 3)
    with torch.inference_mode():
        (row,) = fastconv.explain(lambda: torch.conv2d(input=x, weight=weight, groups=2))
    assert row["input"] == [1, 4, 9, 9]
    assert row["reason"].startswith("2 groups, 3x3")


def test_the_instruction_set_is_named():
    x = torch.randn(1, 4, 5, 5)
    with isa("scalar"):
        (row,) = fastconv.explain(ops.depthwise_conv2d, x, torch.randn(4, 1, 3, 3))
    assert row["backend"] == "cpu (scalar)"
    assert row["variant"] == "nchw_any"


def test_a_fallback_says_why_and_is_logged_once(caplog):
    x = torch.ones(4, dtype=torch.int16)
    _said.clear()
    with caplog.at_level(logging.INFO, logger="fastconv"):
        rows = fastconv.explain(ops.residual_add, x, x)
        ops.residual_add(x, x)
    assert [(row["backend"], row["reason"]) for row in rows] == [
        ("reference", "no kernel for torch.int16")
    ]
    assert caplog.messages == ["residual_add runs its reference: no kernel for torch.int16"]


def test_a_wrong_instruction_set_in_the_environment_is_named():
    result = subprocess.run(
        [sys.executable, "-c", "import fastconv"],
        env=os.environ | {"FASTCONV_ISA": "sse9"},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    wanted = "FASTCONV_ISA: expected an instruction set of scalar, avx2, avx512, avx512_bf16, amx, "
    wanted += "amx_emulated, got 'sse9'"
    assert wanted in result.stderr


def test_a_convolution_over_an_image_is_told_where_its_kernel_is_called():
    layer, x = nn.Conv2d(3, 8, 3).eval(), torch.randn(1, 3, 9, 9)
    (row,) = fastconv.explain(layer, x)
    reason = "dense 3x3: of an image, fastconv.optimize or ops.stem_conv2d calls ours"
    assert (row["backend"], row["reason"]) == ("torch", reason)
    (row,) = fastconv.explain(fastconv.optimize(layer, (x,)), x)
    assert (row["op"], row["variant"]) == ("stem_conv2d", "nchw")
