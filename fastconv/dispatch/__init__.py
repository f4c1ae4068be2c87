"""Which backend serves a call, and why.

`choose` is a pure function of what is asked (`Call`), what there is to choose from (`Machine`),
what was measured on such a machine (`Measured`) and what `use_backend` forces. All else here finds
those out, for the machine at hand, and tells what was chosen.
"""

from fastconv.dispatch.autotune import autotunes
from fastconv.dispatch.call import Call
from fastconv.dispatch.choice import (
    BACKENDS,
    KERNEL_DTYPES,
    BackendError,
    Choice,
    choose,
    why_not,
)
from fastconv.dispatch.here import decide, needs_reference, refused
from fastconv.dispatch.machine import GPUS, Machine, open_ways, this_machine
from fastconv.dispatch.measured import Measured, measured_rows
from fastconv.dispatch.state import forced, use_backend
from fastconv.dispatch.told import listen, tell

__all__ = [
    "BACKENDS",
    "GPUS",
    "KERNEL_DTYPES",
    "BackendError",
    "Call",
    "Choice",
    "Machine",
    "Measured",
    "autotunes",
    "choose",
    "decide",
    "forced",
    "listen",
    "measured_rows",
    "needs_reference",
    "open_ways",
    "refused",
    "tell",
    "this_machine",
    "use_backend",
    "why_not",
]
