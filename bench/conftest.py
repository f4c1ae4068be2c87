"""pytest-benchmark for bench/: its clock, the options, the races, what a file says besides."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch

from bench.cases import DTYPES, Case, cases_of, layers_of
from bench.kernels import RACERS, Racer, Races, Result, measured_roofs, racers_of, variants_of
from bench.processes import in_own_process
from bench.quick import QUICK
from fastconv.machine import machine
from fastconv.profiling.record import Roofs

RIVALS = list(dict.fromkeys(racer.rival for racer in RACERS))
ROOFS = pytest.StashKey[dict[str, Roofs]]()
COMPLETE = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastconv")
    group.addoption(
        "--network",
        action="append",
        help="All layers of this network (bench/shapes) in place of the quick choice; may repeat.",
    )
    group.addoption("--batch", action="append", type=int, help="With --network: 1, if not given.")
    group.addoption(
        "--dtype", action="append", choices=DTYPES, help="With --network: float32, if not given."
    )
    group.addoption(
        "--rival", action="append", choices=RIVALS, help="Only these rivals; all, if none is named."
    )
    group.addoption(
        "--variants", action="store_true", help="Ours on each instruction set and in each form too."
    )
    group.addoption(
        "--race-seconds", type=float, default=1.0, help="How long a case's rivals are timed."
    )


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_timer = "bench.clock.read"


def chosen_cases(config: pytest.Config) -> list[Case]:
    networks = config.getoption("network")
    if not networks:
        return list(QUICK)
    batches, dtypes = config.getoption("batch") or [1], config.getoption("dtype") or ["float32"]
    try:
        return list(cases_of(layers_of(networks), batches, dtypes))
    except FileNotFoundError as error:
        raise pytest.UsageError(f"no shapes of {networks}: {error}") from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rivals = metafunc.config.getoption("rival") or RIVALS
    also = variants_of if metafunc.config.getoption("variants") else lambda case: []
    pairs = [
        (case, racer)
        for case in chosen_cases(metafunc.config)
        for racer in [*(r for r in racers_of(case) if r.rival in rivals), *also(case)]
    ]
    names = [f"{case.op}-{case.direction}-{case.dtype_name}-{case.shape}-{r}" for case, r in pairs]
    metafunc.parametrize(("case", "racer"), pairs, ids=names)


class Session:
    """The races of a run: a case is run once, with those of its rivals that were selected."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self.races = Races(torch.get_num_threads())
        self.results: dict[Case, Result] = {}
        self.selected: dict[Case, list[Racer]] = {}
        for item in items:
            parameters = item.callspec.params  # type: ignore[attr-defined]
            self.selected.setdefault(parameters["case"], []).append(parameters["racer"])
        timed = not config.getoption("benchmark_disable")
        self.seconds = config.getoption("race_seconds") if timed else None
        self.roofs = in_own_process(measured_roofs) if timed else {}

    def result(self, case: Case) -> Result:
        if case not in self.results:
            self.results[case] = self.races.run(case, self.selected[case], self.seconds)
        return self.results[case]


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    found = Session(request.config, request.session.items)
    request.config.stash[ROOFS] = found.roofs
    yield found
    found.races.close()


def pytest_benchmark_update_machine_info(machine_info: dict) -> None:
    machine_info["fastconv"] = machine()


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """What was measured before Ctrl-C is written too, and marked."""
    roofs = config.stash.get(ROOFS, {})
    output_json["roofline"] = {name: asdict(found) for name, found in roofs.items()}
    output_json["complete"] = config.stash.get(COMPLETE, True)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # or pytest-benchmark would write its file before
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    session.config.stash[COMPLETE] = exitstatus != pytest.ExitCode.INTERRUPTED
    return (yield)
