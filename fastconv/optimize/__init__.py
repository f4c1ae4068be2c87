"""Whole models: swap layers in place for training, optimize a captured graph for inference."""

from fastconv.optimize.module import OptimizedModule
from fastconv.optimize.optimize import optimize
from fastconv.optimize.swap import restore_, swap_

__all__ = ["OptimizedModule", "optimize", "restore_", "swap_"]
