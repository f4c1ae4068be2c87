"""Comparisons of the kernels with torch's, by pytest-benchmark: `make bench`, or `pytest bench`."""
