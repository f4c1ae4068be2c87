"""The onnx package's light graphs of published networks, run with the weights of our networks.

Their own weights are constants, so that their output hardly depends on the image; with random ones
an equal output shows that the graph and the network have the same layers in the same order.

    graph = LightGraph("resnet50")
    print(graph.weighted())  # the nodes to give weights to: op type and the name of the weight
    output = graph.run(image, layers)  # layers: a module a node, in this order
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
MODULES = {"Conv": nn.Conv2d, "Gemm": nn.Linear, "BatchNormalization": nn.BatchNorm2d}


def tensors(layer: nn.Module) -> list[Tensor]:
    """What the node of a layer takes beside the image, in onnx's order."""
    names = ["weight", "bias", "running_mean", "running_var"]
    found = [getattr(layer, name, None) for name in names]
    return [tensor.detach() for tensor in found if tensor is not None]


def weighted_layers(model: nn.Module) -> list[nn.Module]:
    """The convolutions, linear layers and batch norms of a model, in order of definition."""
    return [layer for layer in model.modules() if isinstance(layer, tuple(MODULES.values()))]


class LightGraph:
    """One of light_*.onnx, whose weights come from outside."""

    def __init__(self, name: str) -> None:
        self.model = onnx.load(FOLDER / f"light_{name}.onnx")

    def nodes(self, *types: str) -> list[onnx.NodeProto]:
        """The nodes of these op types in the order of the graph."""
        return [node for node in self.model.graph.node if node.op_type in types]

    def weighted(self) -> list[tuple[str, str]]:
        """Op type and name of the weight of each node that has weights, in the graph's order."""
        return [(node.op_type, node.input[1]) for node in self.nodes(*MODULES)]

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}

    def set_attributes(self, node: onnx.NodeProto, **values: Any) -> None:
        """Replaces attributes of a node, where the graph and the paper differ."""
        kept = [item for item in node.attribute if item.name not in values]
        new = [onnx.helper.make_attribute(name, value) for name, value in values.items()]
        del node.attribute[:]
        node.attribute.extend(kept + new)

    def run(self, image: Tensor, layers: Sequence[nn.Module]) -> Tensor:
        """The graph's logits for an image, with the weights of layers[i] in its i-th weighted node.

        The softmax that ends the graphs is left out, for it would hide differences. The weights
        are fed as inputs, not stored in the graph: nothing is copied or folded.
        Raises AssertionError where a layer is not of its node's type or has other tensors, and
        onnxruntime's error where a shape does not fit.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        stored = {tensor.name for tensor in graph.initializer}
        (image_name,) = [
            item.name
            for item in graph.input
            if item.name not in stored and item.type.tensor_type.shape.dim[0].dim_value == 1
        ]
        feeds = {image_name: image.numpy()}
        nodes = [node for node in graph.node if node.op_type in MODULES]
        assert len(nodes) == len(layers), f"{len(nodes)} nodes for {len(layers)} layers"
        for node, layer in zip(nodes, layers, strict=True):
            assert isinstance(layer, MODULES[node.op_type]), (node.op_type, layer)
            names, values = node.input[1:], tensors(layer)
            assert len(names) == len(values), (list(names), layer)
            feeds |= {name: value.numpy() for name, value in zip(names, values, strict=True)}
        softmax = graph.node[-1]
        assert softmax.op_type == "Softmax", softmax.op_type
        graph.output[0].name = softmax.input[0]
        # What made the weights goes, the weights become inputs.
        made = {*feeds, softmax.output[0]}
        keep(graph.node, [node for node in graph.node if node.output[0] not in made])
        used = {name for node in graph.node for name in node.input}
        keep(graph.initializer, [t for t in graph.initializer if t.name in used - feeds.keys()])
        inputs = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape)
            for name, value in feeds.items()
        ]
        keep(graph.input, inputs)
        model.ir_version = 8  # from 4 on, what is stored need not be an input too
        (output,) = session(model).run(None, feeds)
        return torch.from_numpy(np.asarray(output))


def keep(field: Any, items: list[Any]) -> None:
    """Makes a repeated field of a protocol buffer hold these items."""
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
