"""From the results of `make gpu` to the table that the choice of a backend reads."""

import json

import pytest

from bench.gpu import choices
from bench.gpu.rivals import NETWORKS, all_cases
from fastconv.dispatch import GPUS, choose
from fastconv.dispatch.measured import PATH, read_rows


@pytest.fixture(scope="module")
def cases():
    some = {}
    for case in all_cases([128], NETWORKS[:1], ["bfloat16"]):
        some.setdefault((case.op, case.direction), case)
    return list(some.values())


def results(cases, device="NVIDIA H100 80GB HBM3"):
    """As bench.gpu writes them: Triton is faster in channels_last, torch in the other layout."""
    variants = {
        "triton nhwc": {"seconds": 1e-6},
        "torch nhwc": {"seconds": 2e-6},
        "triton nchw": {"seconds": 2e-6},
        "torch nchw": {"seconds": 1e-6},
        "cuda nhwc": {"failed": "RuntimeError: no GPU"},
        "compile nhwc": {"seconds": 5e-7},
    }
    rows = [{"case": str(case), "dtype": "bfloat16", "variants": variants} for case in cases]
    return {"machine": {"device": device}, "rows": rows}


def test_each_case_and_layout_decides_for_calls_like_it(cases):
    text = choices.as_json(choices.table([results(cases)], {"rows": []}))
    measured = read_rows(text)
    assert len(measured.rows) == 2 * len(cases)
    for row in measured.rows:
        choice = choose(row.call, GPUS["h100"], measured=measured)
        assert choice.backend == ("triton" if row.call.layout == "nhwc" else "reference")
        assert "triton 1.0 us" in choice.reason or "triton 2.0 us" in choice.reason
    assert {row.call.op for row in measured.rows} >= {
        "pointwise_conv2d",
        "pointwise_conv2d_backward",
        "depthwise_conv2d_backward_weight",
        "inverted_residual",
    }


def test_a_gpu_measured_anew_replaces_only_its_own_rows(cases):
    old = choices.table([results(cases[:2], "A"), results(cases[:2], "B")], {"rows": []})
    new = choices.table([results(cases[:1], "B")], old)
    assert [row["gpu"] for row in new["rows"]] == ["A"] * 4 + ["B"] * 2


def test_a_rehearsal_decides_nothing(tmp_path, monkeypatch, capsys):
    file = tmp_path / "kernels.json"
    file.write_text(json.dumps({"machine": {}, "rows": []}))
    monkeypatch.setattr("sys.argv", ["choices", str(file), "--write"])
    before = PATH.read_text()
    assert choices.main() == 1
    assert "rehearsal" in capsys.readouterr().err
    assert PATH.read_text() == before


def test_the_table_that_ships_is_as_it_is_written():
    table = json.loads(PATH.read_text())
    assert choices.as_json(table) == PATH.read_text()
