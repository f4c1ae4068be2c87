"""From a call of an op to its Triton kernels, without a GPU."""

from types import SimpleNamespace

import pytest
import torch
import triton
from torch import nn
from torch._functorch.aot_autograd import aot_function
from torch._subclasses import FakeTensorMode

import fastconv
from fastconv.dispatch import GPUS, here
from fastconv.dispatch.triton_limits import LIMITS
from fastconv.triton_kernels import KERNELS


@pytest.fixture
def an_h100(monkeypatch):
    """In name: torch asks Triton for it, to find out what a kernel writes to, and so do we."""
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    named = SimpleNamespace(get_current_target=lambda: target)
    monkeypatch.setattr(triton.runtime.driver, "_active", named)
    monkeypatch.setattr(here, "this_machine", lambda device: GPUS["h100"])
    here._decide.cache_clear()
    yield
    here._decide.cache_clear()


@pytest.mark.usefixtures("an_h100")
@pytest.mark.parametrize(
    ("channels", "dtype", "layout"),
    [
        (24, torch.float32, torch.contiguous_format),
        (256, torch.bfloat16, torch.channels_last),  # boxes, were it not traced
    ],
)
def test_torch_compile_sees_the_kernels_of_an_op(channels, dtype, layout):
    seen = []

    def compiler(graph, _inputs):
        seen.extend(graph.graph.nodes)
        return graph

    def call(x, weight):
        return torch.ops.fastconv.pointwise_conv2d(x, weight, None, None, (1, 1), "relu")

    with FakeTensorMode():
        x = torch.empty(2, channels, 8, 8, device="cuda", dtype=dtype, memory_format=layout)
        weight = torch.empty(64, channels, 1, 1, device="cuda", dtype=dtype)
        aot_function(call, compiler)(x, weight)
    targets = [str(node.target) for node in seen]
    assert "triton_kernel_wrapper_functional" in targets
    assert not any("fastconv" in target for target in targets)


def test_a_plan_names_the_kernels_of_each_layer():
    layers = nn.Conv2d(24, 144, 1), nn.Conv2d(144, 256, 1), nn.Conv2d(256, 64, 1)
    model = fastconv.swap_(nn.Sequential(*layers).to(memory_format=torch.channels_last))
    images = torch.empty(1, 24, 56, 56).contiguous(memory_format=torch.channels_last)
    for device, last in (("meta-h100", "descriptor"), ("meta-a100", "tile")):
        with fastconv.use_backend("triton"):
            rows = fastconv.explain(model.bfloat16(), images.bfloat16(), device=device)
        assert [row["variant"] for row in rows] == ["panel", last, last]


def test_the_limits_of_every_kernel_are_told_without_triton():
    assert set(LIMITS) == {name for name in KERNELS if hasattr(torch.ops.fastconv, name)}
