"""The ops as functions, arguments named as in torch.nn.functional."""

from fastconv.ops.local_response_norm import local_response_norm
from fastconv.ops.residual_add import residual_add

__all__ = ["local_response_norm", "residual_add"]
