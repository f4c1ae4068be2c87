"""The demonstrations of the recipes that take no long: python -m bench.recipes."""

import json

import typer
from PIL import Image
from typer.testing import CliRunner

import fastconv
from bench.recipes.__main__ import main
from bench.recipes.published import TOP1
from fastconv.models import BUILDERS
from tests.helpers import threads
from tests.tiny_network import TinyNetwork

app = typer.Typer()
app.command()(main)


def run(*arguments) -> None:
    with threads(1):
        result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_the_contact_sheet_shows_every_augmentation(tmp_path):
    run("augmentation", "--out", tmp_path)
    with Image.open(tmp_path / "augmentation.png") as image:
        assert image.width > 900
        assert image.height > 900


def test_latency_is_measured_and_drawn_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(fastconv.models, "build", lambda name: TinyNetwork())
    for name in ("mobilenet_v1", "alexnet"):
        run("latency", "--network", name, "--seconds", "0.1", "--out", tmp_path)
    found = json.loads((tmp_path / "recipes.json").read_text())
    rows = found["latency"]
    assert [row["network"] for row in rows] == ["mobilenet_v1", "alexnet"]
    assert all(row["torch_ms"] > 0 and row["fastconv_ms"] > 0 for row in rows)
    assert found["machines"]["latency"]["threads"] == 1
    with Image.open(tmp_path / "latency.png") as image:
        assert image.width > 900


def test_published_accuracies_are_of_networks_here():
    assert set(TOP1) <= set(BUILDERS)
    assert all(50 < top1 < 85 and source for top1, source in TOP1.values())
