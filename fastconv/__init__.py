"""Fast kernels for the cheap layers of convolutional networks, as PyTorch ops, layers and one call.

>>> import fastconv
>>> fast = fastconv.optimize(model.eval(), (images,))  # inference: a new, faster module
>>> fastconv.swap_(model)  # training: the same parameters, our kernels
"""

import os as _os

import torch as _torch  # noqa: F401  its libraries must be there before those that link to them

__version__ = "0.1.0"

try:
    from fastconv import _C
except ImportError as _error:
    _load_error = _error

    def __getattr__(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"fastconv's compiled kernels could not be loaded ({_load_error}); build them for this "
            "Python and torch with `pip install --no-build-isolation .` in fastconv's checkout"
        ) from _load_error

else:
    if _forced := _os.environ.get("FASTCONV_ISA"):
        try:
            _C.force_isa(_forced)
        except ValueError as _error:
            raise ValueError(f"FASTCONV_ISA: {_error}") from None
    from fastconv import fork, gpu, models, nn, ops
    from fastconv.cost import cost
    from fastconv.dispatch import autotunes, use_backend
    from fastconv.explain import explain
    from fastconv.memory import peak_memory, release_memory
    from fastconv.optimize import optimize, restore_, swap_

    fork.register()
    gpu.start()
    autotunes()  # a value it does not know is told now, not at the first call on a GPU
    __all__ = [
        "cost",
        "explain",
        "models",
        "nn",
        "ops",
        "optimize",
        "peak_memory",
        "release_memory",
        "restore_",
        "swap_",
        "use_backend",
    ]
