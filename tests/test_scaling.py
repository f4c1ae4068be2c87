"""fastconv scale: what it recommends for a device whose speed is known."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

import fastconv
from fastconv import scaling
from fastconv.cli import app
from fastconv.scaling import advise
from tests.helpers import threads

MS_A_BILLION = 10.0


REPORTS = {}


def counted(model, shape):
    """fastconv.cost, once for every network: the tests come by the same ones again and again."""
    key = (model.stages, type(model.features[0][2]), shape)
    if key not in REPORTS:
        REPORTS[key] = fastconv.cost(model, shape)
    return REPORTS[key]


def device(model, batch):
    """A device that takes 10 ms for a billion multiplications."""
    return MS_A_BILLION * counted(model, (batch, *model.input_size)).multiplications / 1e9


@pytest.fixture
def fast_build(monkeypatch):
    """Candidates are only counted here, so they need no weights."""
    monkeypatch.setattr(scaling, "cost", counted)

    def build(*args, **options):
        with torch.device("meta"):
            return fastconv.models.efficientnet(*args, **options)

    monkeypatch.setattr(scaling, "efficientnet", build)


def test_every_way_to_grow_comes_near_the_budget_and_not_over(fast_build):
    advice = advise(latency_ms=12.0, measure=device)
    base, *grown = advice.candidates
    assert (base.grows, base.resolution, base.multiplications) == ("nothing", 224, 385_187_552)
    assert [c.grows for c in grown] == ["all three", "resolution", "depth", "width"]
    assert all(base.latency_ms < c.latency_ms <= 12.0 for c in grown)
    # Steps of 2^(1/8) would leave 8 %; whole blocks and 8 channels are coarser.
    assert all(c.latency_ms > 7.5 for c in grown)
    for candidate in grown:
        expected = {
            "all three": (1.2, 1.1, 1.15),
            "resolution": (1, 1, math.sqrt(2)),
            "depth": (2, 1, 1),
            "width": (1, math.sqrt(2), 1),
        }[candidate.grows]
        depth, width, resolution = (factor**candidate.phi for factor in expected)
        assert candidate.depth == pytest.approx(depth)
        assert candidate.width == pytest.approx(width)
        assert candidate.resolution == round(224 * resolution)
    assert advice.best is grown[0]


def test_it_is_the_largest_that_fits(fast_build):
    advice = advise(latency_ms=12.0, measure=device)
    for candidate in advice.candidates[1:]:
        ways = scaling.ways_to_grow(1.2, 1.1, 1.15)
        with torch.device("meta"):
            next_larger = fastconv.models.efficientnet(
                ways[candidate.grows](candidate.phi + scaling.STEP), lite=True
            )
        assert device(next_larger, 1) > 12.0


def test_a_small_budget_shrinks(fast_build):
    advice = advise(latency_ms=1.5, measure=device)
    assert advice.best.grows == "all three"
    assert advice.best.phi < 0
    assert advice.best.latency_ms <= 1.5
    assert advice.best.resolution < 224


def test_memory_is_a_budget_too(fast_build):
    measured = []

    def measure(model, batch):
        measured.append(model)
        return 1.0

    advice = advise(memory_bytes=60 * 2**20, measure=measure)
    for candidate in advice.candidates:
        assert candidate.memory_bytes <= 60 * 2**20
    assert advice.best.memory_bytes > 45 * 2**20
    assert len(measured) == len(advice.candidates)  # no time is taken of those it passed by
    both = advise(memory_bytes=60 * 2**20, latency_ms=5.0, measure=device)
    assert all(c.latency_ms <= 5.0 for c in both.candidates[1:])


def test_where_all_three_have_no_room_one_alone_may(fast_build):
    # A first step in depth adds a block to each of five stages, 30 % more work.
    advice = advise(latency_ms=1.12 * 3.85, measure=device)
    assert advice.best.grows in ("resolution", "width")
    assert advice.best.phi > 0


def test_other_constants_and_b0(fast_build):
    advice = advise(latency_ms=12.0, network="efficientnet_b0", alpha=1, beta=1, measure=device)
    assert (advice.best.depth, advice.best.width) == (1, 1)
    assert advice.best.resolution > 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give a budget"),
        ({"latency_ms": 0.0}, "latency_ms must be above 0, got 0"),
        ({"latency_ms": float("nan")}, "latency_ms must be above 0"),
        ({"memory_bytes": -1.0}, "memory_bytes must be above 0"),
        ({"latency_ms": 1.0, "network": "b0"}, "unknown network 'b0'.*efficientnet_lite0"),
        ({"latency_ms": 1e-3}, "no efficientnet_lite0 is small enough: phi -4 takes"),
        ({"memory_bytes": 1e5}, "no efficientnet_lite0 is small enough: phi -4 takes .* MB"),
    ],
)
def test_bad_input(fast_build, arguments, words):
    with pytest.raises(ValueError, match=words):
        advise(measure=device, **arguments)


def test_threads_are_given_back(fast_build):
    before = torch.get_num_threads()
    seen = []

    def measure(model, batch):
        seen.append(torch.get_num_threads())
        return device(model, batch)

    assert advise(latency_ms=4.0, threads=1, measure=measure).threads == 1
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def test_the_latency_of_an_optimized_network_is_measured():
    tiny = fastconv.models.Scaling(depth=0.1, width=0.1, resolution=0.15)
    small = fastconv.models.efficientnet(tiny, lite=True).eval()
    assert 0.01 < scaling.optimized_latency(small, 1) < 100


def test_latency_is_that_of_the_threads_set(monkeypatch):
    seen = set()

    def optimize(model, inputs):
        return lambda image: seen.add(torch.get_num_threads())

    monkeypatch.setattr(scaling, "optimize", optimize)
    model = fastconv.models.efficientnet(fastconv.models.Scaling(0.1, 0.1, 0.1), lite=True)
    with threads(3):
        scaling.optimized_latency(model, 1)
    assert seen == {3}


def test_the_command(fast_build, monkeypatch):
    monkeypatch.setattr(scaling, "optimized_latency", device)
    run = CliRunner().invoke
    result = run(app, ["scale", "--latency-ms", "12"])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0][0] == "efficientnet_lite0,"
    grown = [line[0] for line in lines[2:]]
    assert grown[-6:] == ["nothing", "all", "resolution", "depth", "width", "Grow"]
    assert "Grow all three: resolution to" in result.stdout
    assert "of 12 ms" in result.stdout

    result = run(app, ["scale", "--memory-mb", "60", "--json"])
    assert json.loads(result.stdout)["best"]["memory_bytes"] <= 60 * 2**20

    result = run(app, ["scale"])
    assert result.exit_code == 2
    assert "give a budget" in result.stderr
