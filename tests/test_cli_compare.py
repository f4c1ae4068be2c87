"""fastconv compare on the command line: settings, files, bad input, and what Ctrl-C leaves."""

import json
import re
import sys

import pytest
from typer.testing import CliRunner

from fastconv import charts, comparisons, tables
from fastconv.cli import app
from fastconv.compare import Comparison
from fastconv.comparisons import Report
from fastconv.peers import PEERS, Peer
from fastconv.peers.entrant import Rival
from tests.helpers import ROOT, unboxed

MODEL = "tests.tiny_network:build"
QUICK = ["--seconds", "0.1", "--threads", "1"]


def run(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def comparison(model, batch=1, dtype="float32", threads=1, **options):
    torch = Rival("torch", "torch", median_ms=2.0, quartiles_ms=(1.9, 2.1), speedup=1.0)
    ours = Rival("fastconv", "fastconv", median_ms=0.5, quartiles_ms=(0.4, 0.6), speedup=4.0)
    ours.speedup_interval, ours.cold_ms, ours.memory_bytes = (3.5, 4.25), 0.75, 3 << 20
    wrong = Rival("onnxruntime", "ONNX Runtime", "wrong", "differs", median_ms=0.1, speedup=20.0)
    gone = Rival("openvino", "OpenVINO", "skipped", "not installed: pip install openvino")
    rivals = [torch, ours, wrong, gone]
    shape = (batch, 3, 16, 16)
    return Comparison(model, dtype, threads, shape, "Abacus", 2, 9, "torch", rivals, **options)


@pytest.fixture
def compared(monkeypatch):
    """Stands in for `compare`: the settings it was called with, and nothing measured."""
    calls = []

    def compare(model, *, batch, dtype, threads, peers, seconds, progress):
        calls.append((model, dtype, threads, batch))
        return comparison(model, batch, dtype, threads)

    monkeypatch.setattr(comparisons, "compare", compare)
    monkeypatch.setattr(Comparison, "ok", True)
    return calls


def test_it_prints_a_table_and_saves_what_it_can_show_again(tmp_path):
    files = [tmp_path / "new" / f"results.{suffix}" for suffix in ("json", "md", "svg")]
    saves = [f"--save={file}" for file in files]
    result = run(MODEL, "--peers", "torch,torch-channels-last", *QUICK, *saves)
    assert result.exit_code == 0, result.output
    assert "torch channels_last" in result.stdout
    assert "batch 1, float32, 1 thread" in result.stdout
    saved = [file.read_text() for file in files]
    found = json.loads(saved[0])
    assert found["complete"] is True
    assert {"processor", "torch", "fastconv", "isa", "date"} <= set(found["machine"])
    assert "| torch channels_last |" in saved[1]
    assert saved[2].startswith("<?xml")
    for file in files[1:]:
        file.unlink()
    again = run("--load", files[0], *saves)
    assert again.exit_code == 0, again.output
    assert again.stdout == result.stdout
    assert [file.read_text() for file in files] == saved


def test_json_is_all_there_is_on_stdout(compared):
    result = run(MODEL, "--batch", "2", "--json", *QUICK)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found) == {"machine", "complete", "comparisons"}
    (first,) = found["comparisons"]
    assert first["input_shape"] == [2, 3, 16, 16]
    assert {"rounds", "baseline", "interrupted", "rivals", "threads", "processor"} <= set(first)
    assert {
        "status", "reason", "versions", "implementations", "difference", "prepare_seconds",
        "cold_ms", "first_call_ms", "memory_bytes", "median_ms", "quartiles_ms", "speedup",
        "speedup_interval",
    } <= set(first["rivals"][0])  # fmt: skip


def test_every_combination_is_compared(compared):
    settings = ["--dtype", "float32", "--dtype", "bfloat16", "--batch", "1", "--batch", "16"]
    result = run("a", "b", *settings, "--threads", "1", "--threads", "2")
    assert result.exit_code == 0, result.output
    assert len(set(compared)) == len(compared) == 16
    assert {setting[0] for setting in compared[:8]} == {"a"}
    assert "Times as fast as torch" in result.stdout


def test_wrong_numbers_are_an_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = "def prepare(model, image, dtype, threads):\n    return lambda: model(image) * 2\n"
    (tmp_path / "double_rival.py").write_text(source)
    monkeypatch.setitem(PEERS, "double", Peer("double", "Double", "double_rival"))
    result = run(MODEL, "--peers", "double", *QUICK)
    assert result.exit_code == 1
    assert "wrong" in result.stdout
    assert "fastconv: Double differs from torch" in result.stderr


def test_a_missing_rival_is_an_error_only_where_none_is_left(monkeypatch):
    absent = Peer("absent", "Absent", "nothing", needs=("package_that_is_not_there",))
    monkeypatch.setitem(PEERS, "absent", absent)
    result = run(MODEL, "--peers", "torch,absent", *QUICK)
    assert result.exit_code == 1
    assert "no rival to compare torch with: Absent not installed: pip install" in result.stderr


def test_ctrl_c_keeps_the_comparisons_that_are_done(compared, monkeypatch, tmp_path):
    compare = comparisons.compare

    def interrupted(model, **options):
        if model == "b":
            raise KeyboardInterrupt
        return compare(model, **options)

    monkeypatch.setattr(comparisons, "compare", interrupted)
    file = tmp_path / "results.json"
    result = run("a", "b", "c", "--save", file)
    assert result.exit_code == 1
    assert "interrupted" in result.stderr
    found = comparisons.read(file)
    assert [comparison.model for comparison in found.comparisons] == ["a"]
    assert not found.complete
    assert "interrupted" in run("--load", file, "--save", tmp_path / "x.md").stderr
    assert "Interrupted: not all" in (tmp_path / "x.md").read_text()


def test_a_comparison_cut_short_ends_the_run_and_is_marked(monkeypatch):
    monkeypatch.setattr(
        comparisons, "compare", lambda model, **options: comparison(model, interrupted=True)
    )
    report = comparisons.compare_all(["a", "b"])
    assert [comparison.model for comparison in report.comparisons] == ["a"]
    assert not report.complete


def test_the_tables_and_the_chart_show_what_was_right(tmp_path):
    report = Report({"processor": "Abacus"}, True, [comparison("a"), comparison("b", batch=16)])
    chart = charts.comparison_svg(report)
    assert chart == charts.comparison_svg(report)
    for text in ("4.00", "1.00", "batch 16", "float32, 1 thread", "fastconv"):
        assert f">{text}" in chart or f"{text}<" in chart
    assert "20.00" not in chart  # the wrong one
    assert "ONNX Runtime" not in chart
    file = tmp_path / "results.json"
    file.write_text(comparisons.to_json(report))
    result = run("--load", file, "--save", tmp_path / "results.md")
    assert result.exit_code == 1  # wrong results stay an error
    markdown = (tmp_path / "results.md").read_text()
    assert "4.00 (3.50-4.25)" in markdown
    assert "3.00 MB" in markdown
    assert "wrong" in markdown
    assert "OpenVINO skipped: not installed" in markdown


def test_the_readme_shows_the_chart_of_the_results_it_names():
    (name,) = re.findall(
        r"\(bench/results/([\d-]+-compare)\.json\)", (ROOT / "README.md").read_text()
    )
    results = ROOT / "bench" / "results"
    report = comparisons.read(results / f"{name}.json")
    chart = (results / "compare.svg").read_text()
    for found in report.comparisons:
        assert f">{found.dtype}, {found.threads} thread" in chart
        for bar in charts.bars(found):
            assert f">{bar.ratio:.2f}<" in chart
    assert tables.report(report) == (results / f"{name}.md").read_text()


def test_results_of_one_machine_become_one(tmp_path):
    files = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for file, processor in zip(files, ("Abacus", "Abacus", "Slide rule"), strict=True):
        machine = {"processor": processor, "date": file.name, "cores": ord(file.name[0])}
        file.write_text(comparisons.to_json(Report(machine, True, [comparison(file.stem)])))
    both = tmp_path / "both.json"
    run("--load", files[0], "--load", files[1], "--save", both)
    assert [c.model for c in comparisons.read(both).comparisons] == ["a", "b"]
    result = run("--load", files[0], "--load", files[2])
    assert result.exit_code == 2
    text = unboxed(result.stderr)
    assert "processor Abacus and of Slide rule do not go together" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such_network"], ["no_such_network", "efficientnet_lite0"]),
        ([MODEL, "--peers", "abacus"], ["abacus", "onnxruntime", "--peers"]),
        ([MODEL, "--batch", "0"], ["--batch", "greater than or equal to 1"]),
        ([MODEL, "--dtype", "float8"], ["float8", "bfloat16"]),
        ([], ["name a model, or a file by --load"]),
        ([MODEL, "--load", "x.json"], ["name a model, or a file by --load"]),
        ([MODEL, "--save", "x.pdf"], ["x.pdf is none of .json, .md, .svg"]),
        (["--load", "no_such.json"], ["cannot read no_such.json: No such file"]),
        (["--load", "pyproject.toml"], ["pyproject.toml holds no comparisons"]),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    text = unboxed(result.stderr)
    for word in words:
        assert word in text
    assert "Traceback" not in text


def test_files_that_cannot_be_written_are_found_before_anything_is_measured(
    compared, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    (tmp_path / "file.md").mkdir()
    for file in (tmp_path / "file" / "results.json", tmp_path / "file.md"):
        result = run("a", "--save", file)
        assert result.exit_code == 2
        assert "cannot write" in result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(charts.importlib.util, "find_spec", lambda name: None)
    result = run("a", "--save", tmp_path / "chart.svg")
    assert result.exit_code == 1
    assert "pip install 'fastconv[charts]'" in result.stderr
    assert compared == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "file.md"]
