"""The command line: what is printed where, exit codes, one plain sentence for an expected error."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import fastconv
from fastconv import doctor
from fastconv.cli import app
from fastconv.peers import PEERS, Peer

MODEL = "tests.tiny_network:build"
QUICK = ["--seconds", "0.2", "--threads", "1"]


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_compare_prints_a_table():
    result = run("compare", MODEL, "--peers", "torch,torch-channels-last", *QUICK)
    assert result.exit_code == 0, result.output
    assert "torch channels_last" in result.stdout
    assert "batch 1, float32, 1 threads" in result.stdout


def test_compare_json_holds_only_json_on_stdout():
    result = run("compare", MODEL, "--peers", "torch", "--batch", "2", "--json", *QUICK)
    assert result.exit_code == 0, result.output
    comparison = json.loads(result.stdout)
    assert comparison["input_shape"] == [2, 3, 16, 16]
    assert set(comparison) == {
        "model", "dtype", "threads", "input_shape", "processor", "cores", "rounds", "baseline",
        "rivals",
    }  # fmt: skip
    (rival,) = comparison["rivals"]
    assert set(rival) == {
        "name", "title", "status", "reason", "versions", "difference", "prepare_seconds",
        "first_call_ms", "median_ms", "fastest_ms", "quartiles_ms", "speedup",
    }  # fmt: skip


def test_compare_flags_wrong_numbers(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = "def prepare(model, image, dtype, threads):\n    return lambda: model(image) * 2\n"
    (tmp_path / "double_rival.py").write_text(source)
    monkeypatch.setitem(PEERS, "double", Peer("double", "Double", "double_rival"))
    result = run("compare", MODEL, "--peers", "double", *QUICK)
    assert result.exit_code == 1
    assert "wrong" in result.stdout
    assert "fastconv: Double differs from torch" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "no_such_network"], ["no_such_network", "efficientnet_lite0"]),
        (["compare", MODEL, "--peers", "abacus"], ["abacus", "onnxruntime", "--peers"]),
        (["compare", MODEL, "--batch", "0"], ["--batch", "greater than or equal to 1"]),
        (["compare", MODEL, "--dtype", "float8"], ["float8", "bfloat16"]),
        (["demo", "--peers", "abacus"], ["abacus", "openvino"]),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    text = " ".join(result.stderr.replace("\u2502", " ").split())
    for word in words:
        assert word in text
    assert "Traceback" not in text


def test_doctor_prints_a_table_and_json():
    table = run("doctor")
    assert table.exit_code == 0, table.output
    assert "oneDNN" in table.stdout
    findings = json.loads(run("doctor", "--json").stdout)["findings"]
    assert all(
        set(finding) == {"topic", "name", "found", "detail", "needed"} for finding in findings
    )
    assert {"fastconv", "torch", "GPU", "features", "rivals"} == {
        finding["topic"] for finding in findings
    }


def test_doctor_without_kernels_says_how_to_build_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastconv._C", None)
    monkeypatch.delattr(fastconv, "_C")
    result = run("doctor")
    assert result.exit_code == 1
    assert doctor.BUILD_COMMAND in result.stderr


def test_runs_as_a_module():
    command = [sys.executable, "-m", "fastconv", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    for name in ("demo", "compare", "doctor"):
        assert name in result.stdout
