"""The ops as functions, arguments named as in torch.nn.functional."""

from fastconv.ops.residual_add import residual_add

__all__ = ["residual_add"]
