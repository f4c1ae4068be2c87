"""Whole networks against the engines a user could pick instead, each in a process of its own."""

import statistics

import torch

import fastconv
from bench.goals.figures import Figure, Row
from fastconv import probe
from fastconv.compare import Comparison, Rival, compare
from fastconv.peers.model import build_model, input_size, settle_batch_norms
from fastconv.peers.turns import run

ENGINES = ("onnxruntime", "openvino")
PEERS = ("torch-channels-last", "fastconv", *ENGINES)
MOBILE = ("efficientnet_b0", "efficientnet_lite0", "mobilenet_v1")
DENSE = ("googlenet_lrn", "alexnet_lrn", "resnet50")
SEEDS = 5  # of weights: one network's errors swing more than ours and an engine's differ
NETWORK_SECONDS = 10  # a comparison of networks lasts as many times as long as one of kernels


def race(model: str, batch: int, dtype: str, seconds: float) -> Comparison:
    return compare(model, batch=batch, dtype=dtype, peers=PEERS, seconds=NETWORK_SECONDS * seconds)


def rival(result: Comparison, name: str) -> Rival:
    found = next(r for r in result.rivals if r.name == name)
    if found.status != "ok":
        raise RuntimeError(f"{result.model}: {name} {found.status}: {found.reason}")
    return found


def against_engines(what: str, result: Comparison, goal: float) -> Figure:
    """Our speed over that of the faster engine; beside it each rival's share of peak."""
    ours = rival(result, "fastconv").speedup
    speeds = {r.name: r.speedup for r in result.rivals if r.status == "ok" and r.speedup}
    engines = [speed for name, speed in speeds.items() if name in ENGINES]
    if not engines or ours is None:
        raise RuntimeError(f"{result.model}: no engine ran")
    return Figure(what, ours / max(engines), goal, rivals=speeds, shares=shares_of_peak(result))


def shares_of_peak(result: Comparison) -> dict[str, float]:
    """What part of the peak of its dtype each rival that ran reached, by the network's FLOP.

    An engine that leaves FLOP out, or multiplies in another dtype than it was given, reads high.
    """
    _, *image = result.input_shape
    model = fastconv.models.build(result.model)
    flops = 2.0 * result.input_shape[0] * fastconv.cost(model, (1, *image)).multiplications
    peak = peak_flops(getattr(torch, result.dtype))
    return {
        r.name: flops / (r.median_ms * 1e-3) / peak
        for r in result.rivals
        if r.status == "ok" and r.median_ms
    }


def peak_flops(dtype: torch.dtype) -> float:
    """FLOP a second that all threads reach in registers."""
    fma = probe.multiply_add(dtype=dtype)
    return fma.work / min(run(fma.run, 100, 10))


def error(result: Comparison, name: str) -> float:
    difference = rival(result, name).difference
    if difference is None:
        raise RuntimeError(f"{result.model}: {name} was held against nothing")
    return difference


def error_beside(engine: str, result: Comparison) -> float:
    """Our error over that of the engine, each the median over networks of random weights."""
    model, peers = result.model, ("fastconv", engine)
    batch, dtype = result.input_shape[0], result.dtype
    results = [result]
    for seed in range(1, SEEDS):
        torch.manual_seed(seed)
        network = build_model(model)
        settle_batch_norms(network, torch.randn(4, *input_size(network)))
        # Of its times nobody reads any.
        again = compare(model, network=network, batch=batch, dtype=dtype, peers=peers, seconds=0.1)
        results.append(again)
    ours, theirs = (statistics.median(error(r, name) for r in results) for name in peers)
    return ours / theirs


def measure_mobilenet_v2(seconds: float) -> list[Figure]:
    figures, shares = [], []
    for batch, goal, peak_goal in ((1, 1.5, 0.85), (16, 1.55, 0.92)):
        result = race("mobilenet_v2", batch, "float32", seconds)
        figures.append(against_engines(f"batch {batch}", result, goal))
        share = figures[-1].shares["fastconv"]
        shares.append(Figure(f"batch {batch}", share, peak_goal, "of peak"))
    return figures + shares


def measure_bfloat16(seconds: float) -> list[Figure]:
    figures, shares, errors = [], [], []
    for batch, goal in ((1, 2.8), (16, 2.5)):
        result = race("mobilenet_v2", batch, "bfloat16", seconds)
        figures.append(against_engines(f"batch {batch}", result, goal))
        ratio = error_beside("openvino", result)
        errors.append(Figure(f"error, batch {batch}", ratio, 1.0, "x OpenVINO's", at_most=True))
        share = figures[-1].shares["fastconv"]
        shares.append(Figure(f"batch {batch}", share, None, "of bfloat16 peak"))
    return figures + errors + shares


def measure_all(models: tuple[str, ...], goal: float, seconds: float) -> list[Figure]:
    return [
        against_engines(f"{model} {batch}", race(model, batch, "float32", seconds), goal)
        for model in models
        for batch in (1, 16)
    ]


ROWS = [
    Row(
        "mobilenet-v2",
        "MobileNetV2 float32, batch 1 / 16",
        ">= 1.5x / 1.55x the best of ONNX Runtime and OpenVINO; 0.85 / 0.92 of FMA peak",
        measure_mobilenet_v2,
        whole_network=True,
    ),
    Row(
        "mobilenet-v2-bfloat16",
        "MobileNetV2 bfloat16, batch 1 / 16",
        ">= 2.8x / 2.5x OpenVINO bf16; error against float32 no worse than OpenVINO's",
        measure_bfloat16,
        whole_network=True,
    ),
    Row(
        "mobile-networks",
        "EfficientNet-B0 and -Lite0, MobileNetV1 float32, batch 1 / 16",
        ">= 1.6x the best rival",
        lambda seconds: measure_all(MOBILE, 1.6, seconds),
        whole_network=True,
    ),
    Row(
        "dense-networks",
        "GoogLeNet with LRN, AlexNet with LRN, ResNet-50 float32, batch 1 / 16",
        ">= 1.1x the best rival",
        lambda seconds: measure_all(DENSE, 1.1, seconds),
        whole_network=True,
    ),
]
