"""local_response_norm over windows of any size, a number a thread and a read a channel of it."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastconv.triton_kernels._kernel import cdiv, wrap_triton
from fastconv.triton_kernels._language import load, store

BLOCK = 512  # 4 numbers a thread: as many reads of 4 or 8 bytes on their way


@dataclass(frozen=True)
class Window:
    """The arguments of local_response_norm and what its kernels make of them."""

    size: int
    alpha: float
    beta: float
    k: float

    @property
    def numbers(self) -> tuple[float, float, float]:
        return self.alpha / self.size, self.beta, self.k

    @property
    def power(self) -> str:
        """The way to s^-beta: by few operations for the usual betas."""
        return {0.0: "0", 0.5: "1/2", 0.75: "3/4", 1.0: "1"}.get(self.beta, "any")


@triton.jit
def powers(s, beta, POWER: tl.constexpr):
    """s^-beta and s^(-beta - 1)."""
    if POWER == "0":
        return tl.zeros_like(s) + 1.0, 1.0 / s
    elif POWER == "1/2":
        root = tl.rsqrt(s)
        return root, root * root * root
    elif POWER == "3/4":
        root = tl.rsqrt(s)
        power = root * tl.sqrt(root)
        return power, power * root * root
    elif POWER == "1":
        inverse = 1.0 / s
        return inverse, inverse * inverse
    else:
        power = tl.exp2(-beta * tl.log2(s))
        return power, power / s


@triton.jit(do_not_specialize=("elements", "before", "size"))
def any_size_kernel(
    grad_output,
    input,
    output,
    direct,
    terms,
    elements,
    channels,
    stride,
    before,
    size,
    scale,
    beta,
    k,
    STEP: tl.constexpr,
    POWER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """STEP 'forward': y. 'terms': grad_output's direct part and its part through s, of each
    channel. 'gather': dx of both, the latter summed over the channels whose windows hold this one.
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = index < elements
    channel = (index // stride % channels).to(tl.int32)
    summed = terms if STEP == "gather" else input
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(size):
        at = channel + (i - before)
        number = load(
            summed + index + (at - channel).to(tl.int64) * stride,
            exists & (at >= 0) & (at < channels),
        )
        total += number if STEP == "gather" else number * number
    x = load(input + index, exists)
    if STEP == "gather":
        through = 2.0 * beta * scale * x * total
        store(output + index, load(direct + index, exists) - through, exists)
    else:
        s = k + scale * total
        power, steeper = powers(s, beta, POWER)
        if STEP == "forward":
            store(output + index, x * power, exists)
        else:
            grad = load(grad_output + index, exists)
            store(direct + index, grad * power, exists)
            store(terms + index, grad * x * steeper, exists)


def normalize_any(
    grad_output: Tensor | None, input: Tensor, output: Tensor, window: Window, stride: int
) -> None:
    """Fills output, of tensors of one layout whose channels are stride apart."""
    channels = input.shape[1]
    direct, terms = None, None
    if grad_output is not None:
        # In float32, laid out as input.
        direct, terms = (torch.empty_like(input, dtype=torch.float32) for _ in range(2))
    before = min(window.size // 2, channels - 1)
    after = min((window.size - 1) // 2, channels - 1)
    steps = ("forward",) if grad_output is None else ("terms", "gather")
    for step in steps:
        wrap_triton(any_size_kernel, input.device)[cdiv(input.numel(), BLOCK),](
            grad_output,
            input,
            output,
            direct,
            terms,
            input.numel(),
            channels,
            stride,
            after if step == "gather" else before,
            before + after + 1,
            *window.numbers,
            STEP=step,
            POWER=window.power,
            BLOCK=BLOCK,
            num_warps=4,
        )
