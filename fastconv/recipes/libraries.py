"""The packages that only the recipes need, imported when used."""

import importlib
from typing import Any

INSTALL = "pip install 'fastconv[recipes]'"


def library(module: str) -> Any:
    """An imported module; ModuleNotFoundError, with the pip command, where that fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ModuleNotFoundError(
            f"the recipes need the package {package} ({error}): {INSTALL}", name=package
        ) from error
