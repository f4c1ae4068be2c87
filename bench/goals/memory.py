"""How much memory the intermediates of a whole network take: optimized, against eager torch."""

import torch

import fastconv
from bench.goals.figures import Figure, Row

BATCH = 16


def measure(_seconds: float) -> list[Figure]:
    model = fastconv.models.mobilenet_v2().eval()
    images = torch.randn(BATCH, 3, 224, 224)
    optimized = fastconv.optimize(model, (images,))
    peaks = [fastconv.peak_memory(module, images) for module in (optimized, model)]
    return [Figure("at most", peaks[0] / peaks[1], 0.4, "of torch", at_most=True)]


ROWS = [
    Row(
        "memory",
        f"peak activation memory, MobileNetV2 batch {BATCH}, optimized",
        "<= 0.4 of torch eager",
        measure,
        whole_network=True,
    )
]
