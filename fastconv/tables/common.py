"""What all tables share: their look, their numbers, and the ways to write them."""

from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

# Names of files, classes and modules are what they are: rich would take [b] for a style, :cat: for
# a picture, and [/b] for a mistake.
PLAIN: Any = {"markup": False, "emoji": False}


def plain_table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def as_text(table: Table) -> str:
    """The table as a terminal shows it, without colours, as wide as it must be."""
    return _written(table)


def as_markdown(table: Table) -> str:
    """The table in Markdown, its title and caption as paragraphs around it."""
    title, caption = table.title, table.caption
    table.title = table.caption = None
    for row in table.rows:
        row.end_section = False
    table.box, table.pad_edge, table.collapse_padding = box.MARKDOWN, True, False
    return "\n\n".join(str(part) for part in (title, _written(table), caption) if part)


def _written(table: Table) -> str:
    text = StringIO()
    Console(file=text, width=1000, color_system=None, **PLAIN).print(table)
    lines = text.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def several(number: int, thing: str) -> str:
    """1 thread, 2 threads."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def count(number: float) -> str:
    """A number of things: exact while short, else three digits and k, M or G for 10^3, 6, 9."""
    return f"{number:.0f}" if number < 10_000 else _scaled(number, 1000, ("", " k", " M", " G"))


def memory(size: float) -> str:
    """Bytes, in units of 1024."""
    return _scaled(size, 1024, (" B", " KB", " MB", " GB"))


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    unit = 0
    while number >= 999.5 and unit + 1 < len(units):
        number, unit = number / base, unit + 1
    digits = 0 if unit == 0 or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f}{units[unit]}"
