"""What `make gpu` writes of each case, rehearsed on the CPU: its columns, and its empty caches."""

import os

import pytest
import torch

from bench.gpu import measure as file
from bench.gpu.__main__ import empty_caches, line, pairs
from bench.gpu.measure import Rival, measure
from fastconv import kept


def only_one_image(x, residual):
    if len(x) > 1:
        raise RuntimeError("one image only\nand a stack")
    return torch.relu(x + residual)


@pytest.fixture
def row(monkeypatch):
    found = pairs([1], [], ["float32"])
    additions = [p for p in found if (p[0].op, p[0].direction) == ("residual_add", "forward")]
    case, larger = min(additions, key=lambda pair: pair[0].bytes)
    assert [size[0] for size in larger.sizes] == [size[0] + 1 for size in case.sizes]
    variants = {name: Rival(case.ours, name[-4:]) for name in ("cpu nchw", "cpu nhwc")}
    variants["torch nchw"] = Rival(only_one_image, "nchw")
    monkeypatch.setattr(file, "variants_of", lambda case: variants)
    return measure(case, larger, torch.device("cpu"), 1e9, 2)


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
