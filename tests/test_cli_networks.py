"""fastconv models and fastconv cost: what they print, and what they say of bad input."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from fastconv.cli import app
from fastconv.models import BUILDERS
from tests.helpers import unboxed

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_cost_of_one_network_is_a_table_of_its_layers():
    result = run("cost", "efficientnet_lite0")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "efficientnet_lite0, input 1x3x224x224" in lines[0]
    stem = next(line for line in lines if " features.0.0 " in line).split()
    assert stem[:5] == ["features.0.0", "Conv2d", "1x32x112x112", "864", "3.38"]
    assert "10.8 M" in " ".join(stem)
    assert any(line.split()[:5] == ["all", "4.65", "M", "17.7", "MB"] for line in lines if line)


def test_cost_of_several_is_a_row_for_each():
    result = run("cost", "efficientnet_lite0", "tests.tiny_network:build", "--batch", "2")
    assert result.exit_code == 0, result.output
    names = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    assert names[-2:] == ["efficientnet_lite0", "tests.tiny_network:build"]
    assert "2x3x16x16" in result.stdout


def test_cost_as_json_and_markdown():
    result = run("cost", "efficientnet_lite0", "--size", "64", "--json")
    report = json.loads(result.stdout)["efficientnet_lite0"]
    assert report["input_shape"] == [1, 3, 64, 64]
    assert sum(layer["multiplications"] for layer in report["layers"]) == report["multiplications"]
    result = run("cost", "efficientnet_lite0", "tests.tiny_network:build", "--markdown")
    assert "| efficientnet_lite0 " in result.stdout


def test_cost_compares_ways_to_do_one_layer():
    result = run("cost", "--compare", "conv", "separable")
    assert result.exit_code == 0, result.output
    for words in ("3*3*3 * 4*4 * 5", "2160", "432", "240", "672", "1/5 + 1/9 = 0.31"):
        assert words in result.stdout
    result = run("cost", "--compare", "conv", "separable", "inception-bottleneck")
    for words in ("120 M", "2.41 M", "10.0 M", "12.4 M", "0.10"):
        assert words in result.stdout
    options = ["--input", "14x14x512", "--kernel", "3", "--filters", "512", "--padding", "same"]
    result = run("cost", "--compare", "conv", "separable", *options, "--json")
    assert json.loads(result.stdout)["ways"][1]["ratio"] == pytest.approx(1 / 512 + 1 / 9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cost", "efficientnet_lite_0"], ["did you mean efficientnet_lite0"]),
        (["cost", "tests.tiny_network:nothing"], ["nothing"]),
        (["cost", "--compare", "conv", "sep"], ["unknown way 'sep'", "separable"]),
        (["cost", "--compare", "conv", "--kernel", "9"], ["9x9 window", "6x6"]),
        (["cost", "--compare", "conv", "--input", "28x28"], ["28x28x192", "'28x28'"]),
        (["cost", "--compare", "conv", "--input", "0x28x3"], ["height must be at least 1"]),
    ],
)
def test_bad_input_is_one_sentence(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    said = unboxed(result.stderr)
    assert all(word in said for word in words), said
    assert "Traceback" not in said


def test_models_lists_every_network():
    result = run("models", "--json")
    assert result.exit_code == 0, result.output
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)["models"]}
    assert list(entries) == list(BUILDERS)
    lite0 = entries["efficientnet_lite0"]
    assert lite0["parameters"] == 4_652_008
    assert lite0["multiplications"] == 385_187_552
    assert 0.96 < lite0["share"] < 0.98
    table = run("models").stdout
    assert all(name in table for name in BUILDERS)

    vggs = ["vgg11", "vgg11_lrn", "vgg13", "vgg16_1x1", "vgg16", "vgg19"]  # A, A-LRN, B to E
    millions = [entries[name]["parameters"] / 1e6 for name in vggs]
    assert [math.floor(m + 0.5) for m in millions] == [133, 133, 133, 134, 138, 144]
    assert 59e3 < entries["lenet5"]["parameters"] < 62e3
    assert 59e6 < entries["alexnet_lrn"]["parameters"] < 62e6
    # Multiply-adds: MobileNet v1 table 8, v2 table 4, EfficientNet table 2, ResNet table 1 (which
    # has the stride of a bottleneck elsewhere).
    published = {
        "mobilenet_v1": 569e6,
        "mobilenet_v2": 300e6,
        "efficientnet_b0": 0.39e9,
        "efficientnet_b7": 37e9,
        "resnet18": 1.8e9,
        "resnet152": 11.3e9,
    }
    for name, number in published.items():
        assert entries[name]["multiplications"] == pytest.approx(number, rel=0.03), name


def test_explain_plans_for_a_gpu_that_is_not_here():
    arguments = ["explain", "mobilenet_v2", "--device", "meta-h100", "--backend", "triton"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0] == ["mobilenet_v2", "on", "meta-h100"]
    layer = ["features.1.conv.0.0", "depthwise_conv2d", "1x32x112x112", "float32"]
    assert [*layer, "channels_last", "triton"] in [line[:6] for line in lines]
    rows = json.loads(run(*arguments, "--json").stdout)["rows"]
    assert len(rows) == len(lines) - 4  # title, head, rule, sums
    assert all(row["reason"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "meta-tpu"], "meta-h100"),
        (["--device", "tpu"], "expected cpu, cuda or meta-h100, got 'tpu'"),
        pytest.param(["--device", "cuda"], "sees no CUDA device here", marks=WITHOUT_GPU),
        (["--backend", "metal"], "expected a backend of"),
        (["--backend", "triton"], "cannot run there"),
    ],
)
def test_explain_says_what_it_cannot_do(arguments, words):
    result = run("explain", "tests.tiny_network:build", *arguments)
    assert isinstance(result.exception, SystemExit)
    assert words in unboxed(result.output)
