"""How long work tells its caller how far it is."""

from collections.abc import Callable

Progress = Callable[[str, float], None]  # what is being done; share of the whole done, 0 to 1


def silent(what: str, share: float) -> None:
    """For callers that do not want to know."""


def part(progress: Progress, start: float, stop: float) -> Progress:
    """The progress of a piece of work that fills `start` to `stop` of the whole."""
    return lambda what, share: progress(what, start + (stop - start) * share)
