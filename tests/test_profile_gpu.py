"""A profile on a GPU, rehearsed on the processor, which stands in for the GPU alone."""

from functools import partial

import pytest
import torch
from torch import nn

from fastconv.profiling import on_gpu
from fastconv.profiling.device import (
    BEGIN,
    MARK,
    EventClock,
    HostEvent,
    KernelClock,
    calls_of,
    executions,
    short,
)
from fastconv.profiling.measure import profile
from fastconv.profiling.on_gpu import GpuSession
from fastconv.profiling.record import Profile
from fastconv.profiling.reports import as_markdown, as_page, as_trace
from fastconv.profiling.steps import LackingError, clocked
from fastconv.profiling.subject import load
from tests.gpus import CONVOLUTION, KERNEL_SECONDS, OURS, TRANSPOSE, FakeGpu
from tests.helpers import ROOT, threads

SCRIPT = str(ROOT / "tests" / "profiled_script.py")


@pytest.fixture(scope="module")
def measured() -> Profile:
    with threads(1):
        return profile(load(SCRIPT), seconds=0.1, session=partial(GpuSession, gpu=FakeGpu()))


def test_layers_have_the_times_of_their_kernels(measured):
    assert measured.lacking == {}
    layers = {layer.name: layer for layer in measured.layers}
    assert list(layers) == ["0", "1", "2.expand", "2.dense", "2", "3", "4"]
    kernel = 1e3 * KERNEL_SECONDS
    assert layers["0"].torch.ms == pytest.approx(2 * kernel)
    assert layers["0"].fastconv.ms == pytest.approx(kernel)
    assert layers["1"].fastconv.kernels == ["local_response_norm_forward"]
    assert layers["3"].fastconv.ms == 0  # a view launches nothing
    assert measured.wholes["torch"].layers_ms == pytest.approx(3 * 2 * kernel)


def test_kernels_that_only_transpose_are_hidden_reorders(measured):
    layers = {layer.name: layer for layer in measured.layers}
    dense = layers["2.dense"]
    assert (dense.torch.reorders, dense.fastconv.reorders) == (1, 0)
    assert dense.torch.reorder_ms == pytest.approx(1e3 * KERNEL_SECONDS)
    assert dense.torch.kernels == ["Kernel2"]


def test_the_record_says_where_it_was_measured(measured):
    assert measured.gpu.startswith("Measured on Abacus 100")
    assert measured.environment["GPU"] == "Abacus 100, sm_90"
    assert measured.roofs is not None
    assert measured.roofs.flops > 1e8
    assert measured.starts["torch"].first > 0
    assert any(alarm.what == "aten.avg_pool3d" for alarm in measured.alarms)
    assert Profile.from_dict(measured.to_dict()) == measured
    for written in (as_markdown(measured), as_page(measured), as_trace(measured)):
        assert "Abacus 100" in written
        assert "No GPU was measured" not in written


def test_a_kernel_belongs_to_the_mark_that_follows_its_launch():
    events = [
        HostEvent("aten::relu", 0.5, [("before any call", 9.0)]),
        HostEvent(MARK + BEGIN, 1.0, []),
        HostEvent("aten::conv2d", 2.0, []),
        HostEvent("aten::add", 5.0, [("add", 1.0)]),
        HostEvent("aten::convolution", 2.1, [(TRANSPOSE, 1.0), (CONVOLUTION, 2.0)]),
        HostEvent(MARK + "conv", 4.0, []),
        HostEvent(MARK + "add", 6.0, []),
        HostEvent(MARK + BEGIN, 7.0, []),
        HostEvent(MARK + "conv", 8.0, []),
    ]
    first, second = calls_of(events)
    assert first == [("conv", [(TRANSPOSE, 1.0), (CONVOLUTION, 2.0)]), ("add", [("add", 1.0)])]
    assert second == [("conv", [])]
    (_, runs), _ = executions(first)
    assert [(run.kind, run.ms) for run in runs] == [("reorder", 1e3), ("kernel", 2e3)]


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        (OURS, "local_response_norm_forward"),
        (TRANSPOSE, "nchwToNhwcKernel"),
        ("sm90_xmma_fprop_implicit_gemm_bf16", "sm90_xmma_fprop_implicit_gemm_bf16"),
        ("Memset (Device)", "Memset"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)"
            "::relu(at::TensorIterator&)::{lambda()#1}, std::array<char*, 2> >(int, float)",
            "vectorized_elementwise_kernel",
        ),
    ],
)
def test_kernels_are_named_without_their_types(kernel, name):
    assert short(kernel) == name


def test_calls_are_timed_between_events_and_by_kernels():
    gpu, model = FakeGpu(), nn.Conv2d(3, 4, 1).eval()
    image = torch.randn(1, 3, 4, 4)
    with clocked(model, (image,), KernelClock(gpu)) as clock:
        assert clock.run(2, warm_up=1) == pytest.approx([2 * KERNEL_SECONDS] * 2)
        assert clock.run(100, warm_up=0) == pytest.approx([2 * KERNEL_SECONDS] * 5)
    assert clock.owners == ["", "", ""]
    whole = EventClock(gpu)
    whole.call = lambda: model(image)
    assert len(whole.run(3, warm_up=1)) == 3
    assert min(whole.totals) > 0


def test_a_gpu_that_shows_no_kernel_is_told():
    model = nn.ReLU()
    with (
        clocked(model, (torch.ones(2),), KernelClock(FakeGpu())) as clock,
        pytest.raises(LackingError, match="saw no kernel"),
    ):
        clock.run(1, warm_up=0)


def test_a_model_that_optimize_fails_on_is_swapped_on_a_gpu(monkeypatch):
    from fastconv.profiling import networks

    def broken(*_arguments, **_settings):
        raise RuntimeError("not on this device\nand a stack")

    monkeypatch.setattr(networks.fastconv, "optimize", broken)
    model, image = nn.Conv2d(3, 4, 1).eval(), torch.randn(1, 3, 4, 4)
    with pytest.raises(RuntimeError, match="not on this device"):
        networks.optimized(model, (image,))
    network, why = networks.optimized(model, (image.to("meta"),))
    assert type(network).__module__.startswith("fastconv.nn")
    assert why == "fastconv.optimize failed on the GPU: RuntimeError: not on this device"


def test_roofs_are_those_of_copies_and_products():
    roofs = on_gpu.measure_gpu_roofs(torch.device("cpu"), torch.float32)
    assert roofs.read == roofs.copy
    assert len(roofs.sizes) == len(roofs.copy)
    assert min(roofs.copy) > 1e7
