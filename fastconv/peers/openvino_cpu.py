"""OpenVINO on the CPU: one request at a time on all threads, in the precision asked for."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def prepare(
    model: nn.Module, image: Tensor, dtype: torch.dtype, threads: int
) -> Callable[[], Tensor]:
    import openvino

    # Left alone, OpenVINO computes in bfloat16 where the processor has it.
    precision = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    converted = openvino.convert_model(model, example_input=(image,), input=[tuple(image.shape)])
    request = openvino.compile_model(converted, "CPU", config).create_infer_request()
    feed = image.numpy()

    def call() -> Tensor:
        result = request.infer([feed], share_inputs=True, share_outputs=True)
        return torch.from_numpy(result[0])

    return call
