"""What a receipt says, as JSON, as a table, on the command line."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

import fastconv
from fastconv import tables
from fastconv.cli import app
from tests.styles import STYLES, build


def run(*arguments):
    return CliRunner().invoke(app, ["optimize", *arguments])


def receipt_of(name: str) -> list[dict]:
    model = build(name).eval()
    args, kwargs = model.example(2)
    return fastconv.optimize(model, args, example_kwargs=kwargs).receipt


@pytest.mark.parametrize("name", ["Chain", "PreActivation", "UNet", "Branching", "Foreign"])
def test_every_layer_is_named_once_with_a_reason_where_torch_serves_it(name):
    rows = receipt_of(name)
    assert json.loads(json.dumps(rows)) == rows
    assert all(
        {"layer", "weight", "kernel", "activation", "residual"} <= row.keys() for row in rows
    )
    assert all(row["reason"] for row in rows if row["kernel"] in ("torch", "swapped"))
    if rows[0]["layer"] == "model":
        return
    model = STYLES[name]()
    named = [row["layer"] for row in rows]
    for row in rows:
        named += [part for part in row.get("parts", []) if part != row["layer"]]
        named += row.get("folded", [])
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.Linear)
    layers = [path for path, layer in model.named_modules() if isinstance(layer, kinds)]
    if name == "PreActivation":
        layers.remove("norm")  # which it never calls
    assert sorted(path for path in named if path in layers) == sorted(layers)


def test_functions_are_named_by_their_weights():
    assert [row["layer"] for row in receipt_of("Functional")][:2] == ["weights.0", "weights.2"]
    assert [row["layer"] for row in receipt_of("Parametrized")] == ["stem", "pointwise"]


class Reasons(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.dense = nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3)
        self.padded = nn.Conv2d(8, 8, 1, padding=1)
        self.wide, self.alone = nn.Conv2d(8, 8, 9, groups=8), nn.Conv2d(8, 8, 3, groups=8)
        self.last = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.padded(self.dense(self.grouped(x))))
        x = torch.tanh(self.alone(x))
        return self.last(self.wide(x))


def test_reasons():
    rows = fastconv.optimize(Reasons().eval(), torch.randn(1, 8, 24, 24)).receipt
    reasons = {row["layer"]: row["reason"] for row in rows if row["weight"] and "reason" in row}
    assert "2 groups, 3x3" in reasons["grouped"]
    assert "dense 3x3" in reasons["dense"]
    assert "padding" in reasons["padded"]
    assert "no 1x1 convolution is all that reads it" in reasons["alone"]
    assert "none has a kernel for its size" in reasons["wide"]
    assert "last" not in reasons
    assert {row["op"] for row in rows if "op" in row} == {"gelu", "tanh"}


def test_the_table_names_what_was_taken_in():
    rows = receipt_of("SqueezeExcite")
    text = tables.as_text(tables.receipt(rows, "a title"))
    block = next(line for line in text.splitlines() if "inverted_residual" in line)
    assert (
        "expand.0, depthwise.0, reduce, excite, hardsigmoid, 3 norms, hardswish, residual" in block
    )
    assert "stem_conv2d 1, inverted_residual 1" in text


MODEL = "tests.tiny_network:build"


def test_the_command_prints_a_table_and_json():
    table = run(MODEL, "--batch", "2")
    assert table.exit_code == 0, table.output
    assert "separable_conv2d" in table.stdout
    result = run(MODEL, "--json", "--dtype", "bfloat16", "--any-size")
    found = json.loads(result.stdout)
    assert found["model"] == MODEL
    assert [row["layer"] for row in found["receipt"]] == ["0", "4", "5", "7"]


def test_the_command_measures():
    result = run(MODEL, "--measure", "0.2", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["receipt"]
    assert rows[0]["layer"] == "model" or "measured" in rows[0]


class WrongSize(nn.Conv2d):
    input_size = (4, 8, 8)


def wrong_size() -> nn.Module:
    return WrongSize(3, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such_network"], "no_such_network"),
        (["tests.test_receipt:wrong_size"], "channels"),
        ([MODEL, "--measure", "-1"], "--measure"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
