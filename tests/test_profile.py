"""fastconv profile: what it says of a network is what the network did."""

import time

import pytest
import torch
from torch import Tensor, nn

import fastconv
from fastconv.profiling import measure
from fastconv.profiling.align import assign, steps_of
from fastconv.profiling.figures import count
from fastconv.profiling.fresh import FreshError, first_and_later, run_fresh
from fastconv.profiling.measure import Session, profile
from fastconv.profiling.record import NO_GPU, Profile
from fastconv.profiling.roofline import measure_roofs, share_of_copy, share_of_roof
from fastconv.profiling.steps import Clock, clocked
from fastconv.profiling.subject import Subject, SubjectError, load
from tests.helpers import ROOT, threads

SCRIPT = str(ROOT / "tests" / "profiled_script.py")


@pytest.fixture(scope="module")
def measured() -> Profile:
    """One whole run, processes of its own included."""
    with threads(1):
        return profile(load(SCRIPT), seconds=0.2)


def test_every_part_is_there_and_none_was_on_a_gpu(measured):
    assert measured.lacking == {}
    assert not measured.interrupted
    assert measured.gpu == NO_GPU
    assert "No GPU was measured" in NO_GPU
    assert measured.environment["GPU"] == "none"
    assert measured.input == [[2, 3, 8, 8]]
    assert measured.difference < 1e-5
    assert measured.threads == 1
    assert set(measured.wholes) == {
        "torch contiguous", "torch channels_last", "torch", "fastconv"
    }  # fmt: skip
    assert measured.speedup == measured.wholes["torch"].ms / measured.wholes["fastconv"].ms


def test_layers_stand_beside_the_modules_that_they_replace(measured):
    layers = {layer.name: layer for layer in measured.layers}
    assert list(layers) == ["0", "1", "2.expand", "2.dense", "2", "3", "4"]
    assert [layer.op for layer in measured.layers] == [
        "stem_conv2d", "local_response_norm", "pointwise_conv2d", "_convolution_pointwise",
        "residual_add", "_unsafe_view", "pointwise_conv2d",
    ]  # fmt: skip
    assert layers["2.expand"].modules == ["2.expand", "2.norm", "2.relu"]
    assert layers["2"].modules == ["2", "2.relu@1"]
    every = [module for layer in measured.layers for module in layer.modules]
    assert every == ["0", "1", "2.expand", "2.norm", "2.relu", "2.dense", "2", "2.relu@1", "4"]
    assert layers["0"].input == [2, 3, 8, 8]
    assert layers["0"].output == [2, 8, 8, 8]
    assert layers["0"].flop == 2 * 2 * 8 * 8 * 8 * 27
    assert layers["2.dense"].reason.startswith("dense 3x3: ours, ops.dense_conv2d, ")
    assert layers["2.dense"].backend == "torch"
    assert layers["2.expand"].backend.startswith("cpu (")


def test_bytes_are_those_of_the_tensors(measured):
    layers = {layer.name: layer for layer in measured.layers}
    image = 2 * 8 * 8 * 8 * 4
    assert layers["1"].fastconv.bytes == 2 * image
    assert layers["2"].fastconv.bytes == 3 * image
    assert layers["2.expand"].fastconv.bytes == 2 * image + 4 * (64 + 8)
    # In torch the norm and the activation pass over memory too; the norm reads 4 numbers a channel.
    assert layers["2.expand"].torch.bytes >= 6 * image


def test_times_are_those_of_the_network(measured):
    for side in ("torch", "fastconv"):
        whole = measured.wholes[side]
        assert 0 < whole.layers_ms < 3 * whole.ms
        assert whole.quartiles_ms[0] <= whole.ms <= whole.quartiles_ms[1]
        assert all(getattr(layer, side).ms > 0 for layer in measured.layers)
        parts = [getattr(layer, side) for layer in measured.layers]
        assert all(part.share_of_roof > 0 for part in parts if part.bytes)


def test_slow_paths_reorders_and_first_calls_come_from_other_processes(measured):
    assert any(alarm.layer == "1" and "avg_pool3d" in alarm.what for alarm in measured.alarms)
    assert all(layer.torch.reorders is not None for layer in measured.layers)
    assert {start.title for start in measured.starts.values()} <= {
        "fastconv", "torch contiguous", "torch channels_last"
    }  # fmt: skip
    for side, start in measured.starts.items():
        assert (start.prepare is None) == (side == "torch")
        assert min(start.first, start.steady) > 0
        assert start.new_shape is not None


def test_memory_is_what_peak_memory_says(measured):
    subject = load(SCRIPT)
    fast = fastconv.optimize(subject.model, subject.inputs)
    with threads(1):
        assert measured.peak_memory("torch") == fastconv.peak_memory(subject.model, *subject.inputs)
        assert measured.peak_memory("fastconv") == fastconv.peak_memory(fast, *subject.inputs)
    assert all(0 <= at <= 1 for line in measured.memory.values() for at, _ in line)


def test_a_record_comes_back_from_plain_data(measured):
    assert Profile.from_dict(measured.to_dict()) == measured
    with pytest.raises(ValueError, match="no profile that fastconv wrote"):
        Profile.from_dict({"layers": []})


BUSY_SECONDS = 0.004
SPUN: list[float] = []  # how long each loop took by its own clock: more where it was interrupted


@torch.library.custom_op("fastconv_tests::busy", mutates_args=())
def busy(input: Tensor) -> Tensor:
    """Spins for BUSY_SECONDS by the clock."""
    start = now = time.perf_counter()
    while now < start + BUSY_SECONDS:
        now = time.perf_counter()
    SPUN.append(now - start)
    return input.clone()


@busy.register_fake
def _(input: Tensor) -> Tensor:
    return torch.empty_like(input)


BUSY_STEPS = ("1", "3", "busy", "busy_1")  # modules of the model, nodes of its graph


class Busy(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return busy(input)


def test_the_clock_finds_a_busy_loop_of_known_length():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Busy(), nn.ReLU(), Busy()).eval()
    inputs = (torch.randn(1, 3, 8, 8),)
    network = fastconv.optimize(model, inputs)
    calls = 9
    for side in (model, network):
        with clocked(side, inputs) as clock:
            clock.run(calls, warm_up=2)
        loops = [column for column, owner in enumerate(clock.owners) if owner in BUSY_STEPS]
        assert len(loops) == 2
        found = [call[loop] for call in clock.stretches for loop in loops]
        known = SPUN[-len(found) :]
        assert min(known) >= BUSY_SECONDS
        excess = [a - b for a, b in zip(found, known, strict=True)]
        assert 0 <= min(excess) < 0.05 * BUSY_SECONDS
        assert sum(clock.stretches[0]) == pytest.approx(clock.totals[0])
        assert min(clock.totals) >= 2 * BUSY_SECONDS


def test_marks_leave_the_result_alone():
    subject = load("tests.tiny_network:build")
    network = fastconv.optimize(subject.model, subject.inputs)
    seen: list[str] = []
    twin = network.marked(lambda name: seen.append(name))
    for _ in range(3):
        torch.testing.assert_close(twin(*subject.inputs), network(*subject.inputs), rtol=0, atol=0)
    nodes = [node.name for node in network.graph.graph.nodes if node.op.startswith("call")]
    assert seen == ["", *nodes] * 2  # the first call plans
    assert not network._arenas.plans.keys() - twin._arenas.plans.keys()


def test_a_network_that_takes_another_way_is_told():
    clock = Clock()
    ways = iter([["a"], ["b"]])
    clock.call = lambda: [clock.mark(name) for name in next(ways)]
    with pytest.raises(RuntimeError, match="another way"):
        clock.run(calls=2, warm_up=0)


def test_calls_between_known_ones_belong_to_the_step_before():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)).eval()
    network = fastconv.optimize(model, (torch.randn(1, 3, 9, 9),))
    steps = steps_of(network, model, [])
    assert [step.name for step in steps[:2]] == ["0", "3"]
    assert assign(["", "0", "", "1", "", "2", "", "3", ""], steps) == [
        None, 0, 0, 0, 0, 0, 0, 1, 1
    ]  # fmt: skip


class Undecided(nn.Module):
    """What torch.export cannot capture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, input: Tensor) -> Tensor:
        output = self.conv(input)
        return output if output.sum().item() > 1e9 else -output


def test_a_model_that_was_only_swapped_has_its_own_modules_as_steps(monkeypatch):
    monkeypatch.setattr(measure, "run_fresh", failing)
    subject = Subject("undecided", Undecided().eval(), (torch.randn(1, 4, 8, 8),), None, None)
    result = profile(subject, seconds=0.1)
    assert result.unfused.startswith("torch.export could not capture")
    assert [layer.name for layer in result.layers] == ["itself", "conv"]
    assert result.layers[1].op == "pointwise_conv2d"
    assert all(layer.torch.ms and layer.fastconv.ms for layer in result.layers)
    assert "no process here" in result.lacking["first calls and oneDNN's log"]


def failing(_job):
    raise FreshError("no process here")


@pytest.mark.parametrize("stage", ["measure_roofs", "time", "start_fresh"])
def test_an_interrupt_keeps_what_there_is_and_marks_it(monkeypatch, stage):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, stage, interrupt)
    result = profile(load("tests.tiny_network:build"), seconds=0.1)
    assert result.interrupted
    assert "interrupted" in result.lacking.values()
    assert len(result.layers) > 3
    assert (result.layers[0].fastconv.ms is not None) == (stage == "start_fresh")
    assert (result.roofs is None) == (stage == "measure_roofs")


def test_a_model_that_does_not_take_its_inputs_is_told():
    subject = Subject("net", nn.Conv2d(3, 4, 1).eval(), (torch.randn(1, 5, 4, 4),), None, None)
    with pytest.raises(SubjectError, match="net does not run on its inputs: RuntimeError"):
        profile(subject)


def test_the_first_call_is_timed_apart_from_those_after_it():
    sleeps = iter([0.05])
    first, later = first_and_later(lambda: time.sleep(next(sleeps, 0.001)))
    assert first >= 50
    assert 1 <= later < 50


def test_a_process_that_fails_says_its_last_words():
    job = {"name": "tests.tiny_network:not_a_network", "batch": 1, "dtype": None, "threads": 1}
    with pytest.raises(FreshError, match=r"exit status 1: ValueError.*returns str"):
        run_fresh(
            job | {"side": "torch", "title": "torch", "channels_last": False, "device": "cpu"}
        )


def test_shares_of_the_roof_follow_from_the_rates():
    roofs = measure_roofs(torch.float32)
    assert roofs.flops > 1e8
    assert min(*roofs.read, *roofs.copy) > 1e7
    roofs.flops, roofs.read, roofs.copy = (
        100.0,
        [50.0] * len(roofs.sizes),
        [20.0] * len(roofs.sizes),
    )
    assert share_of_roof(roofs, flop=1000, size=50, seconds=20) == 0.5  # bound by arithmetic
    assert share_of_roof(roofs, flop=10, size=1000, seconds=40) == 0.5  # bound by memory
    assert share_of_copy(roofs, size=100, seconds=10) == 0.5


def test_a_step_counts_what_its_operations_read_and_write():
    model, x = nn.ReLU(), torch.randn(2, 3)
    (_, before), (_, own) = count(model, (x,))
    assert before.bytes == 0
    assert (own.bytes, own.elements, own.ops) == (2 * x.nbytes, 6, ["aten.relu"])
