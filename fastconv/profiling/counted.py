"""Runs a network once on each side for NVIDIA's profiler: python -m fastconv.profiling.counted.

Its arguments are the files of the job and of the answer. Only what runs between the start and the
stop of torch.cuda.profiler is counted. Each stretch of work is an NVTX range, "SIDE,NUMBER"; the
answer holds their owners.
"""

import json
import sys
from pathlib import Path

import torch

from fastconv.profiling.device import synchronized
from fastconv.profiling.networks import side_of
from fastconv.profiling.steps import marked
from fastconv.profiling.subject import load

SIDES = ("torch", "fastconv")


class Ranges:
    """A range for each stretch between two marks, by its number: a mark names what is over."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.owners: list[str] = []
        self.counting = False

    def push(self) -> None:
        torch.cuda.nvtx.range_push(f"{self.side},{len(self.owners)}")

    def mark(self, owner: str) -> None:
        if self.counting:
            torch.cuda.nvtx.range_pop()
            self.owners.append(owner)
            self.push()


def main(question: str, answer: str) -> None:
    job = json.loads(Path(question).read_text())
    torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    subject = load(job["name"], job["batch"], job["dtype"], device=job["device"])
    owners = {}
    for side in reversed(SIDES):  # torch's may change the layout of the model
        network, inputs = side_of(subject, side, job["channels_last"])
        ranges = Ranges(side)
        with torch.no_grad(), marked(network, ranges.mark) as function:
            with synchronized(device):
                for _ in range(2):  # kernels are compiled and chosen
                    function(*inputs)
            torch.cuda.profiler.start()
            ranges.counting = True
            ranges.push()
            with synchronized(device):
                function(*inputs)
            torch.cuda.nvtx.range_pop()
            torch.cuda.profiler.stop()
        owners[side] = ranges.owners
    Path(answer).write_text(json.dumps(owners))


if __name__ == "__main__":
    main(*sys.argv[1:])
