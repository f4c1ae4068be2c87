"""Hardware counters: ncu and its reader replaced by ones made up, all that lies between is real."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import fastconv.cli.profile as command
from fastconv.cli import app
from fastconv.profiling import counters
from fastconv.profiling.counters import METRICS, CountersError, find_ncu, joined, merged, run_ncu
from fastconv.profiling.measure import profile
from fastconv.profiling.on_gpu import GpuSession
from fastconv.profiling.reports import as_markdown, as_page
from fastconv.profiling.subject import load
from tests.gpus import FakeGpu
from tests.helpers import ROOT

SCRIPT = str(ROOT / "tests" / "profiled_script.py")
JOB = {"name": SCRIPT, "batch": None, "dtype": None, "device": "cpu", "threads": 1}
JOB["channels_last"] = True

# Runs what it is given with ranges that it notes, a kernel for each: the report is their names.
NCU = f"""#!{sys.executable}
import json, sys, torch

running, kernels = [], []
torch.cuda.nvtx.range_push = running.append
torch.cuda.nvtx.range_pop = lambda: kernels.append([running.pop()])
torch.cuda.profiler.start = torch.cuda.profiler.stop = lambda: None
arguments = sys.argv[1:]
assert "--nvtx" in arguments and arguments[-3] == "fastconv.profiling.counted"
from fastconv.profiling.counted import main

main(*arguments[-2:])
assert not running
json.dump(kernels, open(arguments[arguments.index("--export") + 1], "w"))
"""


VALUES = {
    "gpu__time_duration.sum": (2000.0, "nsecond"),
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": (40.0, "%"),
}


class Action:
    """As ncu_report's IAction: each kernel takes 2000 ns, at 40 % of the memory's rate."""

    def __init__(self, ranges):
        self.ranges = ranges

    def nvtx_state(self):
        domain = SimpleNamespace(push_pop_ranges=lambda: tuple(self.ranges))
        return SimpleNamespace(domains=lambda: (7,), domain_by_id={7: domain}.__getitem__)

    def metric_by_name(self, name):
        if name not in VALUES:
            return None
        value, unit = VALUES[name]
        return SimpleNamespace(has_value=lambda: True, unit=lambda: unit, as_double=lambda: value)


@pytest.fixture
def ncu(monkeypatch, tmp_path):
    """Puts an ncu of this source on PATH, and a reader of what NCU writes beside it."""

    def put(source=NCU):
        path = tmp_path / "ncu"
        path.write_text(source)
        path.chmod(0o755)
        return path

    def load_report(file):
        with open(file) as report:
            return [[Action(ranges) for ranges in json.load(report)]]

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setitem(sys.modules, "ncu_report", SimpleNamespace(load_report=load_report))
    return put


def test_counters_stand_beside_the_layers(ncu):
    session = partial(GpuSession, gpu=FakeGpu(), ncu=ncu())
    result = profile(load(SCRIPT), seconds=0.1, session=session)
    assert result.lacking == {}
    layers = {layer.name: layer for layer in result.layers}
    assert layers["1"].fastconv.counters == pytest.approx({"ms": 2e-3, "dram_percent": 40.0})
    # In torch a module's stretches before and after its children are its own: conv, norm, relu.
    assert layers["2.expand"].torch.counters["ms"] >= 3 * 2e-3
    for written in (as_markdown(result), as_page(result)):
        assert "of DRAM" in written


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "#!/bin/sh\necho '==ERROR== ERR_NVGPUCTRPERM - no permission'\n",
            "may not read the GPU's counters",
        ),
        (
            "#!/bin/sh\necho '==ERROR== no kernels were profiled'; exit 9\n",
            "status 9: ==ERROR== no",
        ),
        ("#!/bin/sh\n", "exit status 0: it said nothing"),
        ("#!/no/such/interpreter\n", "does not run"),
    ],
)
def test_an_ncu_that_fails_is_told_and_leaves_the_rest(ncu, source, words):
    with pytest.raises(CountersError, match=words):
        run_ncu(ncu(source), JOB)


def test_what_is_missing_is_told_before_anything_is_measured(ncu, monkeypatch, tmp_path):
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: True)
    arguments = ["profile", "lenet5", "--device", "cuda", "--ncu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "there is no ncu on PATH" in result.stderr
    ncu()
    monkeypatch.setitem(sys.modules, "ncu_report", None)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "need ncu_report" in result.stderr
    assert "pip install ncu-report" in result.stderr


def test_the_reader_beside_ncu_serves(ncu, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "ncu_report")
    folder = tmp_path / "extras" / "python"
    folder.mkdir(parents=True)
    (folder / "ncu_report.py").write_text("load_report = 'beside'\n")
    path = ncu()
    assert find_ncu() == path
    assert counters.reader(path).load_report == "beside"
    assert str(folder) not in sys.path


def test_kernels_go_to_the_stretch_whose_number_their_range_has():
    owners = {"torch": ["conv", "relu"], "fastconv": ["conv"]}
    kernels = [(["torch,1"], {"ms": 1.0}), (["mine", "fastconv,0"], {"ms": 2.0}), ([], {"ms": 3.0})]
    kernels += [(["torch,9"], {"ms": 4.0}), (["torch,x"], {"ms": 5.0})]
    assert joined(owners, kernels) == {
        "torch": [("conv", []), ("relu", [{"ms": 1.0}])],
        "fastconv": [("conv", [{"ms": 2.0}])],
    }


def test_counters_of_a_layer_add_up_or_are_weighed_by_time():
    short = {"ms": 1.0, "dram_bytes": 10.0, "sm_percent": 90.0, "registers": 32.0}
    long = {"ms": 3.0, "dram_bytes": 30.0, "sm_percent": 10.0, "registers": 64.0}
    assert merged([short, long, {"sm_percent": 50.0}]) == {
        "ms": 4.0, "dram_bytes": 40.0, "sm_percent": 30.0, "registers": 64.0
    }  # fmt: skip
    assert merged([]) == {}
    assert set(short) | {"dram_percent", "occupancy_percent"} == set(METRICS)
