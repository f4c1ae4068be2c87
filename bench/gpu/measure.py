"""One case: inputs, variants, checks, times."""

import contextlib
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch

import fastconv
from bench.cases import Case, Tensors
from bench.gpu.rivals import Rival, oracle_of
from bench.gpu.timing import alone, in_turn, kernels, ratio
from fastconv import gpu
from fastconv.gpu_probe import Calls, Graph

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def backends() -> list[str]:
    """Ours that are open here."""
    ways = [way for way in gpu.WAYS if gpu.missing(way) is None]
    return [*ways, "triton"] if torch.cuda.is_available() else ["cpu"]


@contextlib.contextmanager
def forced(backend: str | None) -> Iterator[None]:
    if backend in gpu.WAYS:
        gpu.use(backend)
        with fastconv.use_backend(backend):
            yield
    elif backend == "triton":
        with fastconv.use_backend("triton"):
            yield
    else:
        yield


def sets_of(case: Case, device: torch.device) -> int:
    """Inputs to rotate, so that what a call reads was not left in L2 by one before."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(1, min(16, -(-3 * cache // max(case.bytes, 1))))


def inputs_of(case: Case, device: torch.device, sets: int) -> list[Tensors]:
    torch.manual_seed(0)
    inputs = (case.inputs(device) for _ in range(sets))
    return [[t.to(case.dtype) for t in tensors] for tensors in inputs]


def in_layout(tensors: Tensors, layout: str) -> Tensors:
    return [t.contiguous(memory_format=FORMATS[layout]) if t.dim() == 4 else t for t in tensors]


def error_of(result: Any, expected: Any) -> float:
    """The largest difference, of the largest value."""
    difference = (result.double() - expected).abs().max()
    return float(difference / expected.abs().max().clamp_min(1e-30))


def check(name: str, error: float, dtype: torch.dtype) -> None:
    # 32 roundings: sums are in float32, but cuBLASLt and torch.compile may round between ops.
    bound = 32 * torch.finfo(dtype).eps
    if not error <= bound:
        raise AssertionError(f"{name} differs from float64 by {error:.2g} of the largest value")


def ours_of(case: Case) -> dict[str, Rival]:
    return {
        f"{backend} {layout}": Rival(case.ours, layout, backend)
        for backend in backends()
        for layout in FORMATS
    }


def told(reason: Exception) -> str:
    first, *_ = [*str(reason).splitlines(), ""]
    return f"{type(reason).__name__}: {first}"


def measure(
    case: Case,
    larger: Case | None,
    variants: dict[str, Rival],
    device: torch.device,
    copy_rate: float,
    rounds: int,
) -> dict[str, Any]:
    """The row of a case: seconds, error and kernels of each variant, or why it has none.

    The seconds of the first call in this process too, and with a larger case those of the first
    call of its new shape: what is compiled, searched or planned for them.
    """
    torch._dynamo.reset()  # or the tenth case would run into its limit of recompilations
    sets = sets_of(case, device)
    base = inputs_of(case, device, sets)
    doubles = [t.double() for t in base[0]]
    oracle = oracle_of(case)
    with torch.backends.cudnn.flags(benchmark=False):  # a search would last longer than the call
        rights = {variant.oracle or oracle for variant in variants.values()}
        expected = {right: right(*doubles) for right in rights}
    layouts = {layout: [in_layout(tensors, layout) for tensors in base] for layout in FORMATS}
    runners: dict[str, Graph | Calls] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, variant in variants.items():
        inputs = layouts[variant.layout]

        def call(i: int, variant: Rival = variant, inputs: list[Tensors] = inputs) -> object:
            return variant.function(*inputs[i])

        try:
            with forced(variant.backend), torch.no_grad():
                result, seconds = alone(partial(call, 0), device)
                error = error_of(result, expected[variant.oracle or oracle])
                check(name, error, case.dtype)
                rows[name] = {"error": error, "first_call_seconds": seconds}
                if device.type == "cuda":
                    rows[name]["kernels"] = kernels(partial(call, 0))
                runners[name] = (Graph if device.type == "cuda" else Calls)(call, sets)
        except Exception as reason:  # a variant that fails leaves the others their times
            rows[name] = {"failed": told(reason)}
    times = in_turn(runners, rounds)
    for name, taken in times.items():
        rows[name]["seconds"] = median(taken)
        rows[name]["spread"] = (max(taken) - min(taken)) / median(taken)
    # Last, or torch.compile might serve both shapes by what it compiles for any.
    others = inputs_of(larger, device, 1)[0] if larger else []
    for name in times if larger else ():
        variant = variants[name]
        call_larger = partial(variant.function, *in_layout(others, variant.layout))
        try:
            with forced(variant.backend), torch.no_grad():
                rows[name]["new_shape_seconds"] = alone(call_larger, device)[1]
        except Exception as reason:
            rows[name]["new_shape_failed"] = told(reason)
    return {
        "case": str(case),
        "op": case.op,
        "direction": case.direction,
        "shape": case.shape,
        "dtype": case.dtype_name,
        "floor_seconds": case.bytes / copy_rate,
        "sets": sets,
        "variants": rows,
        **best_of(times, case, copy_rate),
    }


def best_of(times: dict[str, list[float]], case: Case, copy_rate: float) -> dict[str, Any]:
    def fastest(names: list[str]) -> str | None:
        return min(names, key=lambda name: median(times[name]), default=None)

    def is_ours(name: str) -> bool:
        return name.split()[0] in (*gpu.WAYS, "triton", "cpu")

    ours = fastest([name for name in times if is_ours(name)])
    rival = fastest([name for name in times if not is_ours(name)])
    result: dict[str, Any] = {"ours": ours, "rival": rival}
    if ours:
        result["share_of_copy"] = case.bytes / copy_rate / median(times[ours])
    if ours and rival:
        result["ratio"] = ratio(times, rival, ours)
    return result
