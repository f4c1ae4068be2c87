"""Which way in to the CUDA kernels is taken, and what is said where none is."""

import os
import subprocess
import sys

import pytest
import torch

from fastconv import _C, doctor, gpu

SHOW = "import fastconv; print(fastconv._C.gpu.way())"
BEST = "cuda" if _C.gpu.built_with_cuda() else "nvrtc"


def python(code, **variables):
    environment = {k: v for k, v in os.environ.items() if k != "FASTCONV_GPU"} | variables
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("wanted", ["none", "", "nvrtc"])
def test_the_variable_chooses(wanted):
    way = wanted or (BEST if torch.version.cuda else "none")
    result = python(SHOW, FASTCONV_GPU=wanted)
    assert result.stdout.strip().lower() == way, result.stderr


def test_a_wrong_variable_names_the_right_ones():
    result = python(SHOW, FASTCONV_GPU="cupy")
    assert "expected 'cuda', 'nvrtc' or 'none', got 'cupy'" in result.stderr


def test_a_way_that_is_not_there_says_what_brings_it(monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install cupy-cuda13x"):
        gpu.use("nvrtc")
    if not _C.gpu.built_with_cuda():
        with pytest.raises(RuntimeError, match="pip install --no-build-isolation"):
            gpu.use("cuda")


@pytest.mark.parametrize("way", ["cuda", "nvrtc"])
def test_the_doctor_names_both_ways(way, monkeypatch):
    monkeypatch.setattr(_C.gpu, "way", lambda: way)
    monkeypatch.setattr(gpu, "missing", lambda other: None)
    names = {"cuda": "CUDA kernels, built by nvcc", "nvrtc": "CUDA kernels, compiled at run time"}
    found = {finding.name: finding for finding in doctor.examine()}
    for other, name in names.items():
        expected = "these serve" if other == way else f"FASTCONV_GPU={other} takes this"
        assert expected in found[name].detail


def test_the_doctor_says_what_a_way_lacks(monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    found = {finding.name: finding for finding in doctor.examine()}
    missing = found["CUDA kernels, compiled at run time"]
    assert not missing.found
    assert "pip install cupy-cuda13x" in missing.detail


def test_importing_touches_no_gpu():
    """Not even where a way is open: a process that forks later could not use CUDA any more."""
    has_driver = "('libcuda.so' in open('/proc/self/maps').read())"
    code = f"import sys, torch; had = {has_driver}; {SHOW}; "
    code += f"print('cupy' in sys.modules, {has_driver} == had)"
    result = python(code, FASTCONV_GPU="nvrtc")
    assert result.stdout.split() == ["nvrtc", "False", "True"], result.stderr
