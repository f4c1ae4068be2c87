"""Kernels on a GPU against cuDNN and the others: python -m bench.gpu --out FOLDER.

Needs torch and this checkout only. Every variant of a case checks its result, then all are timed
in turn by replays of a CUDA graph over inputs that together exceed the L2 cache three times.
`--dry` rehearses all of it on the CPU, small shapes and one round, and measures nothing.
"""
