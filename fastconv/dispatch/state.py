"""use_backend: a backend for all calls of a block, thread by thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

from fastconv.dispatch.choice import BACKENDS

_forced: ContextVar[str] = ContextVar("fastconv_backend", default="auto")
_lock = Lock()
_open: list[str] = []

# The name of the innermost open block of any thread, '' without one: all that a CPU call can afford
# to ask, and what a compiled function is compiled again for (it sees no variable of a context).
choosing = ""
_otherwise = ""


def forced() -> str:
    """The backend that use_backend names here and now; 'auto' outside of any."""
    return _forced.get()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Has all calls of this thread within the block run on one backend, or on none of ours.

    It acts on fastconv.ops, the layers and optimized networks; torch.ops.fastconv, below them, is
    what the dispatcher of torch has for a device.

    Args:
        name: 'cpu', 'cuda', 'nvrtc', 'triton', 'reference' (torch's own ops), or 'auto', which
            chooses by op, dtype, layout and shape as outside of any block.

    A call that the backend cannot do raises BackendError, a RuntimeError, and says why. Blocks
    nest; gradients are computed on the backend of their forward pass. A compiled function is
    compiled again.

    Raises:
        ValueError: there is no such backend.
    """

    if name not in ("auto", *BACKENDS):
        raise ValueError(f"expected a backend of {('auto', *BACKENDS)}, got {name!r}")
    token = _forced.set(name)
    _note(name, opened=True)
    try:
        yield
    finally:
        _note(name, opened=False)
        _forced.reset(token)


def _note(name: str, opened: bool) -> None:
    global choosing
    with _lock:
        if opened:
            _open.append(name)
        else:  # the innermost of that name, for an outer block may have it too
            del _open[len(_open) - 1 - _open[::-1].index(name)]
        choosing = _open[-1] if _open else _otherwise


def choose_always() -> None:
    """Has every call choose, outside of any block too: there are measurements to ask."""
    global choosing, _otherwise
    _otherwise = "auto"
    choosing = choosing or _otherwise
