"""Which calls of torch's modules a step of the optimized network stands for.

A node of the optimized graph knows the module whose work it ends with, as torch.export noted it,
and the modules whose weights it reads. Those calls are its own. A call in between that left no
trace (a batch norm that was folded, an activation that was fused) belongs to the step before it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from torch import fx, nn

from fastconv.optimize.module import OptimizedModule


class Step(NamedTuple):
    key: str  # of its marks
    modules: tuple[str, ...]  # calls of torch's modules that are known to be its own
    name: str  # for people


def steps_of(network: nn.Module, model: nn.Module, owners: Sequence[str]) -> list[Step]:
    """The steps of a network made from model, in their order; owners are those of its marks."""
    if not isinstance(network, OptimizedModule):  # the same modules, some of them swapped
        return [Step(owner, (owner,), owner or "itself") for owner in dict.fromkeys(owners)]
    weights = {
        f"{path}.{name}".lstrip(".").replace(".", "_"): path
        for path, module in model.named_modules()
        for name, _ in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        )
    }
    nodes = [node for node in network.graph.graph.nodes if node.op.startswith("call")]
    return [_step(node, weights) for node in nodes]


def _step(node: fx.Node, weights: dict[str, str]) -> Step:
    reads = (str(source.target) for source in node.all_input_nodes if source.op == "get_attr")
    owners = [owner for read in reads if (owner := _owner(read, weights)) is not None]
    owners = list(dict.fromkeys(owners))
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    last = [stack[-1][0]] if stack else []
    return Step(node.name, tuple({*owners, *last}), _common(owners or last) or node.name)


def _owner(read: str, weights: dict[str, str]) -> str | None:
    """The module of the weight from which a buffer has its name."""
    known = (name for name in weights if read.startswith(name))
    longest = max(known, key=len, default=None)
    return None if longest is None else weights[longest]


def _common(paths: Iterable[str]) -> str:
    """The path that all share."""
    columns = zip(*(path.split(".") for path in paths), strict=False)
    same = takewhile(lambda names: len(set(names)) == 1, columns)
    return ".".join(names[0] for names in same)


def assign(owners: Sequence[str], steps: Sequence[Step]) -> list[int | None]:
    """For each stretch of torch's run the index of its step; None before the first step.

    A module with children has many stretches, and only those where its own step is at hand are
    that step's; the others are what lies between two of its children.
    """
    own: dict[str, list[int]] = defaultdict(list)
    for index, step in enumerate(steps):
        for module in step.modules:
            own[module].append(index)
    if all(step.modules == (step.key,) for step in steps):
        return [own[owner][0] if owner in own else None for owner in owners]
    parents = {"", *(owner.rpartition(".")[0] for owner in owners)}
    assigned: list[int | None] = []
    current: int | None = None
    for owner in owners:
        here = -1 if current is None else current
        ahead = [index for index in own.get(owner, []) if index >= here]
        if owner in parents:
            ahead = [index for index in ahead if index <= here + 1]
        if ahead:
            current = ahead[0]
        elif owner in own and owner not in parents:
            current = own[owner][-1]
        assigned.append(current)
    return assigned
