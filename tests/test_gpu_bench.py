"""What `make gpu` writes of each case, rehearsed on the CPU: its columns, and its empty caches."""

import os

import pytest
import torch

from bench.gpu.__main__ import empty_caches, line, pairs
from bench.gpu.measure import measure
from fastconv import kept

CPU = torch.device("cpu")


def addition():
    return next(p for p in pairs([1], [], ["float32"]) if "add forward 1x2048x7x7" in str(p[0]))


@pytest.fixture(scope="module")
def row():
    case, larger = addition()
    assert [size[0] for size in larger.sizes] == [size[0] + 1 for size in case.sizes]
    case.rivals.pop("compile nhwc")  # half a minute of a compiler
    return measure(case, larger, CPU, 1e9, 2)


def test_the_first_call_and_that_of_a_new_shape_have_a_column(row):
    for name in ("cpu nchw", "cpu nhwc", "torch nchw", "torch nhwc"):
        variant = row["variants"][name]
        assert {"first_call_seconds", "new_shape_seconds", "seconds", "error"} <= set(variant)
        assert all(variant[key] > 0 for key in variant if key.endswith("_seconds"))
    ours = row["variants"][row["ours"]]
    assert f"first call {1e3 * ours['first_call_seconds']:.1f} ms, new shape" in line(row)


def test_a_rival_that_fails_at_a_new_shape_keeps_its_times():
    case, larger = addition()
    rival = case.rivals["torch nchw"]

    def fixed(x, r):
        if len(x) > 1:
            raise RuntimeError("one image only\nand a stack")
        return rival.function(x, r)

    case.rivals.clear()
    case.rivals["fixed nchw"] = type(rival)(fixed, "nchw")
    variant = measure(case, larger, CPU, 1e9, 1)["variants"]["fixed nchw"]
    assert variant["new_shape_failed"] == "RuntimeError: one image only"
    assert variant["seconds"] > 0


def test_first_calls_find_nothing_compiled_but_what_was_tuned(tmp_path, monkeypatch):
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "FASTCONV_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    kept.write(kept.folder("tuned") / "gpu.json", b"tuned")
    kept.write(kept.folder("nvrtc") / "kernel.cubin", b"compiled")
    with empty_caches():
        assert kept.read(kept.folder("tuned") / "gpu.json") == b"tuned"
        assert not kept.folder("nvrtc").exists()
        assert not os.path.exists(os.environ["TRITON_CACHE_DIR"])
