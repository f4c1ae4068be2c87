"""A process forked after the kernels ran has none of torch's threads: it goes on with one."""

import os

import torch

from fastconv import _C


def _after_in_child() -> None:
    # GNU OpenMP would wait forever for the threads of the parent, in torch's own ops as well.
    if any(times_run for *_, times_run in _C.variants()):
        torch.set_num_threads(1)


def register() -> None:
    """Has every child process of os.fork, and so of multiprocessing, work on one thread."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_in_child)
