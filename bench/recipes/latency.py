"""Milliseconds an image of the networks here, in plain torch and in fastconv, in turn."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch

import fastconv
from bench.goals.timing import Call
from bench.recipes.published import TOP1
from fastconv.peers.entrant import TOLERANCE
from fastconv.peers.model import settle_batch_norms
from fastconv.peers.turns import time_in_turn
from fastconv.progress import silent
from fastconv.recipes.plots import Point, accuracy_against_latency, write


@torch.inference_mode()
def latency(name: str, seconds: float) -> dict[str, Any]:
    """The medians over rounds in turn, torch in its faster layout; outputs are compared first."""
    torch.manual_seed(0)
    model = fastconv.models.build(name)
    settle_batch_norms(model, torch.randn(4, *model.input_size))
    image = torch.randn(1, *model.input_size)
    expected = model(image)
    fast = fastconv.optimize(model, (image,))
    error = float((fast(image) - expected).abs().max() / expected.abs().max())
    if not error < TOLERANCE["float32"]:
        raise ArithmeticError(f"{name}: fastconv differs from torch by {error:.2g}")
    last = fastconv.models.build(name).eval()
    last.load_state_dict(model.state_dict())
    last = last.to(memory_format=torch.channels_last)
    turned = image.contiguous(memory_format=torch.channels_last)
    runs = [Call(lambda: model(image)), Call(lambda: last(turned)), Call(lambda: fast(image))]
    times = time_in_turn(runs, seconds, silent)
    contiguous, channels_last, ours = (
        1e3 * median(median(turn) for turn in turns) for turns in times
    )
    top1, source = TOP1[name]
    return {
        "network": name,
        "top1": top1,
        "top1_from": source,
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch_ms": min(contiguous, channels_last),
        "torch_layout": "contiguous" if contiguous < channels_last else "channels_last",
        "fastconv_ms": ours,
        "difference": error,
    }


def plot(rows: Iterable[dict[str, Any]], machine: dict[str, Any], path: Path) -> None:
    rows = list(rows)
    groups = {
        f"{name}": [Point(row["network"], row["top1"], row[f"{name}_ms"]) for row in rows]
        for name in ("torch", "fastconv")
    }
    title = (
        f"Networks at their own resolution, float32, threads: {machine['threads']}, "
        f"{machine['processor']}, torch {machine['torch']}"
    )
    label = "ImageNet top-1 as published, %"
    write(accuracy_against_latency(groups, title, label), path)
