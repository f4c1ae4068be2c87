"""What a network costs: parameters, multiplications and memory, of the whole and of each layer."""

from fastconv.cost.count import cost
from fastconv.cost.figures import Cost, LayerCost

__all__ = ["Cost", "LayerCost", "cost"]
