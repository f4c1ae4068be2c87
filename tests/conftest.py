"""Every test draws the same numbers at every run; the head says which build is tested."""

import pytest
import torch

import fastconv


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def pytest_report_header() -> str:
    return f"fastconv {fastconv._C.__file__}, {fastconv._C.isa()}, torch {torch.__version__}"
