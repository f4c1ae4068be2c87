"""The figures that a cost report holds."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Figures:
    """What is counted, of a layer or of a network.

    Attributes:
        parameters, trainable_parameters: numbers; trainable are those that require a gradient.
        parameter_bytes: their memory, 32 N / 8 for N float32 parameters.
        multiplications: of convolutions and matrix products, those with padding zeros included.
        activation_bytes: memory that the operations take for what they compute; a view or an
            operation in place takes none.
        moved_bytes: what the operations read and write, each of its tensors once an operation.
    """

    parameters: int = 0
    trainable_parameters: int = 0
    parameter_bytes: int = 0
    multiplications: int = 0
    activation_bytes: int = 0
    moved_bytes: int = 0

    @property
    def arithmetic_intensity(self) -> float:
        """FLOP for each moved byte; a multiplication and its addition are two."""
        return 2 * self.multiplications / self.moved_bytes if self.moved_bytes else 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"arithmetic_intensity": self.arithmetic_intensity}


@dataclass(kw_only=True)
class LayerCost(Figures):
    """The figures of one module's own work, without that of its children.

    Attributes:
        name, type: its qualified name in the model, "" for the model itself, and its class.
        calls: how often it ran.
        output_shape: of its last call; empty where that was no tensor, or there was no call.
    """

    name: str
    type: str
    calls: int = 0
    output_shape: tuple[int, ...] = ()


@dataclass(kw_only=True)
class Cost(Figures):
    """The figures of one inference: sums over the layers, and what only the whole has.

    Attributes:
        model, input_shape: the class of what was run, and on what.
        peak_activation_bytes: the most that input and activations take at one time.
        operations: multiplications by operation, as in {"aten.convolution": 2160}.
        layers: in the order they run, then those with parameters that do not run.
    """

    model: str
    input_shape: tuple[Any, ...]
    peak_activation_bytes: int
    operations: dict[str, int] = field(default_factory=dict)
    layers: list[LayerCost] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"layers": [layer.to_dict() for layer in self.layers]}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def to_markdown(self) -> str:
        from fastconv.tables import as_markdown, layer_costs

        return as_markdown(layer_costs(self))

    def __str__(self) -> str:
        from fastconv.tables import as_text, layer_costs

        return as_text(layer_costs(self))
