"""The command `fastconv`: reads arguments, calls the work, shows what it returns."""

# Each adds its commands.
from fastconv.cli import doctor, explain, networks, optimize, race, scaling, tune  # noqa: F401
from fastconv.cli.common import app

__all__ = ["app"]
