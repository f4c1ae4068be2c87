"""The layers as a Chrome trace, which ui.perfetto.dev and chrome://tracing show.

The format is Google's "Trace Event Format": complete events ('X') with times in microseconds.
"""

from typing import Any

from fastconv.profiling.record import Profile

SIDES = ("torch", "fastconv")


def trace(profile: Profile) -> dict[str, Any]:
    """Torch's layers and fastconv's, each laid end to end in their order, by their median times."""
    events: list[dict[str, Any]] = []
    for thread, side in enumerate(SIDES):
        title = profile.wholes[side].title if side in profile.wholes else side
        events += [named("process_name", thread, title), named("thread_name", thread, "layers")]
        at = 0.0
        for layer in profile.layers:
            part = getattr(layer, side)
            if part.ms is None:
                continue
            events.append(
                {
                    "name": layer.name,
                    "cat": layer.op,
                    "ph": "X",
                    "pid": thread,
                    "tid": 0,
                    "ts": at,
                    "dur": 1e3 * part.ms,
                    "args": {
                        "op": layer.op,
                        "kernels": part.kernels,
                        "input": layer.input,
                        "output": layer.output,
                        "flop": layer.flop,
                        "bytes": part.bytes,
                        "share_of_roof": part.share_of_roof,
                        "modules": layer.modules,
                        "counters": part.counters,
                    },
                }
            )
            at += 1e3 * part.ms
    about = {"model": profile.model, "dtype": profile.dtype, "threads": profile.threads}
    note = "medians of each layer, laid end to end" + (
        "; the run was interrupted" if profile.interrupted else ""
    )
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": about | {"times": note, "gpu": profile.gpu} | profile.environment,
    }


def named(what: str, process: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": 0, "args": {"name": name}}
