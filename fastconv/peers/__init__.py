"""Rivals to measure fastconv against, each run in a process of its own.

One row a rival below; one module a rival beside this file, with one function
`prepare(model, image, dtype, threads)` that returns a call without arguments. `worker` runs one
rival inside its process, `process` drives that process from outside.
"""

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    name: str
    title: str
    module: str
    needs: tuple[str, ...] = ()  # beyond torch; as modules and as packages they have these names

    def missing(self) -> list[str]:
        return [module for module in self.needs if importlib.util.find_spec(module) is None]


def install_command(modules: list[str] | tuple[str, ...]) -> str:
    return f"pip install {' '.join(modules)}"


PEERS = {
    peer.name: peer
    for peer in (
        Peer("torch", "torch", "fastconv.peers.torch_contiguous"),
        Peer("torch-channels-last", "torch channels_last", "fastconv.peers.torch_channels_last"),
        Peer("inductor", "torch.compile", "fastconv.peers.torch_inductor"),
        Peer("fastconv", "fastconv", "fastconv.peers.fastconv_optimize"),
        Peer(
            "onnxruntime",
            "ONNX Runtime",
            "fastconv.peers.onnxruntime_cpu",
            needs=("onnx", "onnxscript", "onnxruntime"),
        ),
        Peer("openvino", "OpenVINO", "fastconv.peers.openvino_cpu", needs=("openvino",)),
    )
}

# Inductor compiles for the better part of a minute, so it is asked for by name.
DEFAULT_PEERS = ("torch", "torch-channels-last", "fastconv", "onnxruntime", "openvino")
BASELINES = ("torch", "torch-channels-last")


class UnsupportedError(Exception):
    """This rival cannot do what was asked; the message says so in one sentence."""
