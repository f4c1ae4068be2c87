"""local_response_norm and its gradient, each in one pass: y = x s^-beta, s the sum over a window.

A thread takes GROUP neighbouring channels with what their windows reach on both sides, so that each
number is read from memory once and each power is taken once or little more. The backward pass has
s from x again and so reads x and grad_output only, not y:

    dx[c] = dy[c] s[c]^-beta - 2 beta scale x[c] sum of dy[j] x[j] s[j]^(-beta - 1),

over the channels j whose windows hold c. Channels of channels_last tensors lie together: a group is
an access, its neighbours the accesses before and behind it, taken apart into one tile a channel.
Windows wider than that go number by number (local_response_norm_any.py).
"""

import math
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from fastconv.ops._check import check_like_input
from fastconv.ops.local_response_norm import fake
from fastconv.triton_kernels._kernel import (
    block_of,
    cdiv,
    check_shape,
    dense,
    is_channels_last,
    kernel,
    processors,
    wrap_triton,
)
from fastconv.triton_kernels._language import apart, load, store, together
from fastconv.triton_kernels._settings import Space
from fastconv.triton_kernels._tuned import settings_for
from fastconv.triton_kernels.local_response_norm_any import Window, normalize_any, powers


@dataclass(frozen=True)
class ChannelsLastSettings:
    """An access of 16 bytes a thread. By arithmetic, for no GPU was at hand."""

    channel_bytes: int = 128  # a line of the cache
    warps: int = 4


@dataclass(frozen=True)
class PlaneSettings:
    """Likewise."""

    pixels: int = 256
    # Of a thread: the backward pass keeps 28 numbers of each.
    pixels_of_thread: int = 2
    programs: int = 16  # a processor; one goes on to the next channels where there are more


# More channels side by side read fewer of their neighbours twice.
CHANNELS_LAST = Space(
    "local_response_norm nhwc",
    ChannelsLastSettings(),
    {"channel_bytes": (64, 256, 512), "warps": (2, 8)},
)
# The last program of a map is the emptier the more pixels it has; more programs read the channels
# at their borders twice.
PLANES = Space(
    "local_response_norm nchw",
    PlaneSettings(),
    {"pixels": (64, 128, 512), "pixels_of_thread": (1, 4), "programs": (8, 32)},
)
WIDEST = 9  # the window that reaches over one group of 8 channels, twice as the backward pass does


@triton.jit
def sum_of_squares(x, FIRST: tl.constexpr, SIZE: tl.constexpr):
    total = x[FIRST] * x[FIRST]
    for i in tl.static_range(1, SIZE):
        total = tl.fma(x[FIRST + i], x[FIRST + i], total)
    return total


@triton.jit
def normalize(
    grad, x, scale, beta, k, SIZE: tl.constexpr, POWER: tl.constexpr, GROUP: tl.constexpr
):
    """y of GROUP channels, or with grad dx: x begins SIZE // 2, or SIZE - 1, channels before them,
    grad as many before as a window reaches behind.
    """
    BEFORE: tl.constexpr = SIZE // 2
    AFTER: tl.constexpr = (SIZE - 1) // 2
    results = ()
    if grad is None:
        for i in tl.static_range(GROUP):
            s = k + scale * sum_of_squares(x, i, SIZE)
            results = results + (x[i + BEFORE] * powers(s, beta, POWER)[0],)
    else:
        direct = ()
        terms = ()
        for i in tl.static_range(GROUP + SIZE - 1):
            s = k + scale * sum_of_squares(x, i, SIZE)
            power, steeper = powers(s, beta, POWER)
            direct = direct + (grad[i] * power,)
            terms = terms + (grad[i] * x[i + BEFORE] * steeper,)
        for i in tl.static_range(GROUP):
            total = terms[i]
            for j in tl.static_range(1, SIZE):
                total += terms[i + j]
            through = 2.0 * beta * scale * x[i + SIZE - 1] * total
            results = results + (direct[i + AFTER] - through,)
    return results


@triton.jit
def group_with_neighbours(pointer, channel, channels, exists, GROUP: tl.constexpr):
    """3 GROUP tiles, a channel each: a group and those before and behind it, zero off the ends."""
    tiles = ()
    for side in tl.static_range(-1, 2):
        at = channel + side * GROUP
        read = load(pointer + side * GROUP, exists & (at >= 0) & (at < channels))
        read = tl.reshape(read, [read.shape[0], read.shape[1] // GROUP, GROUP])
        tiles = tiles + apart(read, GROUP)
    return tiles


@triton.jit(do_not_specialize=("rows",))
def channels_last_kernel(
    grad_output,
    input,
    output,
    rows,
    vectors,
    scale,
    beta,
    k,
    VECTOR: tl.constexpr,
    SIZE: tl.constexpr,
    POWER: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    channels = vectors * VECTOR
    blocks = tl.cdiv(channels, CHANNELS)
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)[:, None]
    channel = program % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    at = row * channels + channel
    exists = row < rows
    x = group_with_neighbours(input + at, channel, channels, exists, GROUP)
    grad = None
    if grad_output is not None:
        grad = group_with_neighbours(grad_output + at, channel, channels, exists, GROUP)
        grad = grad[GROUP - (SIZE - 1) // 2 :]
        x = x[GROUP - SIZE + 1 :]
    else:
        x = x[GROUP - SIZE // 2 :]
    result = together(normalize(grad, x, scale, beta, k, SIZE, POWER, GROUP), GROUP)
    result = tl.reshape(result, [PIXELS, CHANNELS])
    store(output + at, result, exists & (channel < channels))


@triton.jit
def planes(pointer, channel, channels, pixels, exists, COUNT: tl.constexpr):
    """COUNT tiles, the pixels of a channel each, from channel on; zero off the ends."""
    tiles = ()
    for i in tl.static_range(COUNT):
        at = channel + i + tl.zeros_like(exists).to(tl.int32)
        inside = exists & (at >= 0) & (at < channels)
        tiles = tiles + (load(pointer + (channel + i).to(tl.int64) * pixels, inside),)
    return tiles


@triton.jit(do_not_specialize=("channels", "steps"))
def planes_kernel(
    grad_output,
    input,
    output,
    channels,
    pixels,
    steps,
    scale,
    beta,
    k,
    SIZE: tl.constexpr,
    POWER: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    blocks = tl.cdiv(pixels, PIXELS)
    chunks = tl.cdiv(channels, GROUP * steps)
    program = tl.program_id(0)
    pixel = program % blocks * PIXELS + tl.arange(0, PIXELS)
    first = program // blocks % chunks * GROUP * steps
    image = (program // blocks // chunks).to(tl.int64) * channels * pixels
    exists = pixel < pixels
    at = image + pixel
    for step in range(steps):
        channel = first + step * GROUP
        grad = None
        if grad_output is not None:
            x = channel - (SIZE - 1)
            x = planes(input + at, x, channels, pixels, exists, GROUP + 2 * (SIZE - 1))
            grad = channel - (SIZE - 1) // 2
            grad = planes(grad_output + at, grad, channels, pixels, exists, GROUP + SIZE - 1)
        else:
            x = channel - SIZE // 2
            x = planes(input + at, x, channels, pixels, exists, GROUP + SIZE - 1)
        results = normalize(grad, x, scale, beta, k, SIZE, POWER, GROUP)
        for i in tl.static_range(GROUP):
            writes = exists & (channel + i + tl.zeros_like(exists).to(tl.int32) < channels)
            store(output + at + (channel + i).to(tl.int64) * pixels, results[i], writes)


def _normalize(grad_output: Tensor | None, input: Tensor, output: Tensor, window: Window) -> None:
    if output.numel() == 0:
        return
    pixels = math.prod(input.shape[2:])
    batch, channels = input.shape[:2]
    channels_last = is_channels_last(input)
    input = dense(input, channels_last)
    grad_output = None if grad_output is None else dense(grad_output, channels_last)
    channels_last = channels_last or pixels == 1  # the same memory, read along its rows
    if window.size > WIDEST:
        normalize_any(grad_output, input, output, window, 1 if channels_last else pixels)
        return
    sizes, kind = (batch, channels, pixels), {"size": window.size, "power": window.power}
    kind["backward"] = grad_output is not None
    if channels_last:
        settings = settings_for(CHANNELS_LAST, input, sizes, **kind)
        itemsize = input.element_size()
        group = 4 if itemsize == 4 and window.size <= 5 else 8  # an access, where that is enough
        block = max(block_of(channels, settings.channel_bytes // itemsize), group)
        rows = settings.warps * 512 // itemsize // block
        vector = math.gcd(channels, 16)
        wrap_triton(channels_last_kernel, input.device)[
            cdiv(batch * pixels, rows) * cdiv(channels, block),
        ](
            grad_output,
            input,
            output,
            batch * pixels,
            channels // vector,
            *window.numbers,
            VECTOR=vector,
            SIZE=window.size,
            POWER=window.power,
            GROUP=group,
            PIXELS=rows,
            CHANNELS=block,
            num_warps=settings.warps,
        )
    else:
        of_planes = settings_for(PLANES, input, sizes, **kind)
        group, block = 8, block_of(pixels, of_planes.pixels)
        blocks = batch * cdiv(pixels, block)
        wanted = cdiv(processors(input.device) * of_planes.programs, blocks)
        steps = cdiv(cdiv(channels, group), wanted)
        wrap_triton(planes_kernel, input.device)[blocks * cdiv(channels, group * steps),](
            grad_output,
            input,
            output,
            channels,
            pixels,
            steps,
            *window.numbers,
            SIZE=window.size,
            POWER=window.power,
            GROUP=group,
            PIXELS=block,
            num_warps=max(block // (32 * of_planes.pixels_of_thread), 1),
        )


@kernel
def local_response_norm(
    input: Tensor, size: int, alpha: float = 0.0001, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    output = fake(input, size)
    _normalize(None, input, output, Window(size, alpha, beta, k))
    return output


@kernel
def local_response_norm_backward(
    grad_output: Tensor,
    input: Tensor,
    size: int,
    alpha: float = 0.0001,
    beta: float = 0.75,
    k: float = 1.0,
) -> Tensor:
    check_like_input("local_response_norm_backward", input, grad_output=grad_output)
    check_shape("local_response_norm_backward", "grad_output", grad_output, input.shape)
    grad_input = fake(input, size)
    _normalize(grad_output, input, grad_input, Window(size, alpha, beta, k))
    return grad_input
