"""fastconv compare: real rivals on a tiny network, and rivals that misbehave."""

import time

import pytest
import torch

from fastconv.compare import compare
from fastconv.peers import PEERS, Peer
from fastconv.peers.entrant import ComparisonError, Rival, summarise
from fastconv.peers.model import build_model, settle_batch_norms
from fastconv.peers.process import PeerError, PeerProcess
from fastconv.peers.turns import MIN_ROUNDS, rounds_in_turn, time_in_turn
from tests.tiny_network import TinyNetwork

MODEL = "tests.tiny_network:build"


def quick(peers, **options):
    comparison = compare(MODEL, peers=peers, seconds=0.2, threads=1, **options)
    return comparison, {rival.name: rival for rival in comparison.rivals}


@pytest.fixture
def make_rival(tmp_path, monkeypatch):
    """Adds a rival whose `prepare` has this body; its process finds it as this one would."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, body, needs=(), top=""):
        source = f"import time\n{top}\ndef prepare(model, image, dtype, threads):\n    {body}\n"
        (tmp_path / f"{name}_rival.py").write_text(source)
        peer = Peer(name, name.capitalize(), f"{name}_rival", needs)
        monkeypatch.setitem(PEERS, name, peer)
        return peer

    return make


def test_every_rival_answers_as_torch_does():
    peers = ["torch", "torch-channels-last", "onnxruntime", "openvino"]
    for peer in peers:
        if missing := PEERS[peer].missing():
            pytest.skip(f"needs {missing}")
    comparison, rivals = quick(peers)
    assert comparison.ok
    assert comparison.input_shape == (1, 3, 16, 16)
    assert comparison.rounds >= MIN_ROUNDS
    assert comparison.baseline in ("torch", "torch-channels-last")
    assert rivals[comparison.baseline].speedup == 1.0
    for rival in comparison.rivals:
        assert rival.status == "ok", rival.reason
        assert rival.difference < 1e-4
        assert rival.implementations
        assert rival.cold_ms > rival.fastest_ms
        if rival.memory_bytes is not None:  # on Linux
            assert -(1 << 30) < rival.memory_bytes < 1 << 30
        least, most = rival.speedup_interval
        assert 0 < least <= rival.speedup <= most
        low, high = rival.quartiles_ms
        assert 0 < rival.fastest_ms <= low <= rival.median_ms <= high
        assert "torch" in rival.versions


def test_bfloat16_says_who_cannot():
    _, rivals = quick(["torch", "onnxruntime"], dtype="bfloat16", batch=2)
    assert rivals["torch"].status == "ok"
    assert 0 < rivals["torch"].difference < 0.1
    assert rivals["onnxruntime"].status == "skipped"
    assert "bfloat16" in rivals["onnxruntime"].reason


def test_rivals_that_misbehave_are_told_apart(make_rival):
    make_rival("wrong", "return lambda: model(image) + 0.1")
    make_rival("nan", "return lambda: model(image) * float('nan')")
    make_rival("narrow", "return lambda: model(image)[:, :3]")
    make_rival("broken", "raise TypeError('no kernel for you')")
    make_rival("mortal", "calls = iter(range(6)); return lambda: [next(calls)] and model(image)")
    make_rival("chatty", "print('hello'); return lambda: model(image)")
    make_rival("absent", "pass", needs=("package_that_is_not_there",))
    comparison, rivals = quick(["wrong", "nan", "narrow", "broken", "mortal", "chatty", "absent"])
    assert not comparison.ok
    assert comparison.rivals[0].name == "torch"  # runs though nobody asked
    assert rivals["torch"].status == "ok"
    assert {name: rival.status for name, rival in rivals.items() if name != "torch"} == {
        "wrong": "wrong",
        "nan": "wrong",
        "narrow": "wrong",
        "broken": "failed",
        "mortal": "failed",  # while it is timed
        "chatty": "ok",
        "absent": "skipped",
    }
    assert "differs from torch" in rivals["wrong"].reason
    assert "has output (1, 3), wanted (1, 10)" in rivals["narrow"].reason
    assert "TypeError: no kernel for you" in rivals["broken"].reason
    assert "StopIteration" in rivals["mortal"].reason
    assert "pip install package_that_is_not_there" in rivals["absent"].reason
    assert rivals["wrong"].median_ms > 0
    assert rivals["broken"].median_ms is rivals["mortal"].median_ms is None


def test_a_silent_rival_is_stopped(make_rival):
    peer = make_rival("silent", "pass", top="time.sleep(600)")
    start = time.monotonic()
    with PeerProcess(peer, 1) as process:
        with pytest.raises(PeerError, match="no answer for 1 s"):
            process.ask({"prepare": {"folder": "never read"}}, timeout=1)
        assert time.monotonic() - start < 30
        with pytest.raises(PeerError, match="ended"):
            process.ask({"run": 1, "warm_up": 0}, timeout=1)


def test_a_rival_ends_with_its_parent():
    with PeerProcess(PEERS["torch"], 1) as process:
        process._process.stdin.close()
        assert process._process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no_such_network", "no_such_network.*efficientnet_lite0"),
        ("no_such_module:build", "no_such_module"),
        ("tests.tiny_network:no_such_function", "no_such_function"),
        ("tests.tiny_network:not_a_network", "str, wanted a torch.nn.Module"),
    ],
)
def test_unknown_models_are_named(model, message):
    with pytest.raises(ValueError, match=message):
        compare(model)


def test_unknown_peer_lists_what_there_is():
    with pytest.raises(ValueError, match="'abacus': there are torch, "):
        compare(MODEL, peers=["abacus"])


def test_a_network_that_takes_no_such_image(monkeypatch):
    monkeypatch.setattr(TinyNetwork, "input_size", (4, 16, 16))
    with pytest.raises(ValueError, match="does not run on an image of 4 x 16 x 16"):
        compare(MODEL)


def test_nothing_to_compare_with_is_one_sentence(make_rival):
    make_rival("absent", "pass", needs=("package_that_is_not_there",))
    with pytest.raises(ComparisonError, match=r"no rival .*: Absent not installed: pip install"):
        compare(MODEL, peers=["absent"])


def test_what_was_timed_before_ctrl_c_is_kept(monkeypatch):
    rounds = []

    def interrupted(*arguments, **options):
        for turns in rounds_in_turn(*arguments, **options):
            if len(rounds) == 2:
                raise KeyboardInterrupt
            rounds.append(turns)
            yield turns

    monkeypatch.setattr("fastconv.compare.rounds_in_turn", interrupted)
    comparison, rivals = quick(["torch"])
    assert comparison.interrupted
    assert comparison.rounds == 2
    assert rivals["torch"].median_ms > 0
    assert rivals["torch"].speedup_interval is rivals["torch"].cold_ms is None
    with pytest.raises(KeyboardInterrupt):  # before the first round there is nothing to keep
        quick(["torch"])


def test_settled_batch_norms_let_the_input_through():
    torch.manual_seed(0)
    model = build_model(MODEL)
    settle_batch_norms(model, torch.randn(4, 3, 16, 16))
    assert not model.training
    assert model[1].momentum == 0.1
    images = torch.randn(64, 3, 16, 16)
    normed = model[1](model[0](images))
    torch.testing.assert_close(normed.var(dim=(0, 2, 3)), torch.ones(8), atol=0.3, rtol=0)


def test_ratios_are_taken_within_a_round_to_the_faster_torch():
    rivals = [Rival(name, name) for name in ("torch", "torch-channels-last", "openvino")]
    slow_round, quick_round = 8.0, 1.0  # the machine's moods, alike for all
    moods = (slow_round, quick_round, slow_round)
    rounds = [[[cost * mood] * 2 for cost in (0.012, 0.010, 0.002)] for mood in moods]
    assert summarise(rivals, rounds) == "torch-channels-last"
    assert [round(rival.speedup, 3) for rival in rivals] == [0.833, 1.0, 5.0]
    assert rivals[2].fastest_ms == pytest.approx(2.0)


def test_turns_alternate_and_failures_drop_out():
    log = []

    class Runner:
        def __init__(self, name, lives):
            self.name, self.lives = name, lives

        def run(self, calls, warm_up):
            self.lives -= 1
            log.append(self.name)
            return [0.05] * calls if self.lives >= 0 else []

    times = time_in_turn([Runner("a", 99), Runner("b", 2)], 0.01, lambda what, share: None)
    assert "".join(log) == ("abba" * MIN_ROUNDS)[: 2 * (MIN_ROUNDS + 1)]
    assert [len(rounds) for rounds in times] == [MIN_ROUNDS, 1]
    assert times[0][0] == [0.05, 0.05]
