"""Which settings a launch takes, and the files that tuned ones are kept in; no GPU, but in name."""

import json
import multiprocessing

import pytest
import torch
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from bench.gpu import settings as settings_command
from bench.gpu.choices import as_json
from fastconv import kept
from fastconv.triton_kernels import KERNELS, _tuned
from fastconv.triton_kernels._settings import SPACES, Bucket, Space
from fastconv.triton_kernels._tuned import Row, settings_for
from fastconv.triton_kernels.residual_add import SPACE, Settings
from fastconv.triton_kernels.search import asked_by
from tests import test_triton_compiled, test_triton_compiled_products
from tests.compiled import nhwc

GPU = "NVIDIA H100 80GB HBM3"
CPU = torch.device("cpu")
X = torch.empty(1000)
DEFAULT, KIND = SPACE.default, {"mask": False}
HERE = Bucket.of("residual_add", [1000], {"dtype": X.dtype, **KIND})


@pytest.fixture(autouse=True)
def a_gpu_in_name(tmp_path, monkeypatch):
    """What is on the CPU and the meta device counts as on a GPU for which nothing is tuned yet."""
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path))
    monkeypatch.setattr(_tuned, "name_of", lambda device: GPU)
    forget()
    yield tmp_path
    forget()


def forget():
    """As a new process, which knows what is on disk."""
    _tuned.rows_on.cache_clear()
    _tuned._rows_of.cache_clear()
    kept.warn_once.cache_clear()


def settings(elements=1000, dtype=torch.float32):
    return settings_for(SPACE, torch.empty(elements, dtype=dtype), (elements,), **KIND)


def tuned(warps=8, bucket=HERE):
    return {bucket: Row(Settings(warps=warps), 1.0, 2.0)}


def ship(tmp_path, monkeypatch, rows):
    lines = [{"gpu": GPU, **_tuned.written(*item)} for item in rows.items()]
    file = tmp_path / "shipped.json"
    file.write_text(json.dumps({"version": 1, "rows": lines}))
    monkeypatch.setattr(_tuned, "SHIPPED", file)
    forget()


def test_what_was_tuned_here_comes_before_what_ships_and_that_before_the_default(
    tmp_path, monkeypatch
):
    assert settings() == DEFAULT
    ship(tmp_path, monkeypatch, tuned(2))
    assert settings() == Settings(warps=2)
    _tuned.keep(CPU, tuned(8))
    assert settings() == Settings(warps=8)
    forget()
    assert settings() == Settings(warps=8)
    monkeypatch.setattr(_tuned, "name_of", lambda device: "NVIDIA A100-SXM4-80GB")
    forget()
    assert settings() == DEFAULT
    monkeypatch.setattr(_tuned, "name_of", lambda device: None)
    forget()
    assert settings() == DEFAULT


def test_a_trial_comes_before_all():
    _tuned.keep(CPU, tuned(8))
    with _tuned.trial({HERE: Settings(warps=2)}) as trial:
        assert settings() == Settings(warps=2)
        assert settings(3000) == DEFAULT
    assert trial.asked == [HERE, HERE._replace(sizes=(4096,))]
    assert settings() == Settings(warps=8)


@pytest.mark.parametrize(
    ("size", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (513, 1024), (1024, 1024)]
)
def test_a_bucket_ends_at_a_power_of_two(size, power):
    assert Bucket.of("a", [size, 7], {}).sizes == (power, 8)


def test_calls_of_another_bucket_keep_the_default():
    _tuned.keep(CPU, tuned(8))
    for elements, warps in ((512, 4), (513, 8), (1024, 8), (1025, 4)):
        assert settings(elements).warps == warps
    assert settings(dtype=torch.bfloat16) == DEFAULT
    kinds = {Bucket.of("a", [8], {"stride": stride}) for stride in ([1, 2], (1, 2), [2, 1])}
    assert {bucket.kind for bucket in kinds} == {"stride=1x2", "stride=2x1"}


def test_an_open_size_stands_for_the_one_it_was_compiled_for_and_stays_open():
    shapes, source = ShapeEnv(), ConstantSource("n")
    symbol = shapes.create_symbol(100, source, dynamic_dim=DimDynamic.DYNAMIC)
    size = shapes.create_symintnode(symbol, hint=100, source=source)
    assert Bucket.of("a", [size], {}).sizes == (128,)
    assert not shapes.guards


def test_a_launch_takes_them():
    def launch():
        x = torch.empty(1000, device="meta")
        return KERNELS["residual_add"].plan(x, x, "relu")[0].options

    assert launch()["num_warps"] == 4
    _tuned.keep(CPU, tuned(8))
    assert launch()["num_warps"] == 8
    assert launch()["BLOCK"] == 8 * 32 * 4 * 16 // 4


def changed(**changes):
    """A file as kept, but for changes in its JSON."""
    _tuned.keep(CPU, tuned(8))
    path = _tuned.path_of(GPU)
    kept.write(path, json.dumps(json.loads(kept.read(path)) | changes).encode())
    forget()


ROW = _tuned.written(*next(iter(tuned().items())))


def row(**changes):
    return {"rows": [ROW | changes]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 0}, "is of another version"),
        ({"gpu": "NVIDIA A100-SXM4-80GB"}, "is of another gpu"),
        ({"Triton": "3.1.0"}, "is of another Triton"),
        ({"kernel sources": "0" * 64}, "is of another kernel sources"),
        ({"rows": 1}, "is no file of tuned settings"),
        ({"rows": [{}]}, "is no file of tuned settings"),
        (row(space="abacus"), "no kernel has settings named 'abacus'"),
        (row(settings={"warps": 8}), "residual_add has no such settings"),
        (row(settings={"warps": 3, "accesses": 4}), "no such settings"),
        (row(settings={"warps": 8.0, "accesses": 4}), "no such settings"),
        (row(settings={"warps": 8, "accesses": 4, "more": 1}), "no such settings"),
    ],
)
def test_what_is_foreign_is_left_alone_with_one_warning(changes, reason, caplog):
    changed(**changes)
    for device in ("cpu", "cpu:0", "meta"):
        assert settings_for(SPACE, torch.empty(1000, device=device), (1000,), **KIND) == DEFAULT
    (message,) = caplog.messages
    assert reason in message
    assert "`fastconv tune` makes new ones" in message
    _tuned.keep(CPU, tuned(2))  # new ones take its place
    forget()
    assert settings() == Settings(warps=2)


@pytest.mark.parametrize("broken", [b"", b"too short", b"\xff" * 4000, b"0" * 64 + b"\n{}"])
def test_what_is_broken_is_left_alone_with_one_warning(broken, caplog):
    _tuned.keep(CPU, tuned(8))
    _tuned.path_of(GPU).write_bytes(broken)
    forget()
    assert settings() == settings() == DEFAULT
    (message,) = caplog.messages
    assert "is broken" in message


def write(kind):
    for i in range(20):
        _tuned.keep(CPU, tuned(8, Bucket("residual_add", kind, (2**i,))))


def test_two_processes_may_write_while_a_third_reads():
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write, args=(kind,)) for kind in ("one", "two")]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        _tuned.rows_in(_tuned.path_of(GPU), _tuned.head_of(GPU))
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(_tuned.rows_in(_tuned.path_of(GPU), _tuned.head_of(GPU))) == 40
    assert {path.suffix for path in _tuned.path_of(GPU).parent.iterdir()} == {".json", ".lock"}


def test_a_full_disk_is_told(a_gpu_in_name):
    (a_gpu_in_name / "tuned").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="tuned"):
        _tuned.keep(CPU, tuned(8))
    assert settings() == Settings(warps=8)  # in this process


of_products = test_triton_compiled_products
CALLS = [call[:2] for call in (test_triton_compiled.CALLS | of_products.CALLS).values()]
for dtype in (torch.bfloat16, torch.float32):  # where each limit of a tile is met
    x = nhwc(32, 24, 56, 56, dtype=dtype)
    for outputs in (24, 100):
        CALLS.append(("inverted_residual", of_products.inverted(x, 96, outputs)))
        CALLS.append(("separable_conv2d", of_products.separable(x, outputs, 3)))
    CALLS.append(("pointwise_conv2d", of_products.forward(x, 144)))


def launches_of(op, arguments, settings):
    with _tuned.trial(settings):
        return [
            (launch.kernel, launch.grid, launch.options)
            for sm in (80, 90)
            for launch in KERNELS[op].plan(*arguments, architecture=sm)
        ]


def test_every_candidate_changes_the_launches_of_some_call():
    unused = {
        (s.name, name, n) for s in SPACES.values() for name in s.others for n in s.others[name]
    }
    for op, arguments in CALLS:
        default = launches_of(op, arguments, {})
        for bucket in asked_by(KERNELS[op], arguments):
            space = SPACES[bucket.space]
            for name in space.others:
                for candidate in space.like(space.default, name):
                    if launches_of(op, arguments, {bucket: candidate}) != default:
                        unused.discard((space.name, name, getattr(candidate, name)))
    assert not unused


def test_the_settings_of_a_space_are_told_apart():
    for space in SPACES.values():
        assert isinstance(space, Space)
        for name in space.others:
            values = space.values(name)
            assert len(set(values)) == len(values), (space.name, name)


def test_what_ships_is_as_it_is_written_and_can_be_read():
    table = json.loads(_tuned.SHIPPED.read_text())
    assert as_json(table) == _tuned.SHIPPED.read_text()
    assert table["version"] == _tuned.VERSION
    assert all(_tuned.read(row) for row in table["rows"])


def test_what_was_tuned_becomes_what_ships(tmp_path, monkeypatch, capsys):
    other = "NVIDIA A100-SXM4-80GB"
    changed(Triton="3.6.0")  # the GPU is in another machine
    ship(tmp_path, monkeypatch, tuned(2))
    rows = json.loads(_tuned.SHIPPED.read_text())["rows"]
    _tuned.SHIPPED.write_text(as_json({"version": 1, "rows": [*rows, rows[0] | {"gpu": other}]}))
    monkeypatch.setattr("sys.argv", ["settings", str(_tuned.path_of(GPU)), "--write"])
    assert settings_command.main() == 0
    kept.write(_tuned.path_of(GPU), b"{}")
    forget()
    assert settings() == Settings(warps=8)
    monkeypatch.setattr(_tuned, "name_of", lambda device: other)
    forget()
    assert settings() == Settings(warps=2)


@pytest.mark.parametrize("changes", [{"kernel sources": "0" * 64}, {"version": 0}, row(space="a")])
def test_what_is_of_other_kernels_does_not_ship(changes, monkeypatch, capsys):
    changed(**changes)
    before = _tuned.SHIPPED.read_text()
    monkeypatch.setattr("sys.argv", ["settings", str(_tuned.path_of(GPU)), "--write"])
    assert settings_command.main() == 1
    assert capsys.readouterr().err
    assert _tuned.SHIPPED.read_text() == before
