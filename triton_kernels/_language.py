"""Device functions that the kernels share. Arithmetic is in float32 whatever a tensor holds."""

import triton
import triton.language as tl


@triton.jit
def load(pointer, mask):
    """The numbers at pointer in float32, zero where mask is false; mask None reads all."""
    if mask is None:
        return tl.load(pointer).to(tl.float32)
    else:
        return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store(pointer, numbers, mask):
    """Float32 numbers rounded to what pointer holds."""
    tl.store(pointer, numbers.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def maximum(a, b):
    """The larger of two, NaN where either is: one instruction from sm_80 on."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    """The smaller of two, NaN where either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """The activation of z."""
    if ACTIVATION == "relu":
        z = maximum(z, 0.0)
    elif ACTIVATION == "relu6":
        z = minimum(maximum(z, 0.0), 6.0)
    elif ACTIVATION == "silu":
        z = z / (1.0 + tl.exp(-z))
    elif ACTIVATION == "hardswish":
        z = z * minimum(maximum(z + 3.0, 0.0), 6.0) * (1.0 / 6.0)
    return z


@triton.jit
def passes(z, ACTIVATION: tl.constexpr):
    """Where relu or relu6 lets a gradient pass, at a NaN too; z may be the output as well."""
    stops = z <= 0.0
    if ACTIVATION == "relu6":
        stops = stops | (z >= 6.0)
    return stops == 0


@triton.jit
def activate_backward(grad, z, ACTIVATION: tl.constexpr):
    """grad times the derivative of the activation at z."""
    if ACTIVATION == "relu" or ACTIVATION == "relu6":
        grad = tl.where(passes(z, ACTIVATION), grad, 0.0)
    elif ACTIVATION == "silu":
        gate = 1.0 / (1.0 + tl.exp(-z))
        grad = grad * gate * (1.0 + z * (1.0 - gate))
    elif ACTIVATION == "hardswish":
        inside = grad * (2.0 * z + 3.0) * (1.0 / 6.0)
        grad = tl.where(z < 3.0, tl.where(z <= -3.0, 0.0, inside), grad)
    return grad


@triton.jit
def multiply_add(a, b, sums, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """sums + a @ b. WIDEN is for the interpreter, which multiplies bfloat16 numbers wrongly."""
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision=PRECISION)


@triton.jit
def apart(tile, GROUP: tl.constexpr):
    """The GROUP tiles, (rows, n), that the last dimension of a tile, (rows, n, GROUP), holds."""
    if GROUP == 1:
        return (tl.reshape(tile, [tile.shape[0], tile.shape[1]]),)
    else:
        pairs = tl.reshape(tile, [tile.shape[0], tile.shape[1], GROUP // 2, 2])
        even, odd = tl.split(pairs)
        evens, odds = apart(even, GROUP // 2), apart(odd, GROUP // 2)
        tiles = ()
        for i in tl.static_range(GROUP // 2):
            tiles = tiles + (evens[i], odds[i])
        return tiles


@triton.jit
def together(tiles, GROUP: tl.constexpr):
    """The inverse of apart."""
    if GROUP == 1:
        return tl.reshape(tiles[0], [tiles[0].shape[0], tiles[0].shape[1], 1])
    else:
        evens = ()
        odds = ()
        for i in tl.static_range(GROUP // 2):
            evens = evens + (tiles[2 * i],)
            odds = odds + (tiles[2 * i + 1],)
        pairs = tl.join(together(evens, GROUP // 2), together(odds, GROUP // 2))
        return tl.reshape(pairs, [pairs.shape[0], pairs.shape[1], GROUP])
