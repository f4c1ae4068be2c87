"""The comparison of kernels: its timer, its checks, its gate, held against calls made for that."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

import bench.gate
import fastconv
from bench import summary
from bench.cases import Case, cases_of, layers_of
from bench.kernels import ISAS, PLAIN, Racer, Races, racers_of, ran_reference, roof, variants_of
from bench.quick import QUICK
from bench.shapes import NETWORKS, Shape, layer_shapes, read
from fastconv.models import build
from fastconv.peers import Peer
from fastconv.peers.entrant import Rival
from fastconv.peers.onednn import parse
from fastconv.peers.turns import run
from fastconv.profiling.record import Roofs
from tests.helpers import ROOT

SMALL = Case(Shape("pointwise_conv2d", 64, 384, 14, 14, 1, 1), 1, torch.float32)
BUSY_SECONDS = 0.0005  # far below a turn of the scheduler: other work on the machine disturbs few
# A rival that takes so long by the clock, one that is wrong by a thousandth, and Ctrl-C after it.
# No roofline is measured: test_goals does.
PLUGIN = """
import bench.processes
from bench.kernels import RACERS, Racer
from fastconv.peers import Peer
from fastconv.profiling.record import Roofs

RACERS += [Racer(name, "nchw", Peer(name, name, __name__ + "_" + name)) for name in ("busy", "off")]

ROOFS = {"float32": Roofs(1e13, [1 << 20], [1e13], [1e13])}
bench.processes.in_own_process = lambda *arguments: ROOFS

def pytest_runtest_logreport(report):
    if report.failed:
        raise KeyboardInterrupt
"""
BUSY = f"""
import time

def prepare(model, image, dtype, threads):
    right = model(image)
    def call():
        end = time.perf_counter() + {BUSY_SECONDS}
        while time.perf_counter() < end:
            pass
        return right
    return call
"""
OFF = "def prepare(model, image, dtype, threads):\n    return lambda: 1.001 * model(image)\n"


def test_the_clock_counts_a_busy_loop():
    def busy():
        end = time.perf_counter() + BUSY_SECONDS
        while time.perf_counter() < end:
            pass

    seconds = run(busy, 101, 1)
    assert len(seconds) == 101
    assert min(seconds) >= BUSY_SECONDS
    assert sorted(seconds)[50] < 1.2 * BUSY_SECONDS


def test_a_run_times_tells_wrong_rivals_and_keeps_what_ctrl_c_leaves(tmp_path):
    """One run of pytest as users start it, with rivals of known faults."""
    for name, source in (("faults", PLUGIN), ("faults_busy", BUSY), ("faults_off", OFF)):
        (tmp_path / f"{name}.py").write_text(source)
    file = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "pytest", "bench", "-p", "faults", "-k", SMALL.shape]
    command += ["--race-seconds=0.1", f"--benchmark-json={file}"]
    command += [f"--rival={name}" for name in ("torch", "fastconv", "busy", "off")]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    # Those of the tests' own pytest and its workers are not for this one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 2, result.stdout + result.stderr  # interrupted
    assert "nchw-off is wrong: differs from torch by 0.001" in result.stdout
    found = json.loads(file.read_text())
    assert found["complete"] is False
    assert "Interrupted: not all rows" in summary.head(found)
    rows = {(b["extra_info"]["layout"], b["extra_info"]["rival"]): b for b in found["benchmarks"]}
    sides = {(layout, rival) for layout in PLAIN for rival in ("torch", "fastconv")}
    assert set(rows) == sides | {("nchw", "busy")}  # what comes after Ctrl-C has no row
    median = rows["nchw", "busy"]["stats"]["median"]
    assert BUSY_SECONDS <= median < 1.5 * BUSY_SECONDS
    ours = rows["nhwc", "fastconv"]["extra_info"]
    assert ours["implementations"]
    assert "pointwise_conv2d" in next(iter(ours["implementations"]))
    assert 0 < ours["share_of_roof"] < 1
    assert ours["speedup_interval"][0] <= ours["speedup"] <= ours["speedup_interval"][1]
    assert found["roofline"]["float32"]["flops"] == 1e13
    assert "x torch" in "".join(column.header for column in summary.table(found).columns)


@pytest.fixture
def gate(monkeypatch, tmp_path):
    """The gate on one small case, with a baseline of its own."""
    monkeypatch.setattr(bench.gate, "QUICK", [SMALL])
    racers = [racer for racer in racers_of(SMALL) if racer.layout == "nhwc"]
    monkeypatch.setattr(bench.gate, "racers_of", lambda case: racers)
    app = bench.gate.typer.Typer()
    app.command()(bench.gate.main)
    file = tmp_path / "new" / "gate.json"

    def call(*arguments):
        options = [*arguments, "--seconds", "0.05", "--baseline", str(file)]
        return CliRunner().invoke(app, options)

    return call, file


def test_the_gate_names_a_slowed_kernel(gate, monkeypatch):
    call, file = gate
    assert call("--update").exit_code == 0
    baseline = json.loads(file.read_text())
    assert set(baseline["ratios"]) == {f"{SMALL} nhwc"}
    monkeypatch.setenv("FASTCONV_ISA", "scalar")  # the same kernels without vectors
    result = call()
    assert result.exit_code == 1
    for row in baseline["ratios"]:
        assert f"slower: {row}" in result.stderr
    assert result.stdout.count("| slower") == 1
    # Today's kernels pass where the baseline leaves room for this machine's other work.
    monkeypatch.delenv("FASTCONV_ISA")
    baseline["ratios"] = {row: ratio / 4 for row, ratio in baseline["ratios"].items()}
    file.write_text(json.dumps(baseline))
    result = call()
    assert result.exit_code == 0, result.output
    baseline["ratios"]["a row of old"] = 1.0
    file.write_text(json.dumps(baseline))
    monkeypatch.setattr(bench.gate, "measure_all", lambda *arguments: {})
    result = call()
    assert result.exit_code == 1
    assert "not measured: a row of old" in result.stderr


def test_the_gate_compares_only_what_can_be_compared(gate):
    call, file = gate
    result = call()
    assert result.exit_code == 2
    assert "there is no baseline" in result.stderr
    file.parent.mkdir()
    machine = {**bench.gate.machine(), "processor": "Abacus"}
    file.write_text(json.dumps({"machine": machine, "ratios": {}}))
    result = call()
    assert result.exit_code == 2
    assert "of processor Abacus" in result.stderr
    assert call("--only", "no such case").exit_code == 2
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("in the way")
    result = call("--update")  # before anything is measured
    assert result.exit_code == 2
    assert "cannot write" in result.stderr


def test_noise_within_the_interval_is_not_slower():
    before = {"a": 2.0, "b": 2.0}
    now = {"a": bench.gate.Ratio(1.5, 1.8), "b": bench.gate.Ratio(1.5, 1.6), "c": None}
    now["c"] = bench.gate.Ratio(0.1, 0.1)  # new: nothing to compare with
    assert bench.gate.slower(now, before) == ["b"]


LOG = """onednn_verbose,v1,info,oneDNN v3.12.0
onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:abcd::f0,,,32,0.1
onednn_verbose,v1,primitive,exec,cpu,convolution,ref:any,backward_weights,src:f16,,,g32,702.1
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:abcd::f0,,,32,0.1
something else that was printed
"""


def test_the_log_names_what_onednn_ran():
    assert parse(LOG) == {"reorder jit:uni": 2, "convolution ref:any": 1}


def test_reference_paths_are_flagged():
    conv = Case(Shape("depthwise_conv2d", 8, 8, 8, 8, 3, 1), 1, torch.float32)
    half = Case(conv.layer, 1, torch.float16)
    norm = Case(Shape("local_response_norm", 8, 8, 8, 8, 5, 1), 1, torch.float16)
    torches = {
        name: Rival("torch", "torch", implementations=dict.fromkeys(names, 1))
        for name, names in {
            "reference": ["reorder jit:uni", "convolution ref:any"],
            "tuned": ["reorder ref:any", "convolution jit_dw:avx512_core"],
            "none": [],
        }.items()
    }
    assert ran_reference(conv, torches["reference"])
    assert not ran_reference(conv, torches["tuned"])
    assert not ran_reference(conv, torches["none"])  # torch's own, which is tuned in float32
    assert ran_reference(half, torches["none"])
    assert not ran_reference(norm, torches["none"])
    ours = Rival("nchw-fastconv", "", implementations={"depthwise_conv2d nchw_any:scalar": 1})
    assert not ran_reference(half, ours)


def test_a_dead_process_leaves_the_next_case_its_turn(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "dying.py").write_text("def prepare(*job):\n    raise SystemExit('no more')\n")
    dying = Racer("dying", "nchw", Peer("dying", "dying", "dying"))
    torch_nchw = Racer("torch", "nchw", PLAIN["nchw"])
    races = Races(threads=1)
    try:
        for _ in range(2):
            result = races.run(SMALL, [dying, torch_nchw], None)  # only checks
            assert result.rivals[torch_nchw].status == "ok"
            assert result.rivals[dying].status == "failed"
            assert "no more" in result.rivals[dying].reason
            assert list(races.processes) == [torch_nchw]
    finally:
        races.close()


def test_a_variant_is_the_kernel_that_it_names():
    """Each form, and each instruction set that this processor has beside its best."""
    block = Case(Shape("inverted_residual", 8, 8, 8, 8, 3, 1, 16), 1, torch.float32)
    lesser = next(r for r in variants_of(SMALL) if r.layout == "nhwc" and r.isa)
    packed = next(r for r in variants_of(SMALL) if r.function == "packed")
    (parts,) = (r for r in variants_of(block) if r.isa is None)
    races = Races(threads=1)
    try:
        small = races.run(SMALL, [packed, lesser], None).rivals
        whole = races.run(block, [parts], None).rivals
    finally:
        races.close()
    best = fastconv._C.isa()
    assert small[packed].implementations == {f"pointwise_conv2d nhwc:{best}": 1}
    assert small[lesser].implementations == {f"pointwise_conv2d nhwc_packing:{lesser.isa}": 1}
    ops = {name.split()[0] for name in whole[parts].implementations}
    assert ops == {"pointwise_conv2d", "depthwise_conv2d"}
    assert {rival.status for rival in (*small.values(), *whole.values())} == {"ok"}
    with pytest.raises(KeyError):
        block.function("packed")
    assert {r.isa for r in variants_of(block)} == {None, *ISAS} - {best}


def test_the_roof_is_the_nearer_limit():
    sizes = [1 << 17, 1 << 27]
    roofs = {
        "float32": Roofs(100e9, sizes, [50e9, 10e9], [40e9, 20e9]),
        "bfloat16": Roofs(200e9, sizes, [50e9, 10e9], [40e9, 20e9]),
    }
    thin = Case(Shape("residual_add", 8, 8, 32, 32, 1, 1), 1, torch.float32)
    assert roof(thin, roofs) == (thin.bytes / 50e9, "memory")
    large = Case(Shape("residual_add", 4096, 4096, 64, 64, 1, 1), 1, torch.float32)
    assert roof(large, roofs) == (large.bytes / 20e9, "memory")
    deep = Case(Shape("pointwise_conv2d", 512, 512, 14, 14, 1, 1), 1, torch.bfloat16)
    assert roof(deep, roofs) == (2 * 512 * 512 * 14 * 14 / 200e9, "arithmetic")
    half = Case(deep.layer, 1, torch.float16)
    assert roof(half, roofs) == (2 * 512 * 512 * 14 * 14 / 100e9, "arithmetic")


def test_the_summary_leaves_reference_paths_out():
    def entry(layer, rival, seconds, speedup, reference=False):
        case = {"case": layer, "op": "op", "direction": "forward", "dtype": "float32"}
        info = {**case, "layout": "nhwc", "rival": rival, "share_of_roof": 0.5, "speedup": speedup}
        info["baseline_reference_path"] = reference
        return {"extra_info": info, "stats": {"median": seconds}}

    rows = [entry("a", "fastconv", 1.0, 2.0), entry("a", "torch", 2.0, 1.0)]
    rows += [entry("b", "fastconv", 1.0, 8.0), entry("b", "onnxruntime", 2.0, 4.0)]
    rows += [entry("c", "fastconv", 1.0, 700.0, reference=True)]
    machine = {"fastconv": {"processor": "Abacus"}}
    table = summary.table({"machine_info": machine, "complete": True, "benchmarks": rows})
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells == ["op", "forward", "float32", "nhwc", "2", "4.00", "2.00", "2.00", "0.50"]
    assert "Left out" in table.caption
    assert "c nhwc" in table.caption
    assert "Abacus" in table.title
    assert "Interrupted" not in table.title


def test_the_files_of_shapes_are_those_of_the_networks():
    assert read("mobilenet_v2") == layer_shapes(build("mobilenet_v2"), torch.randn(1, 3, 224, 224))
    cases = list(cases_of(layers_of(["mobilenet_v2", "mobilenet_v2"]), [1], ["float32"]))
    assert len(set(map(str, cases))) == len(cases)
    of_networks = {layer.op for name in NETWORKS for layer in read(name)}
    assert of_networks | {case.op for case in QUICK} == set(bench.cases.DIRECTIONS)


@pytest.mark.parametrize("op", bench.cases.DIRECTIONS)
def test_a_case_compares_functions_that_agree(op):
    torch.manual_seed(0)
    channels = 3 if op == "stem_conv2d" else 8
    kernel = 1 if op in ("pointwise_conv2d", "residual_add") else 3
    layer = Shape(op, channels, 8, 6, 5, kernel, 1, 16 if op == "inverted_residual" else 0)
    for case in cases_of([layer], [2], ["float32"]):
        inputs = case.inputs()
        expected = case.theirs(*(tensor.double() for tensor in inputs))
        torch.testing.assert_close(case.ours(*inputs), expected.float(), rtol=1e-4, atol=1e-5)
        assert case.bytes > 0
        assert case.flops > 0
