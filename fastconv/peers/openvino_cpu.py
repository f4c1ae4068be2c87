"""OpenVINO on the CPU: one request at a time on all threads, in the precision asked for."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from . import UnsupportedError

# Left alone, OpenVINO computes in bfloat16 where the processor has it.
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class Request:
    def __init__(self, compiled: Any, image: Tensor) -> None:
        self.compiled = compiled
        self._request = compiled.create_infer_request()
        self._feed = [image.numpy()]

    def __call__(self) -> Tensor:
        result = self._request.infer(self._feed, share_inputs=True, share_outputs=True)
        return torch.from_numpy(result[0])


def prepare(model: nn.Module, image: Tensor, dtype: torch.dtype, threads: int) -> Request:
    import openvino

    if dtype not in PRECISIONS:
        raise UnsupportedError(f"OpenVINO is not asked for {dtype} here.")
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
    }
    converted = openvino.convert_model(model, example_input=(image,), input=[tuple(image.shape)])
    return Request(openvino.compile_model(converted, "CPU", config), image)


def implementations(call: Request) -> Counter[str]:
    """The layers of the compiled network, each with the kernel chosen for it."""
    layers = (op.get_rt_info() for op in call.compiled.get_runtime_model().get_ordered_ops())
    names = ((str(info["layerType"].value), str(info["primitiveType"].value)) for info in layers)
    return Counter(" ".join(name) for name in names if name[0] not in ("Input", "Output", "Const"))
