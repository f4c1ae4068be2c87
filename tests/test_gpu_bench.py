"""What `make gpu` writes of each case, rehearsed on the CPU: its columns, and its empty caches."""

import os

import pytest
import torch

from bench.cases import cases_of
from bench.gpu import __main__ as file
from bench.gpu.__main__ import Run, empty_caches, line, pairs
from bench.gpu.calls import calls_of, compiled_anew
from bench.gpu.measure import measure
from bench.gpu.rivals import Rival, rivals_of
from bench.shapes import read
from fastconv import _C, gpu, kept


def only_one_image(x, residual):
    if len(x) > 1:
        raise RuntimeError("one image only\nand a stack")
    return torch.relu(x + residual)


def smallest(direction):
    found = pairs([1], [], ["float32"])
    additions = [p for p in found if (p[0].op, p[0].direction) == ("residual_add", direction)]
    return min(additions, key=lambda pair: pair[0].bytes)


@pytest.fixture
def row():
    case, larger = smallest("forward")
    assert [size[0] for size in larger.sizes] == [size[0] + 1 for size in case.sizes]
    variants = {name: Rival(case.ours, name[-4:]) for name in ("cpu nchw", "cpu nhwc")}
    variants["torch nchw"] = Rival(only_one_image, "nchw")
    return measure(case, larger, variants, torch.device("cpu"), 1e9, 2)


def test_the_first_call_and_that_of_a_new_shape_have_a_column(row):
    for name in ("cpu nchw", "cpu nhwc"):
        variant = row["variants"][name]
        assert {"first_call_seconds", "new_shape_seconds", "seconds", "error"} <= set(variant)
        assert all(variant[key] > 0 for key in variant if key.endswith("seconds"))
    ours = row["variants"][row["ours"]]
    assert f"first call {1e3 * ours['first_call_seconds']:.1f} ms, new shape" in line(row)


def test_a_rival_that_fails_at_a_new_shape_keeps_its_times(row):
    variant = row["variants"]["torch nchw"]
    assert variant["new_shape_failed"] == "RuntimeError: one image only"
    assert "new_shape_seconds" not in variant
    assert variant["seconds"] > 0
    assert row["rival"] == "torch nchw"


def test_first_calls_find_nothing_compiled_but_what_was_tuned(tmp_path, monkeypatch):
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "FASTCONV_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    kept.write(kept.folder("tuned") / "gpu.json", b"tuned")
    kept.write(kept.folder("nvrtc") / "kernel.cubin", b"compiled")
    with empty_caches():
        assert kept.read(kept.folder("tuned") / "gpu.json") == b"tuned"
        assert not kept.folder("nvrtc").exists()
        assert not os.path.exists(os.environ["TRITON_CACHE_DIR"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    def compiled_of(case):
        return {} if case.direction != "forward" else {"compile nhwc": Rival(case.theirs, "nhwc")}

    monkeypatch.setattr(file, "compiled_of", compiled_of)
    return lambda minutes=1.0, resumes=False: Run(
        tmp_path / "kernels.json", torch.device("cpu"), minutes, resumes
    )


def test_what_torch_compile_makes_is_timed_when_all_others_are(run):
    cases = [smallest("forward"), smallest("forward and grad_input")]
    first = run()
    first.time(cases)
    assert not any("compile nhwc" in row["variants"] for row in first.rows)
    assert first.result["left_out"] == 0
    first.time_compiled(cases)
    forward, both = first.rows
    assert forward["variants"]["compile nhwc"]["seconds"] > 0
    assert "first_call_seconds" in forward["variants"][forward["ours"]]
    assert "compile nhwc" not in both["variants"]


def test_another_run_goes_on_where_one_had_no_time(run, capsys):
    cases = [smallest("forward"), smallest("forward and grad_input")]
    run().time(cases[:1])
    out_of_time = run(minutes=0, resumes=True)
    out_of_time.time(cases)
    assert out_of_time.result["left_out"] == 1
    assert "1 cases are left" in capsys.readouterr().out
    resumed = run(resumes=True)
    resumed.time(cases)
    assert [row["case"] for row in resumed.rows] == [str(case) for case, _ in cases]


@pytest.mark.parametrize(("fused", "programs"), [(False, 29), (True, 15)])
def test_nvrtc_compiles_so_many_kernels_for_a_network(fused, programs):
    device = _C.gpu.Device(architecture=90, compiles=True)
    layers = [layer for layer in read("mobilenet_v2") if (layer.op == "inverted_residual") == fused]
    calls = [
        call
        for case in cases_of(layers, [32], ["bfloat16"])
        if case.direction == "forward"
        for call in calls_of(case, "nhwc")
    ]
    found = {launch.expression for op, tensors in calls for launch in gpu.plan(op, tensors, device)}
    assert len(found) == programs


def test_the_ends_of_residual_blocks_are_compared_with_cudnn_in_one_call(monkeypatch):
    def add_relu(x, w, z, alpha, b, stride, padding, dilation, groups):
        return torch.relu(torch.conv2d(x, w, b, stride, padding, dilation, groups) + alpha * z)

    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
    cases = [case for case, _ in pairs([1], [], ["float32"]) if "residual" in case.direction]
    assert [case.shape for case in cases] == [
        "1x64x56x56-256k1s1",
        "1x128x28x28-512k1s1",
        "1x256x14x14-1024k1s1",
        "1x512x7x7-2048k1s1",
    ]
    rivals = rivals_of(cases[-1])
    fused = {name: rivals[name] for name in ("cuDNN add relu nhwc", "torch nhwc")}
    ours = {"cpu nhwc": Rival(cases[-1].ours, "nhwc")}
    variants = measure(cases[-1], None, ours | fused, torch.device("cpu"), 1e9, 2)["variants"]
    assert all("seconds" in variant for variant in variants.values()), variants


def test_nvrtc_is_timed_apart_where_it_compiles_other_code():
    found = {str(case): case for case, _ in pairs([1], ["mobilenet_v2"], ["bfloat16"])}
    block = found["inverted_residual forward 1x64x14x14-64k3s1h384 bfloat16"]
    assert compiled_anew(block, "nhwc", 90)
    assert not compiled_anew(block, "nchw", 90)
    depthwise = found["depthwise_conv2d forward 1x144x56x56-144k3s1 bfloat16"]
    assert not compiled_anew(depthwise, "nhwc", 90)  # but for its channels
    assert not compiled_anew(smallest("forward")[0], "nhwc", 90)
