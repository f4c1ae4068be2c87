"""Writes a profile: the suffix of the file says in which form."""

import json
from collections.abc import Callable
from pathlib import Path

from fastconv.peers import install_command
from fastconv.profiling.record import Profile

Writer = Callable[[Profile], str]


def as_page(profile: Profile) -> str:
    from fastconv.profiling.reports.page import page

    return page(profile)


def as_trace(profile: Profile) -> str:
    from fastconv.profiling.reports.trace import trace

    return json.dumps(trace(profile), indent=1) + "\n"


def as_markdown(profile: Profile) -> str:
    from fastconv.tables.profile import markdown

    return markdown(profile)


def as_json(profile: Profile) -> str:
    return json.dumps(profile.to_dict(), indent=1) + "\n"


# The first that the name of a file ends with counts.
WRITERS: dict[str, Writer] = {
    ".trace.json": as_trace,
    ".json": as_json,
    ".md": as_markdown,
    ".html": as_page,
}


def writer_of(path: Path) -> Writer:
    """What writes the form that the name of the file asks for.

    Raises ValueError for an unknown suffix, ModuleNotFoundError where a package is missing.
    """
    for suffix, writer in WRITERS.items():
        if path.name.endswith(suffix):
            if writer is as_page:
                require_plotly()
            return writer
    raise ValueError(f"{path}: expected a name that ends in {', '.join(WRITERS)}")


def require_plotly() -> None:
    try:
        import plotly  # noqa: F401
    except ImportError as error:
        command = install_command(["plotly"])
        raise ModuleNotFoundError(f"the page needs plotly ({error}): {command}") from error
