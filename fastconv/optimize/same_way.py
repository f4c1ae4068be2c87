"""Whether a model was captured the same way with open sizes as with those of the examples.

With open sizes torch asks some questions of its own: whether strides are those of channels_last
depends on whether there is more than one image. Where both captures are the same, step by step,
the answer changed nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.utils._pytree as pytree
from torch import SymBool, SymFloat, SymInt, Tensor, fx
from torch.export import ExportedProgram


def same_way(program: ExportedProgram, fixed: ExportedProgram, leaves: Sequence[Any]) -> bool:
    """Whether program, of open sizes, is fixed for inputs with the sizes of leaves."""
    steps, fixed_steps = _steps(program), _steps(fixed)
    if len(steps) != len(fixed_steps):
        return False
    sizes = _sizes(program, leaves)
    twins: dict[fx.Node, fx.Node] = {}

    def same(mine: Any, theirs: Any) -> bool:
        if isinstance(mine, fx.Node) and _is_number(mine):
            return bool(mine.meta["val"].node.expr.xreplace(sizes) == theirs)
        if isinstance(mine, fx.Node):
            return twins.get(mine) is theirs
        return type(mine) is type(theirs) and bool(mine == theirs)

    for step, twin in zip(steps, fixed_steps, strict=True):
        mine, tree = pytree.tree_flatten((step.args, step.kwargs))
        theirs, other_tree = pytree.tree_flatten((twin.args, twin.kwargs))
        named = step.op != "call_function" or step.target == twin.target
        if not named or step.op != twin.op or tree != other_tree:
            return False
        if not all(map(same, mine, theirs)):
            return False
        twins[step] = twin
    return True


def _steps(program: ExportedProgram) -> list[fx.Node]:
    """The nodes that compute tensors: neither sizes nor what is asserted of them."""
    return [
        node
        for node in program.graph.nodes
        if not _is_number(node) and (node.op != "call_function" or node.users)
    ]


def _is_number(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (SymInt, SymFloat, SymBool))


def _sizes(program: ExportedProgram, leaves: Sequence[Any]) -> Mapping[Any, int]:
    """The open sizes, as sympy knows them, at those of leaves."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    found: dict[Any, int] = {}
    for name, leaf in zip(program.graph_signature.user_inputs, leaves, strict=True):
        value = values.get(name) if isinstance(name, str) else None
        if isinstance(value, Tensor):
            for size, at in zip(value.shape, leaf.shape, strict=True):
                if isinstance(size, SymInt):
                    found[size.node.expr] = at
    return found
