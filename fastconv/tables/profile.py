"""A profile for a terminal and in Markdown."""

from rich.table import Table

from fastconv.profiling.record import RESTLESS, Layer, Profile
from fastconv.tables import common
from fastconv.tables.common import count, memory, plain_table, several
from fastconv.tables.compare import ms
from fastconv.tables.cost import shape

SLOWEST = 12  # layers that a terminal shows
# Hardware counters of fastconv's side, by their keys in a record, and what they are called.
COUNTERS = {
    "dram_percent": "of DRAM",
    "sm_percent": "of SMs",
    "occupancy_percent": "occupancy",
}


def as_text(profile: Profile) -> str:
    """The summary and the slowest layers."""
    slowest = sorted(profile.layers, key=lambda layer: -(layer.fastconv.ms or 0))[:SLOWEST]
    table = layers(slowest, f"The slowest of {len(profile.layers)} layers")
    return "\n\n".join([*summary(profile), common.as_text(table)])


def markdown(profile: Profile) -> str:
    """The summary and every layer, and what the environment was."""
    lines = [f"# {profile.model}", *summary(profile)]
    lines.append(common.as_markdown(layers(profile.layers, "Layers")))
    if profile.alarms:
        lines.append(common.as_markdown(alarms(profile)))
    lines.append("\n".join(f"- {name}: {value}" for name, value in profile.environment.items()))
    return "\n\n".join(lines) + "\n"


def summary(profile: Profile) -> list[str]:
    """Paragraphs: what was measured, how it came out, what is not there."""
    sizes = ", ".join(map(shape, profile.input))
    threads = several(profile.threads, "thread")
    lines = [f"{profile.model}, {sizes}, {profile.dtype}, {threads}. {profile.gpu}"]
    if profile.interrupted:
        lines.append("The run was interrupted: this is what was measured before.")
    if profile.restless:
        lines.append(RESTLESS)
    if profile.speedup is not None:
        torch, fastconv = profile.wholes["torch"], profile.wholes["fastconv"]
        times = f"{torch.title} {ms(torch.ms)} ms, fastconv {ms(fastconv.ms)} ms"
        lines.append(f"{times}: {profile.speedup:.2f} times as fast.")
        lines += [
            f"The layers of {whole.title} add up to {ms(whole.layers_ms)} ms, "
            f"{whole.layers_ms / whole.ms - 1:+.1%} beside the whole."
            for whole in (torch, fastconv)
            if whole.layers_ms is not None
        ]
    reorders = [layer.torch.reorders for layer in profile.layers]
    if reorders and None not in reorders:
        cost = sum(layer.torch.reorder_ms or 0 for layer in profile.layers)
        number = sum(filter(None, reorders))
        teller = "the times of their kernels" if profile.on_gpu else "oneDNN's log"
        lines.append(f"Hidden reorders in torch: {number}, {ms(cost)} ms by {teller}.")
    lines += [f"Not here: {what} ({why})." for what, why in profile.lacking.items()]
    return lines


def layers(rows: list[Layer], title: str) -> Table:
    table = plain_table(title)
    for name in ("layer", "op", "input", "kernel"):
        table.add_column(name)
    counted = COUNTERS if any(layer.fastconv.counters for layer in rows) else {}
    numbers = ("torch, ms", "fastconv, ms", "times", "FLOP", "moved", "of roof", "reorders")
    for name in (*numbers, *counted.values()):
        table.add_column(name, justify="right")
    for layer in rows:
        ours, theirs = layer.fastconv, layer.torch
        table.add_row(
            layer.name,
            layer.op,
            shape(layer.input),
            ", ".join(ours.kernels),
            "" if theirs.ms is None else ms(theirs.ms),
            "" if ours.ms is None else ms(ours.ms),
            f"{theirs.ms / ours.ms:.1f}" if ours.ms and theirs.ms else "",
            count(layer.flop),
            memory(ours.bytes),
            "" if ours.share_of_roof is None else f"{ours.share_of_roof:.0%}",
            "" if theirs.reorders is None else str(theirs.reorders),
            *(counter(layer, name) for name in counted),
        )
    return table


def counter(layer: Layer, name: str) -> str:
    value = layer.fastconv.counters.get(name)
    return "" if value is None else f"{value:.0f}%"


def alarms(profile: Profile) -> Table:
    table = plain_table("Slow paths")
    for name in ("in", "layer", "what ran", "why it is slow"):
        table.add_column(name)
    table.add_column("ms", justify="right")
    for alarm in profile.alarms:
        time = "" if alarm.ms is None else ms(alarm.ms)
        table.add_row(alarm.side, alarm.layer, alarm.what, alarm.why, time)
    return table
