"""Which kernels a call ran: ours by our counters, oneDNN's, which serve torch, by its log."""

from collections import Counter
from collections.abc import Callable

from fastconv import _C

from . import onednn


def implementations(call: Callable[[], object]) -> Counter[str]:
    """How often the call ran each, as 'convolution jit_dw:avx512_core'."""
    before = _counts()
    found = onednn.implementations(call)
    return found + (_counts() - before)


def _counts() -> Counter[str]:
    isa = _C.isa()
    return Counter({f"{op} {variant}:{isa}": count for op, variant, _, count in _C.variants()})
