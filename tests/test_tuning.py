"""`fastconv tune` and FASTCONV_AUTOTUNE where they meet the user; tests/triton has the search."""

import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from fastconv.cli import app
from fastconv.dispatch import BackendError, autotunes
from fastconv.triton_kernels import KERNELS
from fastconv.tuning import device_named
from tests.helpers import ROOT, unboxed


@pytest.mark.parametrize(
    ("value", "wanted"), [(None, False), ("", False), ("0", False), ("1", True)]
)
def test_autotune_is_off_unless_it_is_asked_for(value, wanted, monkeypatch):
    monkeypatch.delenv("FASTCONV_AUTOTUNE", raising=False)
    if value is not None:
        monkeypatch.setenv("FASTCONV_AUTOTUNE", value)
    assert autotunes() == wanted


@pytest.mark.parametrize("value", ["2", "yes", "01"])
def test_another_value_is_refused(value, monkeypatch):
    monkeypatch.setenv("FASTCONV_AUTOTUNE", value)
    with pytest.raises(ValueError, match=f"FASTCONV_AUTOTUNE: expected '0' or '1', got '{value}'"):
        autotunes()


def test_another_value_is_told_at_import():
    environment = os.environ | {"FASTCONV_AUTOTUNE": "on"}
    command = [sys.executable, "-c", "import fastconv"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "FASTCONV_AUTOTUNE: expected '0' or '1', got 'on'" in run.stderr


FIRST_CALL = """
import torch
from fastconv import ops, use_backend
from fastconv.triton_kernels import _tuned, search
search.microseconds = lambda call: 1.0
with use_backend("triton"):
    for size in (100, 100, 120, 200):
        x = torch.randn(size)
        assert torch.equal(ops.residual_add(x, x), torch.relu(x + x))
print(len(_tuned.rows_on(x.device)))
"""


def test_only_autotune_has_a_first_call_search(tmp_path):
    assert all(kernel.run is kernel.function for kernel in KERNELS.values())
    environment = {
        "FASTCONV_AUTOTUNE": "1",
        "TRITON_INTERPRET": "1",
        "FASTCONV_CACHE": str(tmp_path),
    }
    command, environment = [sys.executable, "-c", FIRST_CALL], os.environ | environment
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.stdout == "2\n", run.stderr
    assert len(list((tmp_path / "tuned").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("name", "capability", "error"),
    [
        ("cuda", (9, 0), ""),
        ("cuda:1", (8, 0), ""),
        ("cuda:2", (9, 0), "a GPU of the 2 here, got cuda:2"),
        ("cuda", (7, 5), "Triton kernels want sm_80, this is sm_75"),
    ],
)
def test_a_gpu_is_found_by_its_name(name, capability, error, monkeypatch):
    for function, answer in {
        "is_available": True,
        "device_count": 2,
        "current_device": 0,
        "get_device_capability": capability,
    }.items():
        monkeypatch.setattr(torch.cuda, function, lambda *device, answer=answer: answer)
    if error:
        with pytest.raises((ValueError, BackendError), match=error):
            device_named(name)
    else:
        assert device_named(name) == torch.device("cuda", int(name[5:] or 0))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["mobilenet_v2"], 1, "torch sees none: `fastconv doctor` tells why"),
        (["mobilenet_v2", "--device", "cpu"], 2, "expected a device like cuda, got cpu"),
        (["mobilenet_v2", "--device", "abacus"], 2, "got 'abacus'"),
        (["mobilenet_v2", "--batch", "0"], 2, "--batch"),
        (["mobilenet_v2", "--dtype", "float64"], 2, "float64"),
    ],
)
def test_the_command_says_what_it_lacks(arguments, code, words):
    result = CliRunner().invoke(app, ["tune", *arguments])
    assert result.exit_code == code
    assert words in unboxed(result.stderr)
    assert "Traceback" not in result.stderr
