"""Local response normalisation and residual add, which memory bounds."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.goals.figures import Figure, Row, worst
from bench.goals.timing import check, in_turn, share, speedup
from fastconv import ops, probe

ALEXNET = [(96, 55), (256, 27)]  # channels, size of its two normalisations
RESIDUAL = [(96, 56), (256, 56)]
BATCH = 16


def backward_of(normalise: object, x: Tensor) -> tuple[Tensor, object]:
    """The gradient of a normalisation, and the call that computes it again and again."""
    x = x.detach().requires_grad_()
    y = normalise(x)  # type: ignore[operator]
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))

    def call() -> Tensor:
        return torch.autograd.grad(y, x, gradient, retain_graph=True)[0]

    return call(), call


def measure_local_response_norm(seconds: float) -> list[Figure]:
    forward, backward, copies, backward_copies = {}, {}, {}, {}
    for channels, size in ALEXNET:
        x = torch.randn(BATCH, channels, size, size)
        name = "x".join(map(str, x.shape))
        check(ops.local_response_norm(x, 5), F.local_response_norm(x, 5))
        copy = probe.stream_copy(2 * x.nbytes)
        times = in_turn(
            seconds,
            ours=lambda x=x: ops.local_response_norm(x, 5),
            torch=lambda x=x: F.local_response_norm(x, 5),
            probe=copy.run,
        )
        forward[name] = speedup(times, "torch")
        copies[name] = share(times, 2 * x.nbytes, copy)
        with torch.enable_grad():
            right, theirs = backward_of(lambda x: F.local_response_norm(x, 5), x)
            result, ours = backward_of(lambda x: ops.local_response_norm(x, 5), x)
            check(result, right)
            copy = probe.stream_copy(3 * x.nbytes)
            times = in_turn(seconds, ours=ours, torch=theirs, probe=copy.run)
        backward[name] = speedup(times, "torch")
        backward_copies[name] = share(times, 3 * x.nbytes, copy)
    return [
        worst("forward", forward, 65.0),
        worst("backward", backward, 45.0),
        worst("forward", copies, 0.8, "of copy"),
        worst("backward", backward_copies, 0.8, "of copy"),
    ]


def measure_residual_add(seconds: float) -> list[Figure]:
    copies, ratios = {}, {}
    for channels, size in RESIDUAL:
        x, residual = (torch.randn(BATCH, channels, size, size) for _ in range(2))
        name = "x".join(map(str, x.shape))
        check(ops.residual_add(x, residual, "relu"), F.relu(x + residual))
        copy = probe.stream_copy(3 * x.nbytes)
        times = in_turn(
            seconds,
            ours=lambda x=x, r=residual: ops.residual_add(x, r, "relu"),
            torch=lambda x=x, r=residual: F.relu(x + r),
            probe=copy.run,
        )
        copies[name] = share(times, 3 * x.nbytes, copy)
        ratios[name] = speedup(times, "torch")
    return [
        worst("moves", copies, 0.95, "of copy"),
        worst("torch unfused", ratios, 3.0),
    ]


ROWS = [
    Row(
        "local-response-norm",
        "LRN forward / backward, batch 16",
        ">= 65x / 45x torch; forward >= 0.8 of non-temporal copy",
        measure_local_response_norm,
    ),
    Row(
        "residual-add",
        "residual add + ReLU",
        ">= 0.95 of non-temporal copy, >= 3x torch unfused",
        measure_residual_add,
    ),
]
