"""Sequences (N, C, L) as images one pixel high."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from fastconv.optimize.capture import constant, read_buffer
from fastconv.optimize.conv import activation_of, arguments_of, layer_of

aten = torch.ops.aten

_CONVS = (aten.conv1d.default, aten.conv1d.padding)
_PADS = (aten.pad.default, aten.constant_pad_nd.default)
_ELEMENTWISE = (aten.add.Tensor, aten.mul.Tensor, aten.sigmoid.default, aten.hardsigmoid.default)
_NORM = aten._native_batch_norm_legit_no_training.default


def lift_sequences(module: fx.GraphModule) -> None:
    """Every conv1d over a batch becomes a conv2d of height 1, and what lies between two of them
    works on the same images, so that the other passes see one chain.

    The new dimension is the third, of one row. Runs before convolutions have their form.
    """
    rows: dict[fx.Node, fx.Node] = {}  # of each sequence that an image stands for
    for node in list(module.graph.nodes):
        if _is_row(node):  # as our functions leave it
            rows[node] = node.args[0]
        elif makes_image(node) and node.args[0] in rows:
            node.replace_all_uses_with(rows[node.args[0]])
        elif node.target in _CONVS and _is_sequence(node):
            _note(rows, _convolution(module, rows, node))
        elif _pads_for_conv(node):
            _note(rows, _on_images(node, {node.args[0]: _image(rows, node.args[0])}))
        elif node.target is _NORM and node.args[0] in rows:
            node.args = (rows[node.args[0]], *node.args[1:])
            for output in list(node.users):
                if output.target is operator.getitem and output.args[1] == 0:
                    _note(rows, _on_images(output, {}))
        elif _is_elementwise(node, rows):
            _note(rows, _on_images(node, rows))
    module.graph.eliminate_dead_code()


def _is_sequence(node: object) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.dim() == 3


def _is_row(node: fx.Node) -> bool:
    """Whether node drops the height of images of one row."""
    drops = node.target is aten.squeeze.dim and node.args[1] in (2, -2)
    return drops and _is_sequence(node)


def makes_image(node: fx.Node) -> bool:
    """Whether node makes images of one row of sequences."""
    raises = node.target is aten.unsqueeze.default and node.args[1] in (2, -2)
    return raises and _is_sequence(node.args[0])


def _pads_for_conv(node: fx.Node) -> bool:
    if node.target not in _PADS or not _is_sequence(node):
        return False
    widths: Any = node.args[1]
    read_as_image = (user.target in _CONVS or makes_image(user) for user in node.users)
    return len(widths) == 2 and any(read_as_image)


def _is_elementwise(node: fx.Node, rows: dict[fx.Node, fx.Node]) -> bool:
    known = activation_of(node) is not None or node.target in _ELEMENTWISE
    read = node.all_input_nodes
    if not known or not read or any(source not in rows for source in read):
        return False
    return all(source.meta["val"].shape == node.meta["val"].shape for source in read)


def _on_images(node: fx.Node, rows: dict[fx.Node, fx.Node]) -> fx.Node:
    """node itself, reading images instead of sequences."""
    node.args = fx.map_arg(node.args, lambda source: rows.get(source, source))
    node.meta = {**node.meta, "val": node.meta["val"].unsqueeze(2)}
    return node


def _note(rows: dict[fx.Node, fx.Node], image: fx.Node) -> None:
    """Has all who read the image, as the sequence it was, read that again."""
    with image.graph.inserting_after(image):
        sequence = image.graph.call_function(aten.squeeze.dim, (image, 2))
    sequence.meta = {**image.meta, "val": image.meta["val"].squeeze(2)}
    image.replace_all_uses_with(sequence, delete_user_cb=lambda user: user is not sequence)
    rows[sequence] = image


def _image(rows: dict[fx.Node, fx.Node], sequence: Any) -> fx.Node:
    if sequence not in rows:
        with sequence.graph.inserting_after(sequence):
            image = sequence.graph.call_function(aten.unsqueeze.default, (sequence, 2))
        image.meta = {**sequence.meta, "val": sequence.meta["val"].unsqueeze(2)}
        rows[sequence] = image
    return rows[sequence]


def _convolution(module: fx.GraphModule, rows: dict[fx.Node, fx.Node], node: fx.Node) -> fx.Node:
    given = arguments_of(node)
    read = given["weight"]
    weight = constant(module, read)
    with module.graph.inserting_before(node):
        if weight is None:
            image = module.graph.call_function(aten.unsqueeze.default, (read, 2))
            image.meta = {**read.meta, "val": read.meta["val"].unsqueeze(2)}
        else:
            image = read_buffer(module, node, str(read.target), weight.unsqueeze(2))
            image.meta["name"] = read.meta.get("name", "")
    padding = given["padding"]
    padding = padding if isinstance(padding, str) else [0, *padding]
    window = ([1, *given["stride"]], padding, [1, *given["dilation"]])
    arguments = (_image(rows, given["input"]), image, given["bias"], *window, given["groups"])
    target = aten.conv2d.padding if isinstance(padding, str) else aten.conv2d.default
    with module.graph.inserting_before(node):
        new = module.graph.call_function(target, arguments)
    new.meta = {**node.meta, "layer": layer_of(node), "val": node.meta["val"].unsqueeze(2)}
    node.replace_all_uses_with(new)
    return new
