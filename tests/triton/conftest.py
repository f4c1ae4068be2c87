"""Tests of the Triton kernels' values, in a process that interprets them or on a GPU.

Triton fixes at import which of both it is: tests/test_triton.py runs each file here in a process
with TRITON_INTERPRET=1; on a machine with a GPU, `pytest tests/triton` runs them on it. The
interpreter of Triton 3.6 wants numpy below 2.4.
"""

import os

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_*.py"]
