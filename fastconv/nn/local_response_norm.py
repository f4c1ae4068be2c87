"""Local response normalisation as a layer."""

from torch import Tensor, nn

from fastconv import ops
from fastconv.ops.local_response_norm import arguments_from_paper, arguments_from_tensorflow


class LocalResponseNorm(nn.LocalResponseNorm):
    """torch.nn.LocalResponseNorm; see :func:`fastconv.ops.local_response_norm`.

    PyTorch and Caffe divide alpha by the size of the window; the AlexNet paper and TensorFlow do
    not. The constructor is PyTorch's; :meth:`from_paper` and :meth:`from_tensorflow` take the
    others' arguments.
    """

    @classmethod
    def from_paper(
        cls, n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
    ) -> "LocalResponseNorm":
        """By the constants of Krizhevsky et al. 2012; AlexNet's where none are given."""
        return cls(**arguments_from_paper(n, alpha, beta, k))

    @classmethod
    def from_tensorflow(
        cls, depth_radius: int = 5, bias: float = 1.0, alpha: float = 1.0, beta: float = 0.5
    ) -> "LocalResponseNorm":
        """By the arguments of tf.nn.local_response_normalization."""
        return cls(**arguments_from_tensorflow(depth_radius, bias, alpha, beta))

    def forward(self, input: Tensor) -> Tensor:
        return ops.local_response_norm(input, self.size, self.alpha, self.beta, self.k)
