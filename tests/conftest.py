"""Every test draws the same numbers at every run; the head says which build is tested."""

import importlib

import pytest
import torch

import fastconv

# The tests of passes want what they made, not what is faster at their sizes; tests/test_whole.py
# wants the races.
importlib.import_module("fastconv.optimize.whole").SHORT_SECONDS = 0.0


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def pytest_report_header() -> str:
    return f"fastconv {fastconv._C.__file__}, {fastconv._C.isa()}, torch {torch.__version__}"
