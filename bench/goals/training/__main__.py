"""python -m bench.goals.training [--rival NAME] [--dtype NAME] [--shapes]: a step, op by op."""

from enum import StrEnum
from importlib import import_module
from typing import Annotated

import torch
import typer

from bench.goals.training import BATCH, MODEL, ops
from fastconv.peers.model import build_model
from fastconv.profiling.roofline import measure_roofs
from fastconv.tables.common import as_text


class Rival(StrEnum):
    SWAPPED = "swapped"
    CHANNELS_LAST = "channels_last"
    CONTIGUOUS = "contiguous"


class DType(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def main(
    rival: Rival = Rival.SWAPPED,
    dtype: DType = DType.FLOAT32,
    steps: Annotated[int, typer.Option(min=1)] = 10,
    shapes: Annotated[bool, typer.Option("--shapes", help="A row for each shape too.")] = False,
) -> None:
    """Print where a training step of MobileNetV2 goes, beside the least that it could take."""
    torch.manual_seed(0)
    image = torch.randn(BATCH, 3, 224, 224)
    trained_in = getattr(torch, dtype)
    prepare = import_module(f"bench.goals.training.{rival}").prepare
    step = prepare(build_model(MODEL), image, trained_in, torch.get_num_threads())
    measured = ops.measure(step, steps, measure_roofs(trained_in))
    typer.echo(as_text(ops.table(f"{rival} {dtype}", measured, shapes)))


if __name__ == "__main__":
    typer.run(main)
