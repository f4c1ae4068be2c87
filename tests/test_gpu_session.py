"""`make gpu` loses nothing by a step that fails, hangs or breaks the GPU."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import fastconv
from bench.gpu import session as file
from bench.gpu.__main__ import in_turns, pairs
from bench.gpu.session import LOST, Session, Step
from tests.helpers import ROOT, SETUP


def python(name, code, seconds=20.0, log=None):
    return Step(name, [sys.executable, "-c", code], seconds, log=log)


def test_each_step_is_told_of_and_none_keeps_the_others_from_their_turn(tmp_path, capfd):
    session = Session(tmp_path, minutes=1)
    session.take(python("fails", "print('why'); raise SystemExit(2)", log=tmp_path / "fails.txt"))
    session.take(python("hangs", "while True: pass", seconds=0.5))
    session.take(python("works", "print('here')"))
    assert not session.report()
    rows = json.loads((tmp_path / "steps.json").read_text())
    assert [row["result"] for row in rows] == [2, "took too long", 0]
    assert "why" in capfd.readouterr().out


def test_what_is_interrupted_can_write_what_it_has(tmp_path):
    code = f"""
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    open({str(tmp_path / "kept")!r}, "w").write("results")
"""
    Session(tmp_path, minutes=1).take(python("slow", code, seconds=4))
    assert (tmp_path / "kept").read_text() == "results"


def test_no_step_begins_without_time_for_it(tmp_path):
    session = Session(tmp_path, minutes=0.1)
    began = time.monotonic()
    assert session.take(python("late", "import time; time.sleep(9)")) == "no time left"
    assert time.monotonic() - began < 1


def test_a_build_without_nvcc_follows_one_that_fails(tmp_path, monkeypatch):
    taken = []

    def run(step, seconds):
        taken.append((step.name, *step.command[-1:]))
        fails = {"build": 1, "bench": LOST if "--resume" not in step.command else 0}
        return fails.get(step.name, 0)

    monkeypatch.setattr(file, "run", run)
    monkeypatch.setattr(file, "architecture", lambda: "90")
    (tmp_path / "build.txt").write_text("nvcc: no")
    monkeypatch.setattr(sys, "argv", ["session", "--out", str(tmp_path)])
    monkeypatch.setenv("PATH", os.environ["PATH"])
    assert file.main() == 1
    names = [name for name, _ in taken]
    assert names[:4] == ["build", "build without nvcc", "doctor", "tests (cuda)"]
    assert taken[names.index("bench") + 1] == ("bench", "--resume")
    assert {path.name for path in tmp_path.iterdir()} == {"logs.tar.gz", "steps.json"}
    with tarfile.open(tmp_path / "logs.tar.gz") as archive:
        assert archive.extractfile("build.txt").read() == b"nvcc: no"


def test_a_cut_leaves_some_of_every_op_direction_and_dtype():
    cases = list(pairs([1, 32], ["mobilenet_v2"], ["bfloat16", "float16"]))
    first = in_turns(cases)
    assert sorted(map(str, first)) == sorted(map(str, cases))
    kinds = [(case.op, case.direction, case.dtype_name) for case, _ in first]
    count = len(set(kinds))
    assert len(set(kinds[:count])) == count > 10


def test_a_machine_without_a_gpu_gets_one_sentence(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["session", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="torch sees no GPU"):
        file.main()


def test_the_build_asks_nothing_of_setuptools(tmp_path, monkeypatch):
    build = SETUP["build_inplace"]
    names = []

    def run_ninja(name):
        names.append(name)
        (tmp_path / name).write_bytes(b"built")

    (tmp_path / "fastconv").mkdir()
    replaced = {"run_ninja": run_ninja, "BUILD_DIR": tmp_path, "ROOT": tmp_path, "setuptools": None}
    for name, value in replaced.items():
        monkeypatch.setitem(build.__globals__, name, value)
    build()
    assert names == [Path(fastconv._C.__file__).name]
    assert (tmp_path / "fastconv" / names[0]).read_bytes() == b"built"
    (command,) = [word for word in file.build(tmp_path, "90").command if "setup" in word]
    assert command == "import setup; setup.build_inplace()"


def test_the_sanitizer_has_tests_to_check(tmp_path, monkeypatch):
    monkeypatch.setattr(file.shutil, "which", lambda name: f"/there/{name}")
    steps = file.steps_on_gpu(tmp_path)
    command = next(step.command for step in steps if step.name == "compute-sanitizer")
    tests = [*command[command.index(sys.executable) :], "--collect-only", "-q"]
    found = subprocess.run(tests, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert int(found.stdout.split("tests/test_cuda.py: ")[1].split()[0]) > 20


def test_programs_of_the_toolkit_are_found_beside_path(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "compute-sanitizer"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert shutil.which(program.name) is None
    file.put_toolkit_on_path()
    assert shutil.which(program.name) == str(program)
    assert shutil.which("env") == "/usr/bin/env"
