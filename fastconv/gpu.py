"""The way in to the CUDA kernels, chosen when fastconv is imported.

'cuda': nvcc compiled them when fastconv was built. 'nvrtc': NVRTC compiles each at its first call,
through CuPy. Neither touches a GPU before the first call on one.
"""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastconv import _C

WAYS = ("cuda", "nvrtc")
_log = logging.getLogger("fastconv")


def start() -> None:
    """Takes the way that FASTCONV_GPU names (cuda, nvrtc or none), else the best there is."""
    wanted = os.environ.get("FASTCONV_GPU") or None
    if wanted == "none":
        return
    if wanted is not None and wanted not in WAYS:
        raise ValueError(f"FASTCONV_GPU: expected 'cuda', 'nvrtc' or 'none', got '{wanted}'")
    if wanted is None and torch.version.cuda is None:
        return
    passed: list[str] = []
    for way in (wanted,) if wanted else WAYS:
        if (reason := missing(way)) is None:
            use(way)
            if passed:
                _log.info("CUDA tensors run on %s: %s", way, "; ".join(passed))
            return
        passed.append(reason)
    if wanted:
        raise ValueError(f"FASTCONV_GPU={wanted}: {missing(wanted)}")
    _log.info("CUDA tensors run on no CUDA kernels: %s", "; ".join(passed))


def why_none() -> str:
    """Why no way is taken although one is open."""
    if os.environ.get("FASTCONV_GPU") == "none":
        return "switched off by FASTCONV_GPU=none"
    return "not used: this torch is built without CUDA"


def use(way: str) -> None:
    """CUDA tensors take the kernels by this way from now on, in the whole process."""
    if (reason := missing(way)) is not None:
        raise RuntimeError(reason)
    if way == "cuda":
        _C.gpu.use_compiled()
    else:
        _C.gpu.use_nvrtc(_load)


def missing(way: str) -> str | None:
    """What this way lacks here, with the command that brings it; None where it is open."""
    if way == "cuda":
        if _C.gpu.built_with_cuda():
            return None
        return (
            "fastconv was built without CUDA: with nvcc at hand and a torch built for CUDA, "
            "`pip install --no-build-isolation .` in fastconv's checkout"
        )
    if find_spec("cupy") is not None:
        return None
    return "CuPy is not installed: `pip install cupy-cuda13x` (cupy-cuda12x for CUDA 12)"


def plan(op: str, arguments: Sequence[Any], device: "_C.gpu.Device") -> list["_C.gpu.Launch"]:
    """The launches of a raw op on a GPU like device, by shapes, dtypes and strides; nothing runs.

    The tensors among the arguments may be on the meta device.
    """

    def stand_in(tensor: Tensor) -> Tensor:  # memory that is never touched
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)

    _C.gpu.use_recorder(device)
    try:
        getattr(torch.ops.fastconv, op).default(*tree_map_only(Tensor, stand_in, arguments))
    finally:
        _C.gpu.stop_emulator()
        launches = _C.gpu.take_recorded()
    return launches


def _load(launch: "_C.gpu.Launch", device: int) -> int:
    from fastconv import nvrtc  # CuPy takes a second to import

    return nvrtc.load(launch, device)
