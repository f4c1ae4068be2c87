"""The command line: what is printed where, exit codes, one plain sentence for an expected error."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import fastconv
from fastconv import doctor
from fastconv.cli import app
from tests.helpers import unboxed


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--peers", "abacus"], ["abacus", "openvino"]),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    text = unboxed(result.stderr)
    for word in words:
        assert word in text
    assert "Traceback" not in text


def test_doctor_prints_a_table_and_json():
    table = run("doctor")
    assert table.exit_code == 0, table.output
    assert "oneDNN" in table.stdout
    findings = json.loads(run("doctor", "--json").stdout)["findings"]
    assert all(finding["detail"] in table.stdout for finding in findings)  # in one piece
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
