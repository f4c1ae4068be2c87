"""fastconv train: it learns, it can be interrupted at any time, and its checkpoints are whole."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from typer.testing import CliRunner

from fastconv.cli import app
from fastconv.recipes import Split, checkpoint, images, load_split, recipe, sources, train
from tests.helpers import threads

QUICK = recipe("lenet5", "digits", epochs=3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def digits() -> Split:
    return load_split("digits", sources.Shape(1, images.padded(32)))


@pytest.fixture(scope="module")
def few(digits) -> Split:
    """Every tenth digit: 400 to train on, 100 held out."""
    return Split(*(part.subset(torch.arange(0, len(part.labels), 10)) for part in digits))


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def says(result, sentence: str) -> bool:
    """Whether stderr holds it, wherever the box around it broke the line."""
    said, wanted = (re.sub(r"[\s\u2502]", "", text) for text in (result.stderr, sentence))
    return wanted in said and "Traceback" not in said


def test_lenet5_learns_to_read(tmp_path, digits):
    """In 40 epochs 98.8 % (`python -m bench.recipes digits`); 5 do for most."""
    trained = train(recipe("lenet5", "digits", epochs=5), tmp_path, data=digits)
    assert trained.history[-1].accuracy > 0.96
    assert trained.history[0].loss > trained.history[-1].loss
    new = tmp_path / "new"
    new.touch()
    assert (tmp_path / "checkpoint.safetensors").stat().st_mode == new.stat().st_mode
    mean = torch.cat([digits.train.pixels]).float().mean() / 255
    assert trained.preprocessing.mean == pytest.approx([float(mean)], rel=1e-4)


@contextmanager
def interrupted_after(epoch: int) -> Iterator:
    def progress(what: str, share: float) -> None:
        if what.startswith(f"epoch {epoch} of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        yield progress


def test_a_resumed_run_gives_the_same_weights(tmp_path, few):
    """To the bit, with other numbers of workers: optimizer, order and augmentation go on."""
    whole = train(QUICK, tmp_path / "whole", data=few, workers=0)
    with interrupted_after(1) as progress:
        train(QUICK, tmp_path / "parts", data=few, workers=1, progress=progress)
    with interrupted_after(2) as progress:
        train(QUICK, tmp_path / "parts", data=few, workers=2, progress=progress, resume=True)
    parts = train(QUICK, tmp_path / "parts", data=few, workers=0, resume=True)
    for one, other in zip(whole.history, parts.history, strict=True):
        assert (one.loss, one.accuracy) == (other.loss, other.accuracy)
    first, second = (
        checkpoint.load(tmp_path / name / "checkpoint.safetensors")[1]
        for name in ("whole", "parts")
    )
    assert first.keys() == second.keys()
    assert any(key.startswith("optimizer.") for key in first)
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


def test_another_seed_gives_other_weights(tmp_path, few):
    losses = [
        train(recipe("lenet5", "digits", epochs=1, seed=seed), tmp_path / str(seed), data=few)
        for seed in (0, 1)
    ]
    assert losses[0].history[0].loss != losses[1].history[0].loss


def test_a_killed_run_loses_at_most_one_epoch(tmp_path):
    arguments = ["train", "lenet5", "--data", "digits", "--epochs", "200", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fastconv", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    finished = 0
    for line in process.stderr:
        if line.startswith("epoch 2 "):
            finished = 2
            time.sleep(0.1)  # into the third
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.communicate()
    saved, _ = checkpoint.load(tmp_path / "checkpoint.safetensors")
    assert len(saved.history) >= finished == 2


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A write beyond this fails as on a full disk: the system stops it, in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, few):
    with interrupted_after(1) as progress:
        train(QUICK, tmp_path, data=few, progress=progress)
    path = tmp_path / "checkpoint.safetensors"
    before = path.read_bytes()
    with (
        files_of_at_most(len(before) // 2),
        pytest.raises(OSError, match=rf"{path} could not be written, and is as it was before"),
    ):
        train(QUICK, tmp_path, data=few, workers=0, resume=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert train(QUICK, tmp_path, data=few, resume=True).finished


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def of_another_library(data: bytes) -> bytes:
    header = b'{"__metadata__":{"format":"pt"}}'
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize("broken", [cut, of_another_library, lambda data: b"", lambda data: b"no"])
def test_a_broken_checkpoint_is_named(tmp_path, few, broken):
    train(recipe("lenet5", "digits", epochs=1), tmp_path, data=few)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(broken(path.read_bytes()))
    result = run("train", "lenet5", "--data", "digits", "--out", tmp_path, "--resume")
    assert result.exit_code == 2
    assert says(result, "checkpoint.safetensors is no checkpoint of fastconv, or a broken one")


def test_a_run_is_not_overwritten_or_mixed_with_another(tmp_path, few):
    train(QUICK, tmp_path, data=few)
    arguments = ["train", "lenet5", "--data", "digits", "--epochs", 3, "--out", tmp_path]
    assert says(run(*arguments), "exists: go on with --resume")
    other = run(*arguments, "--seed", "1", "--resume")
    assert other.exit_code == 2
    assert says(other, "of another recipe (seed: 0, 1)")
    done = run(*arguments, "--resume", "--json")
    assert len(json.loads(done.stdout)["history"]) == 3


def test_an_interrupt_is_told(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        (tmp_path / "checkpoint.safetensors").write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr("fastconv.cli.recipes.train", interrupted)
    result = run("train", "lenet5", "--data", "digits", "--out", tmp_path)
    assert result.exit_code == 130
    assert result.stderr.strip().endswith("interrupted; --resume goes on after the last epoch")


def test_a_missing_library_comes_with_the_pip_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    result = run("train", "lenet5", "--data", "digits", "--out", tmp_path)
    assert result.exit_code == 1
    assert says(result, "the recipes need the package kornia")
    assert says(result, "pip install 'fastconv[recipes]'")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet", "--data", "digits"], "did you mean lenet5"),
        (["lenet5", "--data", "nowhere"], "there is no folder nowhere, and no data digits, faces"),
        (["lenet5", "--data", "digits", "--augment", "blur"], "unknown augmentation 'blur'"),
        (["lenet5", "--data", "digits", "--augment", "colour"], "needs 3 channels"),
        (["lenet5", "--data", "digits", "--rate", "0"], "rate must be above 0"),
        (["lenet5", "--data", "digits", "--form", "all"], "no package with all weights of lenet5"),
    ],
)
def test_bad_arguments_are_one_sentence(tmp_path, arguments, said):
    result = run("train", *arguments, "--out", tmp_path)
    assert result.exit_code in (1, 2)
    assert says(result, said)


def test_a_rate_that_is_too_high_is_told(tmp_path):
    quick = ["--epochs", 1, "--workers", 0]
    result = run("train", "lenet5", "--data", "digits", "--out", tmp_path, "--rate", 1e30, *quick)
    assert result.exit_code == 1
    assert says(result, "lower the rate")
    assert list(tmp_path.iterdir()) == []
