"""ONNX Runtime on the CPU: exported by torch, every graph optimisation on."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from . import UnsupportedError


def prepare(
    model: nn.Module, image: Tensor, dtype: torch.dtype, threads: int
) -> Callable[[], Tensor]:
    import onnxruntime

    import fastconv.onnx

    if dtype != torch.float32:
        raise UnsupportedError("ONNX Runtime has no bfloat16 convolution on the CPU.")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        fastconv.onnx.export(model, (image,), path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])
