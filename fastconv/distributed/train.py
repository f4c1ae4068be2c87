"""Training on several processes, each way in a few lines; random images stand for the data.

torchrun --nproc-per-node 2 -m fastconv.distributed.train
torchrun --nproc-per-node 2 -m fastconv.distributed.train --way fsdp --network resnet18
torchrun --nproc-per-node 2 -m fastconv.distributed.train --way two-groups --image 67
"""

import os
import time
from enum import StrEnum
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastconv
from fastconv.cli.common import expected_errors, fail, output
from fastconv.distributed import HalfOfAlexNet
from fastconv.models import build

CLASSES = 10


class Way(StrEnum):
    DDP = "ddp"
    FSDP = "fsdp"
    TWO_GROUPS = "two-groups"


def prepare(way: Way, network: str, image: int) -> nn.Module:
    """The part of this process in a network of the same random weights on all."""
    torch.manual_seed(0)
    model = build("alexnet_lrn" if way is Way.TWO_GROUPS else network, num_classes=CLASSES)
    if image < model.least_size:
        raise ValueError(f"expected images of at least {model.least_size} pixels, got {image}")
    fastconv.swap_(model)
    if way is Way.TWO_GROUPS:
        return HalfOfAlexNet(model)
    if way is Way.DDP:
        return DistributedDataParallel(model)
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    for block in getattr(model, "features", model).children():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def main(
    way: Annotated[Way, typer.Option(help="Who has what: see fastconv.distributed.")] = Way.DDP,
    network: Annotated[
        str, typer.Option(help="Of fastconv.models; two-groups takes alexnet_lrn.")
    ] = "mobilenet_v2",
    batch: Annotated[int, typer.Option(min=1, help="Images a process and step.")] = 4,
    image: Annotated[int, typer.Option(min=1, help="Pixels in height and in width.")] = 64,
    steps: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Train a swapped network for some steps on random images."""
    if "RANK" not in os.environ:
        fail("start it by torchrun --nproc-per-node 2 -m fastconv.distributed.train")
    dist.init_process_group("gloo")
    try:
        with expected_errors():
            train(prepare(way, network, image), way, batch, image, steps)
    finally:
        dist.destroy_process_group()


def train(model: nn.Module, way: Way, batch: int, image: int, steps: int) -> float:
    """Says the mean loss of each step in the first process, and gives the last one in all."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    # The two halves of one network see the same images.
    torch.manual_seed(0 if way is Way.TWO_GROUPS else dist.get_rank())
    images, targets = torch.randn(batch, 3, image, image), torch.randint(CLASSES, (batch,))
    for step in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        mean = loss.detach() / dist.get_world_size()
        dist.all_reduce(mean)
        if dist.get_rank() == 0:
            seconds = time.perf_counter() - start
            output.print(f"step {step}: loss {mean:.4f}, {seconds * 1e3:.0f} ms")
    # Waiting lets go of Python's lock, which gloo's threads need to drop the last tensors; one
    # that gets it only when Python has ended aborts the process.
    dist.barrier()
    return mean.item()


if __name__ == "__main__":
    typer.run(main)
