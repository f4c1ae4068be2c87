"""FASTCONV_AUTOTUNE: whether a first call searches for the fastest settings of its kernels."""

import os


def autotunes() -> bool:
    """'1' searches at the first call of each new bucket of shapes, '0' or nothing never does.

    Raises:
        ValueError: it is something else.
    """
    wanted = os.environ.get("FASTCONV_AUTOTUNE") or "0"
    if wanted not in ("0", "1"):
        raise ValueError(f"FASTCONV_AUTOTUNE: expected '0' or '1', got '{wanted}'")
    return wanted == "1"
