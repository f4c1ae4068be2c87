"""GPUs, drivers and tensors that no CUDA kernel of ours can serve: what is said, what runs instead.

No GPU is needed: the machine is one in name, and its tensors are fake.
"""

import logging

import pytest
import torch
from torch._functorch.aot_autograd import aot_function
from torch._subclasses import FakeTensorMode

from fastconv import _C, dispatch, doctor, gpu, ops
from fastconv.dispatch import GPUS, BackendError, Call, choose, here
from fastconv.dispatch.machine import why_no_cuda
from fastconv.dispatch.told import _said
from fastconv.ops import _op
from tests.helpers import SETUP

OPS = frozenset({"pointwise_conv2d", "pointwise_conv2d_backward"})
OLD = "the CUDA kernels want sm_80 or newer, this is sm_75"
TURING = dispatch.Machine(
    "Tesla T4", 75, "nvrtc", OPS, "Triton kernels want sm_80, this is sm_75", why_no_cuda=OLD
)


@pytest.mark.parametrize(
    ("arch", "way", "built_for", "reason"),
    [
        (75, "cuda", "80 90 100", OLD),
        (75, "nvrtc", "", OLD),
        (75, None, "", ""),
        (80, "nvrtc", "", ""),
        (80, "cuda", "80 90", ""),
        (86, "cuda", "80 90", ""),  # the code of sm_80
        (89, "cuda", "90", "fastconv was built for GPUs of 90, this is sm_89: FASTCONV_GPU=nvrtc"),
        (90, "cuda", "80 100", "build anew with FASTCONV_CUDA_ARCHITECTURES=90"),
        (80, "cuda", "90", "build anew with FASTCONV_CUDA_ARCHITECTURES=80"),
        (103, "cuda", "80 90 100", ""),
        (120, "cuda", "80 90", ""),  # the PTX of sm_90
        (90, "cuda", "90a", ""),
        (100, "cuda", "90a", "this is sm_100"),
    ],
)
def test_a_gpu_that_the_kernels_were_not_built_for_is_told(arch, way, built_for, reason):
    found = why_no_cuda(arch, way, built_for)
    assert reason in found
    assert bool(reason) == bool(found)


def pointwise():
    x, weight = torch.empty(2, 16, 8, 8), torch.empty(24, 16, 1, 1)
    return Call.of("pointwise_conv2d", (x, weight, None, None, (1, 1), None), "cuda")


def test_the_next_backend_is_taken_and_the_reason_is_kept():
    choice = choose(pointwise(), TURING)
    assert choice.backend == "reference"
    assert f"nvrtc: {OLD}" in choice.reason
    assert "triton: Triton kernels want sm_80, this is sm_75" in choice.reason
    newer = GPUS["h100"]._replace(way="cuda", cuda_ops=OPS, why_no_cuda="built for 80")
    assert choose(pointwise(), newer).backend == "triton"


def test_a_forced_way_that_cannot_run_there_raises_and_says_why():
    with pytest.raises(BackendError, match=f"use_backend.'nvrtc'.*cannot run there: {OLD}"):
        choose(pointwise(), TURING, "nvrtc")


@pytest.fixture
def a_turing_gpu(monkeypatch):
    """In name, the kernels registered for it as after a start with a torch for CUDA."""
    monkeypatch.setattr(_C.gpu, "way", lambda: "nvrtc")
    monkeypatch.setattr(here, "this_machine", lambda device: TURING)
    here._decide.cache_clear()
    _said.clear()
    yield
    here._decide.cache_clear()


def of_its_shape(x, weight, *_):
    """In place of a reference, whose ops of torch want a true GPU below autograd."""
    return x.new_empty(len(x), len(weight), *x.shape[2:])


@pytest.mark.usefixtures("a_turing_gpu")
@pytest.mark.parametrize("out", [False, True])
def test_eager_calls_run_the_reference_and_say_so_once(out, caplog, monkeypatch):
    monkeypatch.setattr(_op.OPS["pointwise_conv2d"], "reference", of_its_shape)
    monkeypatch.setattr(_op.Op, "_copy_into", lambda self, out, result: result)
    with FakeTensorMode(), caplog.at_level(logging.INFO, logger="fastconv"):
        x = torch.empty(2, 16, 8, 8, device="cuda")
        weight = torch.empty(24, 16, 1, 1, device="cuda")
        into = {"out": torch.empty(2, 24, 8, 8, device="cuda")} if out else {}
        for _ in range(2):
            y = ops.pointwise_conv2d(x, weight, **into)
    assert (y.shape, y.device.type) == ((2, 24, 8, 8), "cuda")
    (message,) = caplog.messages
    assert message.startswith("pointwise_conv2d runs its reference: ")
    assert OLD in message


@pytest.mark.usefixtures("a_turing_gpu")
def test_backward_passes_run_the_reference_too(monkeypatch):
    """Called by itself: torch's own engine of gradients asks for a true GPU."""
    shapes = lambda grad, x, weight, *_: (x.clone(), weight.clone(), None)  # noqa: E731
    monkeypatch.setattr(_op.OPS["pointwise_conv2d_backward"], "reference", shapes)
    with FakeTensorMode():
        grad, x = (torch.empty(2, channels, 8, 8, device="cuda") for channels in (24, 16))
        weight = torch.empty(24, 16, 1, 1, device="cuda")
        backward = _op.OPS["pointwise_conv2d_backward"]
        grad_input, *_ = backward(grad, x, weight, (1, 1), (True, True, False))
    assert grad_input.shape == x.shape
    assert [op for op, choice in _said if OLD in choice.reason] == ["pointwise_conv2d_backward"]


@pytest.mark.usefixtures("a_turing_gpu")
def test_torch_compile_sees_the_reference():
    seen = []

    def compiler(graph, _inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    def call(x, weight):
        return torch.ops.fastconv.pointwise_conv2d(x, weight, None, None, (1, 1), None)

    with FakeTensorMode():
        x = torch.empty(2, 16, 8, 8, device="cuda")
        aot_function(call, compiler)(x, torch.empty(24, 16, 1, 1, device="cuda"))
    assert any("conv" in target for target in seen)
    assert not any("fastconv" in target for target in seen)


def test_a_launch_is_refused_below_the_choice():
    """A raw op of torch.ops.fastconv asks nobody which backend it may run on."""
    x = torch.empty(2, 16, 8, 8, device="meta")
    arguments = (x, torch.empty(24, 16, 1, 1, device="meta"), None, None, (1, 1), None)
    with pytest.raises(RuntimeError, match="want a GPU of sm_80 or newer, this is sm_75: within"):
        gpu.plan("pointwise_conv2d", arguments, _C.gpu.Device(architecture=75))
    assert gpu.plan("pointwise_conv2d", arguments, _C.gpu.Device(architecture=80))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (35, "update the driver"),
        (222, "update the driver"),
        (209, "FASTCONV_CUDA_ARCHITECTURES"),
        (719, "must be started anew"),
        (1, ""),
    ],
)
def test_an_error_of_cuda_comes_with_what_mends_it(error, advice):
    assert advice in _C.gpu.advice(error)
    assert bool(advice) == bool(_C.gpu.advice(error))


@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_tensors_on_two_devices_are_refused_by_name(devices):
    with FakeTensorMode():
        x = torch.empty(2, 16, 8, 8, device=devices[0])
        weight = torch.empty(24, 16, 1, 1, device=devices[1])
        with pytest.raises(RuntimeError, match=r"expected weight of the device .* of input \(c"):
            ops.pointwise_conv2d(x, weight)


def test_the_start_says_which_way_was_passed_over(monkeypatch, caplog):
    monkeypatch.delenv("FASTCONV_GPU", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    used = []
    monkeypatch.setattr(gpu, "use", used.append)
    lacking = {"cuda": "fastconv was built without CUDA", "nvrtc": None}
    monkeypatch.setattr(gpu, "missing", lacking.get)
    with caplog.at_level(logging.INFO, logger="fastconv"):
        gpu.start()
        lacking["nvrtc"] = "CuPy is not installed"
        gpu.start()
    assert used == ["nvrtc"]
    assert caplog.messages == [
        "CUDA tensors run on nvrtc: fastconv was built without CUDA",
        "CUDA tensors run on no CUDA kernels: fastconv was built without CUDA; "
        "CuPy is not installed",
    ]


def test_the_doctor_says_that_the_live_kernels_do_not_run_on_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: TURING.gpu)
    monkeypatch.setattr(_C.gpu, "way", lambda: "nvrtc")
    monkeypatch.setattr(gpu, "missing", lambda way: None)
    monkeypatch.setattr(dispatch, "this_machine", lambda device: TURING)
    found = {finding.name: finding for finding in doctor.gpu_findings()}
    live = found["CUDA kernels, compiled at run time"]
    assert (live.found, live.detail) == (False, OLD)


def test_a_build_for_cuda_without_nvcc_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("FASTCONV_CUDA", "1")
    compiler = SETUP["cuda_compiler"]
    monkeypatch.setitem(compiler.__globals__, "find_nvcc", lambda: None)
    with pytest.raises(SystemExit, match="name its folder in CUDA_HOME, or `pip install --group"):
        compiler(SETUP["find_torch"]())
    monkeypatch.setenv("FASTCONV_CUDA", "0")
    assert compiler(SETUP["find_torch"]()) is None


@pytest.mark.parametrize(
    ("release", "wanted", "architectures"),
    [
        ("12.4", "", ["80", "90"]),
        ("13.0", "", ["80", "90", "100"]),
        ("13.0", "90, 100", ["90", "100"]),
        ("11.8", "", None),
    ],
)
def test_a_build_is_for_what_nvcc_knows(release, wanted, architectures, tmp_path, monkeypatch):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.1\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("FASTCONV_CUDA_ARCHITECTURES", wanted)
    if architectures is None:
        with pytest.raises(SystemExit, match=r"nvcc 12.0 or newer, and .*nvcc is 11.8"):
            SETUP["cuda_architectures"](nvcc)
    else:
        assert SETUP["cuda_architectures"](nvcc) == architectures
