"""The command `fastconv`: reads arguments, calls the work, shows what it returns."""

from fastconv.cli import doctor, networks, race, scaling  # noqa: F401  each adds its commands
from fastconv.cli.common import app

__all__ = ["app"]
