"""The choice of a backend on machines that are not here, and the blocks that force one."""

import json
import logging
import threading

import pytest
import torch
from torch import nn

import fastconv
from fastconv import _C, dispatch, ops, use_backend
from fastconv.dispatch import GPUS, BackendError, Call, Machine, choose, why_not
from fastconv.dispatch.measured import Row, read_rows
from fastconv.dispatch.told import _said
from fastconv.explain import machine_named
from tests.helpers import reaches

H100 = GPUS["h100"]
WITH_CUDA = H100._replace(
    way="cuda", cuda_ops=frozenset({"pointwise_conv2d"}), ways=frozenset({"cuda", "nvrtc"})
)
WITH_NVRTC = WITH_CUDA._replace(way="nvrtc", ways=frozenset({"nvrtc"}))
NO_TRITON = H100._replace(why_no_triton="Triton is not installed")

X = torch.randn(2, 16, 8, 8)
WEIGHT = torch.randn(24, 16, 1, 1)
DEPTHWISE = torch.randn(16, 1, 3, 3)


def pointwise(x=X, weight=WEIGHT, device="cuda"):
    arguments = (x, weight, None, None, (1, 1), None)
    return Call.of("pointwise_conv2d", arguments, device=device)


def depthwise(k=3):
    weight = torch.empty(16, 1, k, k)
    return Call.of("depthwise_conv2d", (X, weight, None, [1, 1], [0] * 4, [1, 1], None), "cuda")


def residual_add(dtype=torch.float32, device="cuda"):
    x = X.to(dtype)
    return Call.of("residual_add", (x, x, "relu"), device)


@pytest.mark.parametrize(
    ("machine", "call", "backend", "reason"),
    [
        (H100, pointwise(device="cpu"), "cpu", ""),
        (WITH_CUDA, pointwise(), "cuda", "nothing near measured"),
        (WITH_NVRTC, pointwise(), "nvrtc", "cuda: fastconv was built without CUDA"),
        (WITH_CUDA, depthwise(), "triton", "cuda: no CUDA kernel for depthwise_conv2d"),
        (H100, pointwise(), "triton", "nvrtc: CuPy is not installed"),
        (NO_TRITON, pointwise(), "reference", "triton: Triton is not installed"),
        (
            H100,
            depthwise(33),
            "reference",
            "triton: no Triton kernel for filters of 33x33",
        ),
        (H100, residual_add(torch.float64), "reference", "no Triton kernel for torch.float64"),
        (WITH_CUDA, residual_add(torch.int16), "reference", "no kernel for torch.int16"),
        (H100, residual_add(device="xpu"), "reference", "no kernel for device 'xpu'"),
    ],
)
def test_the_default_order_and_what_stands_in_its_way(machine, call, backend, reason):
    choice = choose(call, machine)
    assert choice.backend == backend
    assert reason in choice.reason
    assert bool(choice.reason) == bool(reason)


def test_a_dual_number_takes_the_reference():
    with torch.autograd.forward_ad.dual_level():
        choice = choose(pointwise(), WITH_CUDA)
    assert choice == dispatch.Choice(
        "reference", "forward-mode differentiation takes torch's own formulas"
    )


@pytest.mark.parametrize(
    ("forced", "call", "reason"),
    [
        ("triton", pointwise(device="cpu"), "its tensors are on 'cpu'"),
        ("cpu", pointwise(), "its tensors are on 'cuda'"),
        ("nvrtc", pointwise(), "the CUDA kernels came by 'cuda', which fastconv.gpu.use"),
        ("cuda", depthwise(), "no CUDA kernel for depthwise_conv2d"),
        ("triton", depthwise(33), "filters of 33x33: 31x31 at most"),
        ("triton", residual_add(torch.int16), "no kernel for torch.int16"),
    ],
)
def test_a_forced_backend_that_cannot_raises_and_says_why(forced, call, reason):
    with pytest.raises(BackendError, match=rf"use_backend.*{call.op} cannot run there: .*{reason}"):
        choose(call, WITH_CUDA, forced)
    assert reason in why_not(forced, call, WITH_CUDA)


@pytest.mark.parametrize(
    ("way", "ways", "cuda", "nvrtc"),
    [
        ("cuda", ("cuda", "nvrtc"), "", "came by 'cuda', which fastconv.gpu.use('nvrtc') changes"),
        ("nvrtc", ("cuda", "nvrtc"), "came by 'nvrtc', which fastconv.gpu.use('cuda') changes", ""),
        ("nvrtc", ("nvrtc",), "fastconv was built without CUDA", ""),
        ("cuda", ("cuda",), "", "CuPy is not installed"),
        (None, ("nvrtc",), "built without CUDA", "are switched off, which fastconv.gpu.use('nvrtc"),
        (None, (), "fastconv was built without CUDA", "CuPy is not installed"),
    ],
)
def test_a_way_that_is_closed_is_not_said_to_be_a_matter_of_choice(way, ways, cuda, nvrtc):
    machine = WITH_CUDA._replace(way=way, ways=frozenset(ways))
    for backend, reason in (("cuda", cuda), ("nvrtc", nvrtc)):
        found = why_not(backend, pointwise(), machine)
        assert reason in found
        assert bool(found) == bool(reason)


@pytest.mark.parametrize("forced", ["cuda", "triton", "reference"])
def test_a_forced_backend_that_can_is_taken(forced):
    assert choose(pointwise(), WITH_CUDA, forced).backend == forced


def measured(**times):
    return dispatch.Measured([Row(H100.gpu, pointwise(), times)])


def test_the_fastest_of_the_nearest_measurement_is_taken():
    choice = choose(pointwise(), WITH_CUDA, measured=measured(cuda=9.0, triton=7.0, reference=8.0))
    assert choice.backend == "triton"
    wanted = "cuda 9.0 us, triton 7.0 us, reference 8.0 us for 2x16x8x8 on NVIDIA H100 80GB HBM3"
    assert choice.reason == wanted
    choice = choose(pointwise(), WITH_CUDA, measured=measured(cuda=9.0, triton=7.0, reference=1.0))
    assert choice.backend == "reference"


def test_what_cannot_run_here_is_not_taken_however_fast_it_was():
    times = measured(cuda=1.0, triton=7.0, reference=9.0)
    assert choose(pointwise(), H100, measured=times).backend == "triton"
    assert choose(pointwise(), NO_TRITON, measured=times).backend == "reference"


@pytest.mark.parametrize(
    "call",
    [
        pointwise(torch.empty(2, 16, 8, 33)),  # more than twice as wide
        pointwise(X.bfloat16(), WEIGHT.bfloat16()),
        pointwise(X.contiguous(memory_format=torch.channels_last)),
        depthwise(),
    ],
    ids=["size", "dtype", "layout", "op"],
)
def test_a_measurement_speaks_only_for_calls_like_it(call):
    row = Row(H100.gpu, pointwise(), {"triton": 7.0, "reference": 1.0})
    choice = choose(call, H100, measured=dispatch.Measured([row]))
    assert choice.backend == "triton"
    assert "nothing near measured" in choice.reason


def test_of_two_measurements_the_nearer_one_speaks():
    near = Row(H100.gpu, pointwise(torch.empty(2, 16, 8, 9)), {"triton": 2.0, "reference": 1.0})
    far = Row(H100.gpu, pointwise(torch.empty(2, 16, 8, 14)), {"triton": 1.0, "reference": 2.0})
    for rows in ([near, far], [far, near]):
        table = dispatch.Measured(rows)
        assert choose(pointwise(), H100, measured=table).backend == "reference"


def test_measurements_are_read_as_they_are_written():
    call = pointwise()
    row = {"gpu": H100.gpu, "op": call.op, "dtype": "float32", "layout": "nchw"}
    row |= {"arguments": call.arguments, "microseconds": {"reference": 1.0, "triton": 2.0}}
    table = read_rows(json.dumps({"version": 1, "rows": [row]}))
    assert table.rows[0].call == call
    assert choose(call, H100, measured=table).backend == "reference"
    with pytest.raises(ValueError, match="version 1, got 2"):
        read_rows(json.dumps({"version": 2, "rows": []}))


def test_blocks_nest_and_end():
    def backend():
        return fastconv.explain(ops.residual_add, X, X)[0]["backend"].split()[0]

    assert backend() == "cpu"
    with use_backend("reference"):
        assert backend() == "reference"
        with use_backend("auto"):
            assert backend() == "cpu"
        assert backend() == "reference"
        with use_backend("cpu"):
            assert backend() == "cpu"
    assert backend() == "cpu"
    assert dispatch.state.choosing == ""


def test_the_innermost_block_is_known_where_an_outer_one_has_the_name_too():
    with use_backend("reference"), use_backend("cpu"):
        with use_backend("reference"):
            assert dispatch.state.choosing == "reference"
        assert dispatch.state.choosing == "cpu" == dispatch.forced()


def test_a_block_that_fails_ends_too():
    with pytest.raises(BackendError, match="its tensors are on 'cpu'"), use_backend("triton"):
        ops.residual_add(X, X)
    assert (dispatch.forced(), dispatch.state.choosing) == ("auto", "")


def test_a_block_holds_for_its_own_thread():
    inside, done = threading.Event(), threading.Event()

    def other_thread():
        with use_backend("triton"):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=other_thread)
    thread.start()
    inside.wait(10)
    with reaches("residual_add.same_size"):
        ops.residual_add(X, X)
    done.set()
    thread.join()


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match=r"expected a backend of .*'triton'.*, got 'metal'"):
        use_backend("metal").__enter__()


def calls_of_kernels():
    return sum(count for *_, count in fastconv._C.variants())


@pytest.mark.parametrize("way", ["plain", "out", "gradient", "autocast", "vmap", "grad", "compile"])
def test_no_kernel_of_ours_runs_where_the_reference_is_forced(way):
    x, weight = X.clone().requires_grad_(way == "gradient"), WEIGHT.clone()

    def run():
        if way == "out":
            return ops.pointwise_conv2d(x, weight, out=torch.empty(2, 24, 8, 8))
        if way == "gradient":
            y = ops.pointwise_conv2d(x, weight, activation="silu")
            return torch.autograd.grad(y.sum(), x)[0]
        if way == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                return ops.pointwise_conv2d(x, weight)
        if way == "vmap":
            return torch.vmap(ops.pointwise_conv2d, (0, None))(x, weight)
        if way == "grad":
            return torch.func.grad(lambda x: ops.pointwise_conv2d(x, weight).sum())(x)
        return ops.pointwise_conv2d(x, weight)

    run = torch.compile(run, backend="aot_eager") if way == "compile" else run
    before = calls_of_kernels()
    expected = run()
    assert calls_of_kernels() > before
    before = calls_of_kernels()
    with use_backend("reference"):
        actual = run()
    assert calls_of_kernels() == before
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected)
    run()
    assert calls_of_kernels() > before


def test_a_compiled_function_is_compiled_again_for_another_backend():
    weight = WEIGHT.clone().requires_grad_()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def loss(x):
        return ops.pointwise_conv2d(x, weight, activation="silu").square().sum()

    expected = torch.autograd.grad(loss(X), weight)
    for backend, runs in (
        ("reference", False),
        ("auto", True),
        ("cpu", True),
        ("reference", False),
    ):
        before = calls_of_kernels()
        with use_backend(backend):
            actual = torch.autograd.grad(loss(X), weight)
        assert (calls_of_kernels() > before) == runs
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["auto", "reference", "triton"])
def test_an_exported_program_keeps_the_op(backend):
    layer = fastconv.nn.PointwiseConv2d(16, 24)
    with use_backend(backend):
        program = torch.export.export(layer, (X,))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["fastconv.pointwise_conv2d.default"]


def test_an_optimized_network_runs_where_it_is_forced():
    model = nn.Sequential(nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, groups=32, padding=1)).eval()
    fast = fastconv.optimize(model, (X,))
    expected = fast(X)
    before = calls_of_kernels()
    with use_backend("reference"):
        torch.testing.assert_close(fast(X), expected)
    assert calls_of_kernels() == before
    with pytest.raises(BackendError, match="its tensors are on 'cpu'"), use_backend("triton"):
        fast(X)


def test_a_gradient_is_computed_where_its_forward_pass_was():
    x = X.clone().requires_grad_()
    with use_backend("reference"):
        y = ops.pointwise_conv2d(x, WEIGHT, activation="relu")
    before = calls_of_kernels()
    y.sum().backward()
    assert calls_of_kernels() == before


def test_a_choice_is_logged_once(caplog):
    _said.clear()
    with caplog.at_level(logging.INFO, logger="fastconv"), use_backend("reference"):
        ops.residual_add(X, X)
        ops.residual_add(X, X)
    assert caplog.messages == ["residual_add runs its reference: forced by use_backend"]


@pytest.mark.parametrize(
    ("ways", "backend"), [((), "triton"), (("nvrtc",), "nvrtc"), (("cuda", "nvrtc"), "cuda")]
)
def test_a_plan_names_a_backend_for_every_layer_without_a_gpu(monkeypatch, ways, backend):
    missing = {way: None if way in ways else "not here" for way in ("cuda", "nvrtc")}
    monkeypatch.setattr(dispatch.machine, "missing", missing.get)
    model = fastconv.swap_(
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.Conv2d(8, 16, 1),
            nn.BatchNorm2d(16),
        ).eval()
    )
    rows = fastconv.explain(model, torch.empty(1, 3, 9, 9), device="meta-h100")
    assert [row["backend"] for row in rows] == ["torch", backend, backend, "reference"]
    assert "on NVIDIA H100 80GB HBM3" in rows[1]["reason"]
    assert rows[1]["variant"], "no kernel is named"
    assert "fastconv.gpu.use" not in rows[1]["reason"]  # what serves is the best there is
    assert rows[3]["reason"].endswith("triton: no Triton kernel for batch_norm")
    assert model[1].weight.device.type == "cpu"
    with use_backend("triton"):
        rows = fastconv.explain(model, torch.empty(1, 3, 9, 9), device="meta-h100")
    assert [row["backend"] for row in rows] == ["torch", "triton", "triton", "none"]
    with pytest.raises(ValueError, match=r"meta-a100, .*, got 'meta-tpu'"):
        fastconv.explain(model, torch.empty(1, 3, 9, 9), device="meta-tpu")


@pytest.mark.parametrize(
    ("arch", "reason"), [(75, "Triton kernels want sm_80, this is sm_75"), (90, "")]
)
def test_an_old_gpu_has_no_triton(monkeypatch, arch, reason):
    monkeypatch.setattr(dispatch.machine, "find_spec", lambda name: name)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert dispatch.machine.why_no_triton(arch) == reason
    monkeypatch.setattr(dispatch.machine, "find_spec", lambda name: None)
    assert dispatch.machine.why_no_triton(arch) == "Triton is not installed"


def test_a_machine_without_a_gpu_is_found():
    machine = dispatch.this_machine()
    assert isinstance(machine, Machine)
    assert (machine.gpu, machine.way, machine.cuda_ops) == ("", None, frozenset())


def test_a_build_knows_which_ops_have_cuda_kernels():
    named = machine_named("meta-h100")
    assert {op for op, *_ in _C.gpu.kernels()} <= named.cuda_ops
    assert {"separable_conv2d", "depthwise_conv2d_backward_weight"} <= named.cuda_ops
    assert not {"stem_conv2d", "max_pool2d"} & named.cuda_ops
