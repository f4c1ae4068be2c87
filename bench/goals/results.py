"""The file of results: written whole after each row, so that a run can be cut and go on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.goals.figures import Figure
from fastconv.files import write_whole
from fastconv.machine import difference


def write(file: Path, found: dict[str, Any]) -> None:
    write_whole(file, json.dumps(found, indent=1, default=asdict) + "\n")


def read(file: Path, here: dict[str, Any]) -> dict[str, Any]:
    """What was written, rows that failed left out. Raises ValueError where it is not of `here`."""
    try:
        found = json.loads(file.read_text())
        found["rows"] = [row for row in found["rows"] if "figures" in row]
        for row in found["rows"]:
            row["figures"] = [Figure(**figure) for figure in row["figures"]]
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no results of bench.goals: {error}") from error
    if other := difference(found["machine"], here, but=("date",)):
        name, there, now = other
        raise ValueError(f"the rows in {file} are of {name} {there}, and this is {now}")
    return found
