"""What is compared: an op on a layer of a network, in one dtype and direction, ours and torch's."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from bench.shapes import Shape, read
from bench.work import WORK, Function, Tensors, Work

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DIRECTIONS = {
    "depthwise_conv2d": ("forward", "grad_input", "grad_weight"),
    "pointwise_conv2d": ("forward", "grad_input", "grad_weight"),
    "local_response_norm": ("forward", "grad_input"),
    "residual_add": ("forward", "forward and grad_input"),
    "inverted_residual": ("forward",),
    "stem_conv2d": ("forward",),
    "max_pool2d": ("forward",),
    "global_avg_pool2d": ("forward", "grad_input"),
    "batch_norm": ("training", "grad_input"),
}


@dataclass(frozen=True)
class Case:
    """One row of one op: `ours` and `theirs`, which is torch, take the same tensors."""

    layer: Shape
    batch: int
    dtype: torch.dtype
    direction: str = "forward"

    @property
    def op(self) -> str:
        return self.layer.op

    @property
    def shape(self) -> str:
        return f"{self.batch}x{self.layer}"

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.op} {self.direction} {self.shape} {self.dtype_name}"

    @cached_property
    def _work(self) -> Work:
        return WORK[self.op](self)

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """Of the inputs."""
        return self._work.sizes

    @property
    def ours(self) -> Function:
        return self._work.ours

    @property
    def theirs(self) -> Function:
        return self._work.theirs

    @property
    def forms(self) -> dict[str, Function]:
        """Other ways to call ours on channels_last tensors, each served by another kernel."""
        return self._work.forms

    def function(self, name: str) -> Function:
        return {"ours": self.ours, "theirs": self.theirs, **self.forms}[name]

    @property
    def flops(self) -> int:
        return self._work.flops

    @property
    def bytes(self) -> int:
        """That must pass memory: the activations, each once. Weights are few."""
        return self._work.moved * self.dtype.itemsize

    def inputs(self, device: torch.device | str = "cpu") -> Tensors:
        """Random tensors in float32 that hold values of this dtype; outputs are near 1."""
        tensors = [torch.randn(size, device=device) for size in self.sizes]
        for i, size in enumerate(self.sizes):
            if len(size) == 4 and i > 0 and size[0] != self.sizes[0][0]:  # a weight
                tensors[i] /= (size[1] * size[2] * size[3]) ** 0.5
        return self.derive([t.to(self.dtype).float() for t in tensors])

    def derive(self, tensors: Tensors) -> Tensors:
        """The inputs with what is computed from them."""
        return self._work.derive(tensors)


def cases_of(layers: list[Shape], batches: list[int], dtypes: list[str]) -> Iterator[Case]:
    for dtype in (DTYPES[name] for name in dtypes):
        for batch in batches:
            for layer in layers:
                for direction in DIRECTIONS[layer.op]:
                    yield Case(layer, batch, dtype, direction)


def layers_of(networks: list[str]) -> list[Shape]:
    """The layers of these networks, equal ones once, in their order."""
    layers = (layer._replace(count=1) for network in networks for layer in read(network))
    return list(dict.fromkeys(layers))
