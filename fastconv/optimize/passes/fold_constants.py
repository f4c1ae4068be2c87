"""What a model computes from its weights alone."""

import torch
from torch import fx

from fastconv.optimize.capture import read_buffer


def fold_constants(module: fx.GraphModule) -> None:
    """Computes once what depends on constants only: weight norm, spectral norm, weights that are
    standardised, masked by pruning, or scaled.

    A random number is not one, nor is what makes more values than it reads, as a table of positions
    of every pixel does.
    """
    values: dict[fx.Node, torch.Tensor] = {}
    with torch.no_grad():
        for node in list(module.graph.nodes):
            if node.op == "get_attr":
                value = getattr(module, str(node.target))
                if isinstance(value, torch.Tensor):
                    values[node] = value
            elif _is_constant(node, values):
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                value = node.target(*args, **kwargs)
                most = sum(values[source].numel() for source in node.all_input_nodes)
                if isinstance(value, torch.Tensor) and value.numel() <= most:
                    values[node] = value
    for node in list(module.graph.nodes):
        used = node.op != "get_attr" and any(user not in values for user in node.users)
        if node in values and used:
            name = "_".join(str(source.target) for source in node.all_input_nodes[:1])
            read = read_buffer(module, node, name, values[node])
            node.replace_all_uses_with(read)
    module.graph.eliminate_dead_code()


def _is_constant(node: fx.Node, values: dict[fx.Node, torch.Tensor]) -> bool:
    sources = node.all_input_nodes
    return (
        node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and bool(sources)
        and all(source in values for source in sources)
        and torch.Tag.nondeterministic_seeded not in node.target.tags
    )
