"""Which build of fastconv the tests run against, said at their head."""

import torch

import fastconv


def pytest_report_header() -> str:
    return f"fastconv {fastconv._C.__file__}, {fastconv._C.isa()}, torch {torch.__version__}"
