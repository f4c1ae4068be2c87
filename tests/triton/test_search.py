"""The search for settings, with the kernels interpreted and a clock that answers as it is told."""

import itertools
import json
import logging
from dataclasses import asdict

import pytest
import torch
import triton
from typer.testing import CliRunner

from fastconv import kept, ops
from fastconv.cli import app
from fastconv.triton_kernels import KERNELS, _tuned, search
from fastconv.triton_kernels._settings import SPACES
from fastconv.triton_kernels.residual_add import SPACE
from fastconv.triton_kernels.search import asked_by
from fastconv.tuning import calls_of, tune
from tests.helpers import channels_last, contiguous
from tests.triton.helpers import DEVICE
from tests.triton.test_blocks import inverted, separable

ADD = KERNELS["residual_add"]
WINDOW = ((1, 1), (1, 1, 1, 1), (1, 1))
DEFAULT = SPACE.default
HERE = torch.empty(0, device=DEVICE).device


@pytest.fixture(autouse=True)
def nothing_tuned(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path))
    kept.warn_once.cache_clear()
    forget()


def forget():
    """As a new process, which knows what is on disk."""
    _tuned.rows_on.cache_clear()
    _tuned._rows_of.cache_clear()


def settings_now():
    return next(iter(_tuned._trial.get().settings.values()), None)


def clock(times, otherwise=10.0):
    """Microseconds by the settings that a launch would take; runs nothing."""
    return lambda call: times.get(settings_now(), otherwise)


def addends(size=5000):
    return (*torch.randn(2, size, device=DEVICE).unbind(), "relu")


def search_addition(clock, arguments=None):
    arguments = arguments or addends()
    (bucket,) = asked_by(ADD, arguments)
    return search.search(ADD, arguments, bucket, clock)


def with_(**changes):
    return type(DEFAULT)(**(asdict(DEFAULT) | changes))


def test_the_faster_settings_win_one_after_the_other():
    times = {with_(accesses=8): 8.0, with_(accesses=8, warps=2): 5.0, with_(warps=2): 1.0}
    found = search_addition(clock(times))
    assert found.row == (with_(accesses=8, warps=2), 5.0, 10.0)
    assert (found.tried, found.unfit, found.wrong) == (4, 0, 0)


def test_what_is_hardly_faster_leaves_the_default():
    assert search_addition(clock({with_(warps=2): 9.9})).row == (DEFAULT, 10.0, 10.0)


def test_a_winner_that_does_not_win_again_leaves_the_default():
    asked = []

    def flattering(call):
        asked.append(settings_now())
        return 1.0 if settings_now() != DEFAULT and asked.count(settings_now()) == 1 else 10.0

    assert search_addition(flattering).row.settings == DEFAULT


def broken(kernel, how):
    """kernel's function, broken for one setting."""
    function = kernel.function

    def run(*arguments):
        runs = _tuned.is_trial() and not arguments[0].is_meta
        is_broken = runs and settings_now() == with_(warps=2)
        return how(function(*arguments)) if is_broken else function(*arguments)

    return run


def test_a_wrong_result_never_wins(monkeypatch, caplog):
    monkeypatch.setattr(ADD, "function", broken(ADD, lambda y: y + 1e-3))
    with caplog.at_level(logging.WARNING, "fastconv"):
        found = search_addition(clock({with_(warps=2): 1.0}))
    assert (found.row.settings, found.wrong) == (DEFAULT, 1)
    assert "computes something else" in caplog.text


def test_infinite_numbers_and_nan_are_the_same_result():
    x, y, activation = addends()
    x[0], x[1] = float("inf"), float("nan")
    assert search_addition(clock({with_(warps=2): 1.0}), (x, y, activation)).wrong == 0


@pytest.mark.parametrize(
    "error",
    [triton.OutOfResources(300_000, 232_448, "shared memory"), RuntimeError("PassManager::run")],
)
def test_what_does_not_compile_is_counted(error, monkeypatch):
    def fail(_):
        raise error

    monkeypatch.setattr(ADD, "function", broken(ADD, fail))
    found = search_addition(clock({with_(warps=2): 1.0, with_(warps=8): 2.0}))
    assert (found.row.settings, found.unfit) == (with_(warps=8), 1)


def test_a_gpu_that_failed_ends_the_search(monkeypatch):
    def fail(_):
        raise torch.AcceleratorError("an illegal memory access was encountered", 700)

    monkeypatch.setattr(ADD, "function", broken(ADD, fail))
    with pytest.raises(torch.AcceleratorError):
        search_addition(clock({}))


def tensors(*shapes, layout=contiguous, dtype=torch.float32):
    return [layout(torch.randn(s)).to(dtype) if len(s) == 4 else torch.randn(s) for s in shapes]


X = (1, 8, 6, 5)
# A call that asks for each space; tiny, for every candidate is interpreted.
CALLS = {
    "residual_add": ("residual_add", [*tensors((5000,), (5000,)), "relu"]),
    "activation_backward": ("activation_backward", [*tensors((5000,), (5000,)), "silu"]),
    "local_response_norm nhwc": (
        "local_response_norm",
        [*tensors((1, 40, 2, 3), layout=channels_last), 5],
    ),
    "local_response_norm nchw": ("local_response_norm", [*tensors((1, 24, 9, 17)), 5]),
    "inverted_residual": ("inverted_residual", inverted(X, 16, 8, 3, torch.float16)),
    "inverted_residual float32": ("inverted_residual", inverted(X, 16, 8, 3)),
    "separable_conv2d": ("separable_conv2d", separable(X, 8, 3, torch.float16)),
    "separable_conv2d float32": ("separable_conv2d", separable(X, 8, 3)),
    "pointwise_conv2d_backward": (
        "pointwise_conv2d_backward",
        [*tensors((1, 40, 3, 3), (1, 24, 3, 3), (40, 24, 1, 1)), (1, 1), (False, True, True)],
    ),
}
for name, dtype in {"pointwise_conv2d": torch.float16, "pointwise_conv2d float32": None}.items():
    x, w = tensors((1, 40, 6, 5), (144, 40, 1, 1), layout=channels_last, dtype=dtype)
    CALLS[name] = ("pointwise_conv2d", [x, w, None, None, (1, 1), None])
for name, layout in {"nhwc": channels_last, "nchw": contiguous}.items():
    g, x, w = tensors(X, X, (8, 1, 3, 3), layout=layout)
    CALLS[f"depthwise_conv2d {name}"] = ("depthwise_conv2d_backward_input", [g, x, w, *WINDOW])
    large = tensors((1, 16, 4, 5), (16, 1, 7, 7), layout=layout, dtype=torch.float16)
    padded = ((1, 1), (3, 3, 3, 3), (1, 1))
    CALLS[f"depthwise_conv2d bands {name}"] = ("depthwise_conv2d", [*large, None, *padded])
    weight = f"depthwise_conv2d_backward_weight {name}"
    CALLS[weight] = ("depthwise_conv2d_backward_weight", [g, x, w, *WINDOW])


@pytest.mark.parametrize("space", SPACES)
def test_every_candidate_computes_the_same(space):
    op, arguments = CALLS[space]
    bucket = next(b for b in asked_by(KERNELS[op], arguments) if b.space == space)
    arguments = [a.to(DEVICE) if isinstance(a, torch.Tensor) else a for a in arguments]
    times = itertools.count(1)  # each is slower than all before
    found = search.search(KERNELS[op], arguments, bucket, lambda call: next(times))
    assert (found.unfit, found.wrong) == (0, 0)
    assert found.tried == next(times) - 2 > 0
    assert found.row.settings == SPACES[space].default


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_mask_written_with_some_settings_can_be_read_with_others(dtype):
    kernel, reader = KERNELS["residual_add_with_mask"], KERNELS["activation_backward_from_mask"]
    x, y, activation = (a.to(dtype) if isinstance(a, torch.Tensor) else a for a in addends(9000))
    (bucket,) = asked_by(kernel, (x, y, activation))
    output, mask = kernel(x, y, activation)
    (reading,) = asked_by(reader, (x, mask, False))
    for settings in (with_(warps=2), with_(accesses=8), with_(warps=8, accesses=8)):
        with _tuned.trial({bucket: settings, reading: settings}):
            assert torch.equal(kernel(x, y, activation)[1], mask)
            assert torch.equal(reader(x, mask, False), torch.where(output > 0, x, 0))


class Net(torch.nn.Module):
    def forward(self, x):
        return torch.ops.fastconv.residual_add(x, x, "relu")


def test_a_network_is_tuned_once_and_later_processes_know_it():
    calls = calls_of(Net(), torch.empty(1, 3, 40, 50))
    shares = []
    result = tune(
        *(calls, HERE),
        clock=clock({with_(warps=2): 4.0}),
        progress=lambda what, share: shares.append(share),
    )
    (row,) = result.rows
    assert row.changed == {"warps": 2}
    assert (row.microseconds, row.default_microseconds) == (4.0, 10.0)
    assert shares == sorted(shares)
    forget()
    (known,) = _tuned.rows_on(HERE).values()
    assert known.settings == with_(warps=2)
    again = tune(calls, HERE, clock=clock({with_(warps=8): 4.0}))
    assert (again.rows, again.known) == ([], 1)
    again = tune(calls, HERE, clock=clock({with_(warps=8): 4.0}), again=True)
    assert again.rows[0].changed == {"warps": 8}


class Block(torch.nn.Sequential):
    """As in a ResNet: what its addition keeps on a GPU is a mask."""

    def forward(self, x):
        return ops.residual_add(super().forward(x), x, "relu")


def test_training_tunes_the_pair_that_hands_over_a_mask():
    block = Block(torch.nn.Conv2d(8, 8, 1))
    calls = calls_of(block, torch.empty(2, 8, 6, 5), training=True, dtype=torch.float16)
    added = {call.op for call in calls if "add" in call.op or "mask" in call.op}
    assert added == {"residual_add_with_mask", "activation_backward_from_mask"}
    result = tune(calls, HERE, clock=clock({}))
    assert {(row.wrong, row.unfit) for row in result.rows} == {(0, 0)}
    kinds = {row.bucket.partition(", ")[2] for row in result.rows}
    assert {"dtype=float16 mask=True", "dtype=float16 activation=mask"} <= kinds
    assert {call.op for call in calls_of(block, torch.empty(2, 8, 6, 5))} == {"residual_add"}


@pytest.mark.parametrize("training", [False, True])
def test_the_command_tunes_a_network(training, monkeypatch, tmp_path):
    monkeypatch.setattr(search, "microseconds", lambda call: 10.0)
    options = ["--device", DEVICE, "--batch", "2", "--dtype", "float16"]
    command = ["tune", "tests.tiny_network:build", *options, *["--training"][:training]]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    tuned = json.loads(result.stdout)
    spaces = {row["bucket"].partition(" up to ")[0] for row in tuned["rows"]}
    backward = {"pointwise_conv2d_backward", "depthwise_conv2d_backward_weight nhwc"}
    of_blocks = {"separable_conv2d"}
    assert spaces == {"pointwise_conv2d", "depthwise_conv2d nhwc"} | (
        backward if training else of_blocks
    )
    assert all("dtype=float16" in row["bucket"] for row in tuned["rows"])
    assert {(row["wrong"], row["unfit"], row["microseconds"]) for row in tuned["rows"]} == {
        (0, 0, 10.0)
    }
    assert tuned["path"].startswith(str(tmp_path))
    assert "pointwise_conv2d up to" in result.stderr  # a line for each, where there is no terminal
    table = CliRunner().invoke(app, command)
    assert f"{len(tuned['rows'])} more were tuned before" in table.stdout


def test_a_first_call_searches_and_the_next_does_not(monkeypatch, caplog):
    timed = []

    def times(call):
        timed.append(settings_now())
        return 1.0 if settings_now() == with_(warps=8) else 2.0

    monkeypatch.setattr(search, "microseconds", times)
    for size, searched in ((5000, True), (5001, False), (4097, False), (4096, True)):
        timed.clear()
        x, y, activation = addends(size)
        result = search.run_tuned(ADD, (x, y, activation))
        assert torch.equal(result, torch.relu(x + y))
        assert bool(timed) == searched
    forget()
    rows = _tuned.rows_on(HERE)
    assert [row.settings for row in rows.values()] == [with_(warps=8)] * 2


def test_what_cannot_be_tuned_keeps_its_default(monkeypatch, caplog):
    def no_clock(call):
        raise RuntimeError("no clock here")

    monkeypatch.setattr(search, "microseconds", no_clock)
    for _ in range(2):
        x, y, activation = addends()
        assert torch.equal(search.run_tuned(ADD, (x, y, activation)), torch.relu(x + y))
    assert caplog.text.count("residual_add is not tuned: no clock here") == 1
