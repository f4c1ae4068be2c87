"""Keys, shapes and outputs against what torchvision's networks gave (fixtures/torchvision)."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from fastconv import models
from tests.known_weights import described, fill, known_image

FOLDER = Path(__file__).parent / "fixtures" / "torchvision"
SUMMARY = json.loads((FOLDER / "summary.json").read_text())["networks"]


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.txt"))])
def test_keys_and_shapes(name):
    with torch.device("meta"):
        model = models.build(name)
    assert described(model) == (FOLDER / f"{name}.txt").read_text().splitlines()


@pytest.mark.parametrize("name", SUMMARY)
def test_outputs_for_known_weights(name):
    expected = SUMMARY[name]
    with torch.device("meta"):
        model = models.build(name)
    lines = described(model)
    assert len(lines) == expected["tensors"]
    assert sum(p.numel() for p in model.parameters()) == expected["parameters"]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert digest == expected["digest"]

    # In float64: in float32 another order of sums can turn a squeeze-and-excitation gate of the
    # larger EfficientNets from 0 to 1, as their inputs are up to 1e12 for these weights.
    model = fill(model.to_empty(device="cpu")).double().eval()
    with torch.inference_mode():
        output = model(known_image().double()).float()
    # 3e-6 is what another order of sums makes in 600 layers; a wrong padding makes 1e-2.
    tolerance = 1e-4 * expected["largest"]
    torch.testing.assert_close(
        output[:, :4], torch.tensor(expected["output"]), atol=tolerance, rtol=0
    )
    assert output.abs().max().item() == pytest.approx(expected["largest"], rel=1e-4)
