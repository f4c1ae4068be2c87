"""From a model to a functional graph of torch-level ops, by torch.export."""

import contextlib
import io
import warnings
from typing import Any, NamedTuple

import torch
import torch.fx.experimental._config as shapes_config
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.overrides import TorchFunctionMode

from fastconv import reference
from fastconv.ops import local_response_norm
from fastconv.optimize.inputs import Inputs
from fastconv.optimize.same_way import same_way


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
    inputs: Inputs


def capture(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], any_size: bool = False
) -> Captured:
    """The functional graph of model for inputs like the examples, its weights as buffers.

    The batch (dimension 0 of the first tensor, and of those as long) is left open where the model
    allows that, with any_size the height and width too. Raises what torch.export raises for a model
    that it cannot capture.
    """
    # export prints the graph it had when it fails; its error is enough.
    silent = contextlib.redirect_stderr(io.StringIO())
    with torch.no_grad(), _OurFunctions(), silent, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # export's own, about its own types
        opened = _export_open(model, args, kwargs, any_size) if any_size else None
        opened = opened or _export_open(model, args, kwargs, any_size=False)
        if opened is None:
            program = torch.export.export(model, args, kwargs)
            inputs = Inputs(model, args, kwargs, _sizes(program), program._guards_code)
        else:
            program, inputs = opened
        program = program.run_decompositions(_TORCHS)  # functional: no op writes to its inputs
    assert program.call_spec.out_spec is not None
    return Captured(_with_weights(program), program.call_spec.out_spec, inputs)


def _export_open(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], any_size: bool
) -> tuple[ExportedProgram, Inputs] | None:
    """The program with open sizes; None where the model ties them to those of the examples."""
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    batches = [leaf.shape[0] for leaf in leaves if leaf.dim()]
    if not batches:
        return None

    def of_images(value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batches[0]

    def two_images(value: Any) -> Any:
        # At least two, because export takes a size of one for a constant.
        return torch.cat([value, value]) if of_images(value) and batches[0] == 1 else value

    examples = pytree.tree_map(two_images, (args, kwargs))
    open_sizes: Any = torch.export.ShapesCollection()
    pairs = zip(pytree.tree_leaves((args, kwargs)), pytree.tree_leaves(examples), strict=True)
    for given, example in pairs:
        if of_images(given):
            others = [d for d in range(2, given.dim()) if any_size and given.shape[d] > 1]
            open_sizes[example] = dict.fromkeys([0, *others], torch.export.Dim.AUTO)
    try:
        # Oblivious to 0 and 1, so that the guards are the model's own alone.
        with shapes_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = torch.export.export(model, *examples, dynamic_shapes=open_sizes)
        inputs = Inputs(model, args, kwargs, _sizes(program), program._guards_code)
        one = pytree.tree_map(lambda v: v[:1] if of_images(v) else v, (args, kwargs))
        broken = inputs.guards_broken_by(*one)
        if broken and same_way(program, torch.export.export(model, *one), pytree.tree_leaves(one)):
            inputs = inputs.without(broken)
        inputs.check(args, kwargs)
    except Exception:  # whatever stops it, the examples' own sizes are tried next
        return None
    return program, inputs


def _sizes(program: ExportedProgram) -> list[tuple[int | None, ...] | None]:
    """The shape of each leaf of the inputs, None in it for an open size; None for no tensor."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    specs = program.graph_signature.input_specs
    given = [spec.arg for spec in specs if spec.kind == InputKind.USER_INPUT]
    tensors = (values[arg.name] if isinstance(arg, TensorArgument) else None for arg in given)
    return [None if t is None else _size(t) for t in tensors]


def _size(tensor: Tensor) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in tensor.shape)


def _with_weights(program: ExportedProgram) -> fx.GraphModule:
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
        read.meta["name"] = name
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
