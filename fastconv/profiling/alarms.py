"""The slow paths that torch took in a run."""

from collections.abc import Iterable

from fastconv.peers.onednn import Execution
from fastconv.profiling.evidence import Evidence
from fastconv.profiling.figures import Figures
from fastconv.profiling.onednn import slow_path
from fastconv.profiling.record import Alarm

# Ops that torch runs outside of oneDNN by loops known to be slow (torch 2.13).
SLOW_OPS = {
    "aten.avg_pool3d": "local response normalisation as a scalar pooling over channels, "
    "among passes for square, power and division",
}


# Seen by torch.profiler for a 1x1 convolution of one small image, which torch keeps from oneDNN.
NOT_ONEDNN = "torch's own unfolding and matrix product, not oneDNN"
# Our kernels count them as zero.
SUBNORMAL = "arithmetic on numbers that near to zero takes many times as long"


def alarms_of(evidence: Evidence) -> list[Alarm]:
    """The slow paths of torch, in its own run and where fastconv leaves a layer to it."""
    alarms = []
    names = {step.key: step.name for step in evidence.steps()}
    for side, log in evidence.logs.items():
        ran = [(owner, slow) for owner, runs in log for slow in slow_runs(runs)]
        ran += slow_ops(evidence.torch if side == "torch" else evidence.fastconv, log)
        times = evidence.own_times(side)
        for owner, (what, why) in dict.fromkeys(ran):
            layer = owner if side == "torch" else names.get(owner, owner)
            taken = 1e3 * times[owner] if owner in times else None
            alarms.append(Alarm(side, layer or "itself", what, why, taken))
    return sorted(alarms, key=lambda alarm: -(alarm.ms or 0))


def slow_runs(runs: Iterable[Execution]) -> list[tuple[str, str]]:
    """What slow paths ran in oneDNN, and why they are slow."""
    found = ((run, slow_path(run)) for run in runs)
    return [(f"{run.kind} {run.implementation}", why) for run, why in found if why]


def slow_ops(
    stretches: Iterable[tuple[str, Figures]], log: Iterable[tuple[str, list[Execution]]]
) -> list[tuple[str, tuple[str, str]]]:
    """The same of what torch ran by itself: a convolution that oneDNN's log does not know."""
    of_onednn = {owner for owner, runs in log for run in runs if run.kind == "convolution"}
    found = []
    for owner, figures in stretches:
        found += [(owner, (op, why)) for op, why in SLOW_OPS.items() if op in figures.ops]
        if subnormal := sum(row["subnormal_weights"] or 0 for row in figures.served):
            found.append((owner, (f"{subnormal} subnormal weights", SUBNORMAL)))
        if "aten.convolution" in figures.ops and owner not in of_onednn:
            found.append((owner, ("slow_conv2d", NOT_ONEDNN)))
    return found
