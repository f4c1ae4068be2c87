"""The command `fastconv`: reads arguments, calls the work, shows what it returns."""

# Each adds its commands.
from fastconv.cli import (  # noqa: F401
    doctor,
    explain,
    networks,
    optimize,
    profile,
    race,
    recipes,
    scaling,
    tune,
)
from fastconv.cli.common import app

__all__ = ["app"]
