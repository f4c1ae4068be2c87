"""The profile as one HTML file that opens without a network."""

import gzip
from base64 import b64encode
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fastconv.profiling.record import RESTLESS, Layer, Profile
from fastconv.profiling.reports.charts import charts, title_of
from fastconv.tables.common import count, memory
from fastconv.tables.compare import ms
from fastconv.tables.cost import shape
from fastconv.tables.profile import COUNTERS

MOST_ALARMS = 8  # that the page shows, the longest first


def page(profile: Profile) -> str:
    environment = Environment(
        loader=PackageLoader("fastconv.profiling.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"ms": ms, "memory": memory, "count": count, "shape": shape}
    figures = charts(profile)
    return environment.get_template("page.html").render(
        profile=profile,
        torch=title_of(profile, "torch"),
        figures=figures,
        style=read("page.css"),
        script=read("page.js"),
        plotly=packed_plotly() if figures else "",
        restless=RESTLESS,
        most_alarms=MOST_ALARMS,
        counters=COUNTERS if profile.counted else {},
        gap=gap,
        ratio=ratio,
        slowest=slowest,
        total=total,
    )


def read(name: str) -> str:
    return files("fastconv.profiling.reports").joinpath("templates", name).read_text("utf-8")


def packed_plotly() -> str:
    """plotly.js as the plotly package ships it, compressed: 1.9 MB of text where it has 4.8."""
    from plotly.offline import get_plotlyjs

    return b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def ratio(layer: Layer) -> float | None:
    """How many times as fast fastconv's step is as torch's calls."""
    ours, theirs = layer.fastconv.ms, layer.torch.ms
    return theirs / ours if ours and theirs else None


def slowest(profile: Profile) -> Layer | None:
    """The layer that takes longest in fastconv."""
    timed = [layer for layer in profile.layers if layer.fastconv.ms is not None]
    return max(timed, key=lambda layer: layer.fastconv.ms or 0.0, default=None)


def gap(profile: Profile, side: str) -> float | None:
    """What the sum over the layers differs from the whole, as a share of it."""
    whole = profile.wholes.get(side)
    if whole is None or whole.layers_ms is None:
        return None
    return whole.layers_ms / whole.ms - 1


def total(profile: Profile, side: str, what: str) -> Any:
    """A sum over the layers, None where the log that tells was not read."""
    values = [getattr(getattr(layer, side), what) for layer in profile.layers]
    return None if None in values else sum(values)
