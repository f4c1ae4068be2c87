"""From a model to a functional graph of torch-level ops, by torch.export."""

import warnings
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from fastconv import reference
from fastconv.ops import local_response_norm


class _OurFunctions(TorchFunctionMode):
    """Keeps local_response_norm one op; torch's own would be captured as eight."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.nn.functional.local_response_norm:
            function = local_response_norm
        return function(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    activation: str | None = None,
) -> Any:
    if mean is None or var is None:
        return NotImplemented  # of the batch's own statistics: nothing to fold
    of_torch = torch.ops.aten._native_batch_norm_legit_no_training.default
    z, _, _ = of_torch(input, weight, bias, mean, var, 0.0, eps)
    return reference.activate(z, activation), mean.new_empty(0), mean.new_empty(0)


# Ours in torch's own ops, which the passes know.
_TORCHS = {torch.ops.fastconv.batch_norm.default: _batch_norm}


class Captured(NamedTuple):
    """A model as a graph from the leaves of its inputs to a tuple of the leaves of its output."""

    graph: fx.GraphModule
    output_tree: pytree.TreeSpec
    any_batch: bool


def _is_batch(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _two_images(value: Any) -> Any:
    """A batch of at least two, because export takes a batch of one for a constant."""
    alone = _is_batch(value) and value.shape[0] == 1
    return value.expand(2, *value.shape[1:]) if alone else value


def capture(model: nn.Module, example_inputs: tuple[Any, ...]) -> Captured:
    """The functional graph of model for inputs like the examples, its weights as buffers.

    The batch (dimension 0 of every input tensor) is left open where the model allows that. Raises
    what torch.export raises for a model that it cannot capture.
    """
    with torch.no_grad(), _OurFunctions(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # export's own, about its own types
        program = _export_any_batch(model, example_inputs)
        any_batch = program is not None
        if program is None:
            program = torch.export.export(model, example_inputs)
        program = program.run_decompositions(_TORCHS)  # functional: no op writes to its inputs
    assert program.call_spec.out_spec is not None
    return Captured(_with_weights(program), program.call_spec.out_spec, any_batch)


def _export_any_batch(
    model: nn.Module, example_inputs: tuple[Any, ...]
) -> torch.export.ExportedProgram | None:
    """The program with an open batch; None where inputs or model tie it to one number."""
    leaves = pytree.tree_leaves(example_inputs)
    if len({leaf.shape[0] for leaf in leaves if _is_batch(leaf)}) != 1:
        return None
    examples = pytree.tree_map(_two_images, example_inputs)
    open_batch = pytree.tree_map(
        lambda value: {0: torch.export.Dim.AUTO} if _is_batch(value) else None, example_inputs
    )
    try:
        program = torch.export.export(model, examples, dynamic_shapes=open_batch)
    except Exception:  # whatever stops it, the example's own batch is tried next
        return None
    batches = (
        node.meta["val"].shape[0]
        for node in program.graph.nodes
        if node.name in program.graph_signature.user_inputs and _is_batch(node.meta.get("val"))
    )
    return program if all(isinstance(batch, torch.SymInt) for batch in batches) else None


def _with_weights(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program's graph with its lifted parameters, buffers and constants as attributes again."""
    signature = program.graph_signature
    sources = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    if signature.buffers_to_mutate:
        raise NotImplementedError(
            f"the model writes to its buffers {sorted(signature.buffers_to_mutate.values())}"
        )
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph_module.graph, {}))
    module = fx.GraphModule(nn.Module(), graph)
    for node in list(module.graph.nodes):
        if node.op != "placeholder" or node.name not in sources:
            continue
        name = sources[node.name]
        state = program.state_dict if name in program.state_dict else program.constants
        read = read_buffer(module, node, name, state[name].detach().clone())
        node.replace_all_uses_with(read)
        module.graph.erase_node(node)
    return module


def read_buffer(module: fx.GraphModule, before: fx.Node, name: str, value: Tensor) -> fx.Node:
    """A node, placed before another, that reads value from a new buffer named after name."""
    name = name.replace(".", "_")
    while hasattr(module, name):
        name += "_"
    module.register_buffer(name, value)
    with module.graph.inserting_before(before):
        read = module.graph.get_attr(name)
    read.meta = {"val": value}
    return read


def constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor a node reads from the module, None where it computes or is None itself."""
    if isinstance(node, fx.Node) and node.op == "get_attr":
        return getattr(module, str(node.target))
    return None
