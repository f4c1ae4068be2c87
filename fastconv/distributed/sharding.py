"""How our ops may be split over processes: the sharding rules of DTensor.

A rule names what each tensor of an op is split along, then what its results are: a digit is a
dimension, r the whole tensor on every process, p parts that add up to it. Anything may be whole.
Where the tensors come split in the way of a rule nothing is communicated: images over any op but
batch_norm in training, whose statistics are of all images, and the channels of a chain of
expansion (r 0 0 1 -> 1), depthwise (1 0 0 -> 1) and projection (1 1 p p -> p).
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._op_schema import RuntimeSchemaInfo
from torch.distributed.tensor.experimental import register_sharding

from fastconv.ops._op import OPS

RULES: dict[str, tuple[str, ...]] = {
    "activation_backward": ("0 0 -> 0", "1 1 -> 1"),
    "activation_backward_from_mask": ("r r -> r",),  # a mask has bits of all elements in a row
    "batch_norm": ("0 r r r r -> 0 r r", "1 0 0 0 0 -> 1 0 0"),
    "batch_norm_backward": ("0 0 r r r r -> 0 p p", "1 1 0 0 0 0 -> 1 0 0"),
    "dense_conv2d": ("0 r r 0 -> 0",),
    "depthwise_conv2d": ("0 r r -> 0", "1 0 0 -> 1"),
    "depthwise_conv2d_backward": ("0 0 r -> 0 p p", "1 1 0 -> 1 0 0"),
    "depthwise_conv2d_backward_input": ("0 0 r -> 0", "1 1 0 -> 1"),
    "depthwise_conv2d_backward_weight": ("0 0 r -> p p", "1 1 0 -> 0 0"),
    "global_avg_pool2d": ("0 -> 0", "1 -> 1"),
    "global_avg_pool2d_backward": ("0 0 -> 0", "1 1 -> 1"),
    "inverted_residual": ("0 r r r r r r r r r r -> 0",),
    "local_response_norm": ("0 -> 0", "2 -> 2"),
    "local_response_norm_backward": ("0 0 -> 0", "2 2 -> 2"),
    "max_pool2d": ("0 -> 0", "1 -> 1"),
    "pointwise_batch_norm_backward": ("r r r r r r r r -> r r r r",),
    "pointwise_conv2d": ("0 r r 0 -> 0", "r 0 0 1 -> 1", "1 1 p p -> p"),
    "pointwise_conv2d_backward": ("0 0 r -> 0 p p", "1 r 0 -> p 0 0", "r 1 1 -> 1 1 r"),
    "residual_add": ("0 0 -> 0", "1 1 -> 1"),
    "residual_add_with_mask": ("r r -> r r",),
    "separable_conv2d": ("0 r r r r 0 r r r r -> 0",),
    "stem_conv2d": ("0 r r -> 0", "r 0 0 -> 1"),
}


def _aligned(values: dict[str, Any]) -> bool:
    """Whether the filters of a process are those of its channels."""
    channels, filters = values["input"].shape[1], values["weight"].shape[0]
    return channels == filters or channels % values["input"].mesh.size() == 0


def _is_plain(weight: Any) -> bool:
    """Whether its first dimensions are those of the channels: not where it is in panels."""
    return len(weight.shape) == 4


# What a rule asks of the arguments beside the shapes.
CONDITIONS: dict[tuple[str, str], Callable[[dict[str, Any]], bool]] = {
    ("batch_norm", "0 r r r r -> 0 r r"): lambda values: values["mean"] is not None,
    ("batch_norm_backward", "0 0 r r r r -> 0 p p"): lambda values: not values["training"],
    ("depthwise_conv2d", "1 0 0 -> 1"): _aligned,
    ("depthwise_conv2d_backward", "1 1 0 -> 1 0 0"): _aligned,
    ("depthwise_conv2d_backward_input", "1 1 0 -> 1"): _aligned,
    ("depthwise_conv2d_backward_weight", "1 1 0 -> 0 0"): _aligned,
    ("pointwise_conv2d", "r 0 0 1 -> 1"): lambda values: _is_plain(values["weight"]),
    ("pointwise_conv2d", "1 1 p p -> p"): lambda values: (
        values.get("activation") is None and _is_plain(values["weight"])
    ),
    ("residual_add", "1 1 -> 1"): lambda values: values["input"].shape == values["residual"].shape,
}


def register() -> None:
    """Gives DTensor the rules."""
    for name in RULES:
        op = OPS[name]
        register_sharding(op.raw)(_shardings_of(name))
        # Strides and padding decide the shape of the result: calls that differ in them, which come
        # right behind the tensors, must not share what DTensor remembers of a call.
        propagator = DTensor._op_dispatcher.sharding_propagator
        propagator.op_to_schema_info[op.raw] = RuntimeSchemaInfo(op.tensors, needs_pytree=True)


def _shardings_of(name: str) -> Callable[..., list[tuple[list, list]]]:
    names = [argument.name for argument in OPS[name].raw._schema.arguments]

    def shardings(*arguments: Any) -> list[tuple[list, list]]:
        values = dict(zip(names, arguments, strict=False))
        whole = RULES[name][0]
        rules = [rule for rule in RULES[name] if CONDITIONS.get((name, rule), _always)(values)]
        return [_placements("r", whole, arguments), *(_placements("", r, arguments) for r in rules)]

    return shardings


def _always(values: dict[str, Any]) -> bool:
    return True


def _placements(all_are: str, rule: str, arguments: Sequence[Any]) -> tuple[list, list]:
    """The placements of results and arguments; None for an argument that is no tensor."""
    of_tensors, of_results = rule.split(" -> ")
    inputs: list[Any] = [None] * len(arguments)
    for i, word in enumerate(of_tensors.split()):
        if arguments[i] is not None:
            inputs[i] = _placement(all_are or word)
    return [_placement(all_are or word) for word in of_results.split()], inputs


def _placement(word: str) -> Any:
    return {"r": Replicate(), "p": Partial()}.get(word) or Shard(int(word))
