"""Swapped networks on two processes: the same numbers as on one."""

import socket
import subprocess
import sys

import pytest
import torch.multiprocessing as multiprocessing
from torch import distributed, nn

from fastconv import models
from fastconv.distributed import HalfOfAlexNet
from fastconv.distributed.sharding import CONDITIONS, RULES
from fastconv.ops._op import OPS
from tests.two_processes import CLASSES, run, small_alexnet


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_two_processes_train_as_one():
    """All of two_processes.py, because starting processes takes longer than any of it."""
    failures = multiprocessing.get_context("spawn").SimpleQueue()
    context = multiprocessing.spawn(run, (free_port(), failures), nprocs=2, join=False)
    try:
        while failures.empty() and not context.join(timeout=0.2):
            pass
        assert failures.empty(), "{}:\n{}".format(*failures.get())
    finally:
        for process in context.processes:
            process.kill()


def test_rules_are_for_the_tensors_of_each_op():
    assert set(RULES) == set(OPS)
    for name, rules in RULES.items():
        results = len(OPS[name].raw._schema.returns)
        for rule in rules:
            counts = [len(side.split()) for side in rule.split(" -> ")]
            assert counts == [OPS[name].tensors, results]
    assert all(rule in RULES[name] for name, rule in CONDITIONS)


def test_the_example_wants_torchrun():
    command = [sys.executable, "-m", "fastconv.distributed.train"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fastconv: start it by torchrun --nproc-per-node 2")


@pytest.fixture
def alone():
    """A group of one process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_what_cannot_be_halved(alone, monkeypatch):
    with pytest.raises(ValueError, match="expected two processes, got 1"):
        HalfOfAlexNet(small_alexnet())
    monkeypatch.setattr(distributed, "get_world_size", lambda group: 2)
    for model in (models.lenet5(), nn.Conv2d(1, 1, 1)):
        with pytest.raises(ValueError, match="expected an AlexNet in two groups"):
            HalfOfAlexNet(model)
    odd = small_alexnet()
    odd.num_classes = CLASSES + 1
    with pytest.raises(ValueError, match="expected an even number of classes, got 7"):
        HalfOfAlexNet(odd)
