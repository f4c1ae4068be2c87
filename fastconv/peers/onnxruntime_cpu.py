"""ONNX Runtime on the CPU: exported by torch, every graph optimisation on."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import UnsupportedError


class Session:
    def __init__(self, session: Any, image: Tensor, operators: Counter[str]) -> None:
        self.operators = operators
        self._session = session
        self._feed = {session.get_inputs()[0].name: image.numpy()}

    def __call__(self) -> Tensor:
        return torch.from_numpy(self._session.run(None, self._feed)[0])


def prepare(model: nn.Module, image: Tensor, dtype: torch.dtype, threads: int) -> Session:
    import onnx
    import onnxruntime

    import fastconv.onnx

    if dtype != torch.float32:
        raise UnsupportedError(f"ONNX Runtime has no {dtype} convolution on the CPU.")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path, optimized = Path(folder) / "model.onnx", Path(folder) / "optimized.onnx"
        fastconv.onnx.export(model, (image,), path)
        options.optimized_model_filepath = str(optimized)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(optimized, load_external_data=False).graph.node
    return Session(session, image, Counter(f"{n.domain}.{n.op_type}".lstrip(".") for n in nodes))


def implementations(call: Session) -> Counter[str]:
    """The operators left after its graph optimisations; nchwc ones are its blocked kernels."""
    return call.operators
