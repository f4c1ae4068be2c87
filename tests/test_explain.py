import logging
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import fastconv
from fastconv import dispatch, ops
from tests.helpers import isa


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


def test_the_instruction_set_is_named():
    x = torch.randn(1, 4, 5, 5)
    with isa("scalar"):
        (row,) = fastconv.explain(ops.depthwise_conv2d, x, torch.randn(4, 1, 3, 3))
    assert row["backend"] == "cpu (scalar)"
    assert row["variant"] == "nchw_any"


def test_a_fallback_says_why_and_is_logged_once(caplog):
    x = torch.ones(4, dtype=torch.int16)
    dispatch._said.clear()
    with caplog.at_level(logging.INFO, logger="fastconv"):
        rows = fastconv.explain(ops.residual_add, x, x)
        ops.residual_add(x, x)
    assert [(row["backend"], row["reason"]) for row in rows] == [
        ("reference", "no kernel for torch.int16")
    ]
    assert caplog.messages == ["residual_add runs its reference: no kernel for torch.int16"]


@pytest.mark.parametrize(
    ("tensor", "backend"),
    [
        (torch.ones(1), "cpu"),
        (torch.ones(1, dtype=torch.complex64), "reference"),
        (torch.ones(1, device="meta"), "reference"),
    ],
)
def test_the_choice_is_a_function_of_the_tensor(tensor, backend):
    assert dispatch.choose(tensor).backend == backend


def test_a_wrong_instruction_set_in_the_environment_is_named():
    result = subprocess.run(
        [sys.executable, "-c", "import fastconv"],
        env=os.environ | {"FASTCONV_ISA": "sse9"},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    wanted = "FASTCONV_ISA: expected instruction set 'scalar', 'avx2' or 'avx512', got 'sse9'"
    assert wanted in result.stderr
