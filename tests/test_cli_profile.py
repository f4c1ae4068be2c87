"""fastconv profile on the command line: what it writes where, and what it says of bad input."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import fastconv.cli.profile as command
from fastconv.cli import app
from fastconv.profiling.record import NO_GPU, Profile
from tests.helpers import unboxed
from tests.profiles import sample

MODEL = "tests.tiny_network:build"


@pytest.fixture
def without_measuring(monkeypatch, tmp_path):
    """In an empty folder, with a profile made up; the subjects that would have been measured."""
    subjects = []

    def profile(subject, **_settings):
        subjects.append(subject)
        return sample()

    monkeypatch.setattr(command, "profile", profile)
    monkeypatch.chdir(tmp_path)
    return subjects


def run(*arguments):
    return CliRunner().invoke(app, ["profile", *arguments])


def test_a_page_is_written_and_the_slowest_layers_shown(without_measuring, tmp_path):
    result = run(MODEL)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "tests.tiny_network-build.html").read_text().startswith("<!doctype html>")
    assert NO_GPU in result.stdout
    assert "4.00 times as fast" in result.stdout
    assert "block.2" in result.stdout
    assert "written: tests.tiny_network-build.html" in result.stderr


def test_every_form_is_written_where_it_is_asked_for(without_measuring, tmp_path):
    outs = ["a.html", "a.md", "a.json", "a.trace.json"]
    result = run(MODEL, *(word for name in outs for word in ("--out", name)), "--json")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == set(outs)
    assert json.loads(result.stdout) == json.loads((tmp_path / "a.json").read_text())


def test_options_reach_the_subject(without_measuring):
    before = torch.get_num_threads()
    try:
        result = run(
            MODEL, "--batch", "3", "--dtype", "bfloat16", "--threads", "1", "--out", "a.md"
        )
    finally:
        torch.set_num_threads(before)
    assert result.exit_code == 0, result.output
    (subject,) = without_measuring
    assert subject.inputs[0].shape == (3, 3, 16, 16)
    assert subject.inputs[0].dtype == torch.bfloat16
    assert next(subject.model.parameters()).dtype == torch.bfloat16


def test_a_script_gives_model_and_inputs(without_measuring, tmp_path):
    (tmp_path / "layers_of_mine.py").write_text("from torch import nn\nlayer = nn.ReLU()\n")
    (tmp_path / "net.py").write_text(
        "import torch\nfrom layers_of_mine import layer\n"
        "assert __name__ != '__main__'\nmodel, inputs = layer, (torch.ones(1, 2),)\n"
    )
    result = run("net.py", "--out", "a.md")
    assert result.exit_code == 0, result.output
    assert without_measuring[0].inputs[0].tolist() == [[1, 1]]
    assert not without_measuring[0].model.training


SCRIPTS = {
    "1 / 0": "fails in line 1: ZeroDivisionError: division by zero",
    "import torch\ndef f(:": "fails in line 2: SyntaxError",
    "import no_such_module": "No module named 'no_such_module'",
    "raise SystemExit(3)": "fails in line 1: SystemExit: 3",
    "inputs = 1": "must define `model`, an nn.Module, got nothing of that name",
    "from torch import nn\nmodel = nn.ReLU()": "must define `inputs`, a tensor or a tuple",
    "from torch import nn\nmodel, inputs = nn.ReLU(), [1]": "or a tuple of arguments, got list",
}


@pytest.mark.parametrize("source", SCRIPTS)
def test_a_script_that_fails_is_told_in_a_sentence(without_measuring, tmp_path, source):
    (tmp_path / "net.py").write_text(source + "\n")
    result = run("net.py")
    assert result.exit_code == 1
    assert result.stderr.startswith("fastconv: net.py ")
    assert SCRIPTS[source] in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.glob("*.html")) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no_such_network"], 2, ["no_such_network", "efficientnet_lite0"]),
        (["no_such_script.py"], 1, ["there is no file no_such_script.py"]),
        (["tests.tiny_network:of_other_images"], 1, ["does not run on its images: RuntimeError"]),
        ([MODEL, "--out", "/proc/nowhere/a.html"], 2, ["cannot write /proc/nowhere/a.html: No"]),
        ([MODEL, "--out", "a.pdf"], 2, ["a.pdf", ".trace.json"]),
        ([MODEL, "--dtype", "float8"], 2, ["float8", "bfloat16"]),
        ([MODEL, "--device", "cuda"], 1, ["torch sees no CUDA device here"]),
        ([MODEL, "--ncu"], 2, ["a GPU's: --device cuda"]),
        (["net.py", "--batch", "2"], 2, ["defines its own inputs", "--batch"]),
    ],
)
def test_bad_arguments_are_named_before_anything_is_measured(
    without_measuring, arguments, code, words
):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    text = unboxed(result.stderr)
    for word in words:
        assert word in text
    assert "Traceback" not in text
    assert without_measuring == []


def test_a_model_that_refuses_its_inputs_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "import torch\nmodel, inputs = torch.nn.Linear(3, 4), torch.ones(2, 5)\n"
    (tmp_path / "net.py").write_text(source)
    result = run("net.py")
    assert result.exit_code == 1
    assert "net.py does not run on its inputs: RuntimeError: mat1 and mat2" in result.stderr


def test_a_disk_that_fills_up_takes_no_other_report_with_it(without_measuring, monkeypatch):
    whole = command.write_whole

    def full(path, text):
        if path.suffix == ".md":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, text)

    monkeypatch.setattr(command, "write_whole", full)
    result = run(MODEL, "--out", "a.md", "--out", "a.json")
    assert result.exit_code == 1
    assert "cannot write a.md: No space left" in result.stderr
    assert "written: a.json" in result.stderr
    assert json.loads(Path("a.json").read_text())["model"] == "sample"


def test_an_interrupted_run_keeps_what_it_has(without_measuring, tmp_path, monkeypatch):
    stopped = replace(sample(), interrupted=True, lacking={"times": "interrupted"})
    monkeypatch.setattr(command, "profile", lambda *_arguments, **_settings: stopped)
    result = run(MODEL, "--out", "a.json")
    assert result.exit_code == command.INTERRUPTED
    assert "interrupted; what was measured is in a.json" in result.stderr
    assert Profile.from_dict(json.loads((tmp_path / "a.json").read_text())).interrupted
