"""The table of goals: figures against their bounds, rows that fail, and probes that count right."""

import itertools
import json
import os

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import bench.goals
import bench.goals.__main__ as command
import fastconv
from bench.goals import networks
from bench.goals.figures import Figure, Row, worst
from bench.goals.timing import check, in_turn, share, speedup
from bench.goals.training import ops
from bench.processes import KEEPING_MEMORY, in_own_process, variables
from fastconv import probe
from fastconv.compare import Comparison, Rival
from fastconv.profiling.record import Roofs
from tests.helpers import ISAS, MATRIX_ISAS, isa, unboxed


def test_a_figure_knows_whether_it_reaches_its_goal():
    assert Figure("batch 1", 1.5, 1.5).reached
    assert not Figure("batch 1", 1.49, 1.5).reached
    assert Figure("call", 4.0, 5.0, "us", at_most=True).reached
    assert not Figure("call", 5.1, 5.0, "us", at_most=True).reached
    assert not Figure("call", float("nan"), 5.0, "us", at_most=True).reached


def test_the_worst_shape_stands_for_all():
    assert worst("deep", {"a": 0.8, "b": 0.2}, 0.5).value == 0.2
    assert str(worst("deep", {"a": 0.8, "b": 0.2}, 0.5)) == "deep 0.2 (mean 0.4)x"
    assert worst("call", {"a": 3.0, "b": 7.0}, 5.0, "us", at_most=True).value == 7.0


def test_each_rival_of_a_network_has_its_share_of_peak(monkeypatch):
    flops = 2 * 2 * 416_520  # of two images
    rivals = [Rival("fastconv", "ours", "ok"), Rival("openvino", "theirs", "ok")]
    rivals.append(Rival("onnxruntime", "absent", "skipped"))
    for r, speed, milliseconds in zip(rivals, (4.0, 2.0, None), (1.0, 2.0, None), strict=True):
        r.speedup, r.median_ms = speed, milliseconds
    raced = Comparison("lenet5", "float32", 2, (2, 1, 32, 32), "Zen 5", 2, 3, "torch", rivals)
    monkeypatch.setattr(networks, "peak_flops", lambda dtype: 1e10)
    figure = networks.against_engines("batch 2", raced, 1.6)
    assert figure.value == 2.0
    assert figure.shares == pytest.approx({"fastconv": flops / 1e7, "openvino": flops / 2e7})
    assert "of peak: fastconv 0.17, openvino 0.08" in str(figure)


def test_errors_are_medians_over_networks_of_other_weights(monkeypatch):
    seen = []

    def compared(model, network, batch, dtype, peers, seconds):
        seen.append(next(network.parameters()))
        return answered(float(len(seen)), 2.0)

    def answered(ours, theirs):
        rivals = [Rival("fastconv", "ours", "ok"), Rival("openvino", "theirs", "ok")]
        rivals[0].difference, rivals[1].difference = ours, theirs
        return Comparison("lenet5", "bfloat16", 2, (2, 1, 32, 32), "Zen 5", 2, 3, "torch", rivals)

    monkeypatch.setattr(networks, "compare", compared)
    assert networks.error_beside("openvino", answered(50.0, 7.0)) == 3 / 2  # of 50, 1, 2, 3, 4
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))


def test_times_in_turn_compare_a_call_with_half_of_its_work():
    """The clock is held against a loop of known length."""
    once, twice = probe.multiply_add(20), probe.multiply_add(40)
    times = in_turn(0.5, ours=once.run, twice=twice.run, probe=once.run)
    assert speedup(times, "twice") == pytest.approx(2.0, rel=0.4)
    assert share(times, once.work / 2, once) == pytest.approx(0.5, rel=0.4)


def test_a_wrong_result_is_not_timed():
    right = torch.randn(8)
    check(right, right)
    with pytest.raises(AssertionError, match=r"differs from torch by 0\.1"):
        check(right + 0.1 * right.abs().max(), right)
    with pytest.raises(AssertionError):
        check(right * float("nan"), right)


def test_a_kernel_alone_computes_the_convolution():
    for name in ISAS:
        with isa(name):
            x = torch.randn(1, 20, 9, 9).contiguous(memory_format=torch.channels_last)
            weight, bias = torch.randn(20, 1, 3, 3), torch.randn(20)
            for stride in (1, 2):
                expected = torch.conv2d(x, weight, bias, stride, 1, groups=20)
                output = torch.full_like(expected, float("nan"))
                packed = fastconv.ops.pack_depthwise_weight(weight)
                kernel = probe.depthwise_conv2d(x, packed, bias, stride, output)
                kernel.run()
                torch.testing.assert_close(output, expected)
                assert kernel.work == 2 * 9 * expected.numel() * probe.KERNEL_ROUNDS
    with pytest.raises(ValueError, match="channels_last"):
        probe.depthwise_conv2d(x.contiguous(), packed, bias, 1, output.contiguous())
    with pytest.raises(ValueError, match="sizes of this convolution"):
        probe.depthwise_conv2d(x, packed, bias, 1, output).run()


def test_probes_count_their_work():
    for name in MATRIX_ISAS:
        with isa(name):
            for dtype in (torch.float32, torch.bfloat16):
                assert (
                    probe.multiply_add(3, dtype).work == 3 * probe.multiply_add(1, dtype).work > 0
                )
            assert probe.multiply_add_loading(3).work == probe.multiply_add(3).work
    assert probe.read(1 << 20).work == probe.READ_BYTES
    for kind in (probe.copy, probe.stream_copy):
        assert kind(1 << 20).work == 1 << 20
        kind(1 << 20).run()


@pytest.mark.parametrize("name", ["copy", "stream_copy"])
def test_a_probe_copies(name):
    copy = getattr(probe._C.probe, name)
    source, target = torch.randn(10_007), torch.zeros(10_007)
    copy(source.numpy(), target.numpy())
    assert torch.equal(source, target)
    with pytest.raises(ValueError, match="one length"):
        copy(source.numpy(), target.numpy()[:-1])
    with pytest.raises(ValueError, match="aligned"):
        copy(source.numpy()[1:], target.numpy()[1:])
    with pytest.raises(TypeError, match="float32"):
        copy(source.double().numpy(), target.numpy())


@pytest.fixture
def goals(monkeypatch, tmp_path):
    """The command on rows made up, in this process; their names as they are measured."""
    measured = []

    def row(name, figures, **more):
        def measure(seconds):
            measured.append((name, os.environ.get("MALLOC_MMAP_MAX_")))
            return figures()

        return Row(name, f"item {name}", ">= 1.5", measure, **more)

    def call(figures, *arguments):
        rows = [row("layer", figures), row("network", figures, whole_network=True)]
        monkeypatch.setattr(command, "ROWS", rows)
        monkeypatch.setattr(bench.goals, "ROWS", rows)
        app = command.typer.Typer()
        app.command()(command.main)
        return CliRunner().invoke(app, [*arguments, "--json", str(file)])

    def here(function, *given, environment=None):
        with variables(environment or {}):
            return function(*given)

    monkeypatch.setattr(command, "in_own_process", here)
    monkeypatch.setattr(command, "roofline", lambda seconds: {"FMA float32": 500.0})
    file = tmp_path / "new" / "goals.json"
    return call, file, measured


def good():
    shown = Figure("batch 1", 0.4, None, "of peak")
    return [Figure("batch 1", 2.0, 1.5), Figure("batch 16", 1.0, 1.5), shown]


def bad():
    raise RuntimeError("no engine ran")


def test_the_command_prints_writes_and_names_what_failed(goals):
    call, file, _ = goals
    result = call(good)
    assert result.exit_code == 0, result.output
    assert "batch 1 2x; batch 16 1x; batch 1 0.4 of peak" in result.stdout
    assert "1 of 2" in result.stdout
    found = json.loads(file.read_text())
    assert found["complete"]
    assert found["rows"][0]["figures"][0]["value"] == 2.0
    assert found["rows"][0]["took_seconds"] >= 0
    assert found["machine"]["threads"] == torch.get_num_threads()
    result = call(bad)
    assert result.exit_code == 1
    assert "RuntimeError: no engine ran" in result.stdout
    assert call(good, "nothing").exit_code == 2


def test_single_layers_keep_their_memory_and_networks_run_as_for_their_users(goals):
    call, _, measured = goals
    call(good)
    assert measured == [("layer", "0"), ("network", None)]
    assert "MALLOC_MMAP_MAX_" not in os.environ


def test_a_run_goes_on_where_it_was_cut(goals):
    call, file, measured = goals

    def cut():
        if len(measured) > 1:
            raise KeyboardInterrupt
        return good()

    result = call(cut)
    assert result.exit_code == 1
    assert "interrupted" in result.stderr
    assert "Not all rows" in result.stdout
    assert not json.loads(file.read_text())["complete"]
    result = call(good, "--resume")
    assert result.exit_code == 0, result.output
    assert [name for name, _ in measured] == ["layer", "network", "network"]
    found = json.loads(file.read_text())
    assert found["complete"]
    assert [row["name"] for row in found["rows"]] == ["layer", "network"]
    found["machine"]["processor"] = "Abacus"
    file.write_text(json.dumps(found))
    result = call(good, "--resume")
    assert result.exit_code == 2
    assert "are of processor Abacus" in unboxed(result.stderr)
    file.write_text("{}")
    assert "holds no results of bench.goals" in unboxed(call(good, "--resume").stderr)
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("in the way")
    assert "cannot write" in unboxed(call(good).stderr)
    assert len(measured) == 3


def test_a_process_of_its_own_starts_with_the_allocator_set():
    found = in_own_process(os.getenv, "MALLOC_MMAP_MAX_", environment=KEEPING_MEMORY)
    assert found == KEEPING_MEMORY["MALLOC_MMAP_MAX_"]


def test_every_row_has_a_name_of_its_own():
    names = [row.name for row in bench.goals.ROWS]
    assert len(set(names)) == len(names) >= 10
    figures = bench.goals.measure("overhead", 0.01)
    assert [figure.unit for figure in figures] == ["us"]
    assert 0 < figures[0].value < 1000


def test_the_table_of_a_step_holds_each_op_against_its_floor():
    model = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    x = torch.randn(2, 16, 9, 9)

    def step():
        fastconv.swap_(model)(x).sum().backward()

    roofs = Roofs(1e9, [1 << 10], [1e9], [1e9])
    measured = ops.measure(step, 3, roofs)
    spent = measured.spent
    (_, one), *others = [e for e in spent.items() if e[0][0] == "fastconv::pointwise_conv2d"]
    assert not others
    assert one.calls == 1
    assert one.floor == pytest.approx(2 * 16 * 32 * 2 * 81 / 1e9)  # a FLOP a nanosecond
    assert 0 < one.seconds < measured.profiled
    (norm,) = [one for (op, _), one in spent.items() if op == "fastconv::batch_norm_backward"]
    assert norm.floor == pytest.approx(4 * (3 * 32 * 2 * 81 + 6 * 32) / 1e9, rel=0.01)
    rows = list(ops.table("ours", measured, by_shape=True).columns[0].cells)
    assert "fastconv::batch_norm_backward" in rows
    assert rows[-1] == "autograd, Python, the rest"
