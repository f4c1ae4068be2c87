"""NVRTC compiles the sources that nvcc and the emulator take, with no device."""

import logging
import resource
import sys

import pytest
import torch

from fastconv import _C, kept, nvrtc, ops
from tests.cuda.emulator import recorded
from tests.helpers import channels_last


def _depthwise(x, kernel, **window):
    weight = torch.zeros(x.shape[1], 1, kernel, kernel, dtype=x.dtype, requires_grad=True)
    ops.depthwise_conv2d(x, weight, **window).sum().backward()


def _w(*shape):
    return torch.zeros(shape if len(shape) == 4 else (*shape, 1, 1), dtype=torch.bfloat16)


# The op as a function of one image; each is compiled for the launches that it plans.
CALLS = {
    "local_response_norm": lambda x: ops.local_response_norm(x.contiguous(), 9),
    "local_response_norm, channels_last": lambda x: ops.local_response_norm(x, 3, beta=0.5),
    "depthwise_conv2d, any": lambda x: _depthwise(x, 4, stride=3, padding=2),
    "depthwise_conv2d, tiles": lambda x: _depthwise(
        channels_last(x.repeat(1, 4, 1, 1)), 4, stride=2, padding=1
    ),
    "depthwise_conv2d, both gradients": lambda x: _depthwise(
        channels_last(x.repeat(1, 4, 1, 1)), 4, padding="same"
    ),
    "depthwise_conv2d, both gradients of planes": lambda x: _depthwise(
        x.contiguous(), 5, padding=2
    ),
    "depthwise_conv2d, planes": lambda x: _depthwise(x.contiguous(), 6, padding=3),
    "depthwise_conv2d, window": lambda x: _depthwise(x.float(), 9, padding=4),
    "depthwise_conv2d, band": lambda x: _depthwise(x, 9, padding=4),
    "inverted_residual": lambda x: ops.inverted_residual(
        x, _w(16, 8), None, _w(16, 1, 5, 5), None, _w(8, 16), None, 1, 2, "silu", True
    ),
    "pointwise_conv2d": lambda x: ops.pointwise_conv2d(x, _w(5, 8), activation="silu"),
    "pointwise_conv2d, splits": lambda x: ops.pointwise_conv2d(
        x.repeat(1, 100, 1, 1), _w(5, 800), activation="silu"
    ),
    "pointwise_conv2d, gradients": lambda x: torch.ops.fastconv.pointwise_conv2d_backward(
        x[:, :5, ::2], x, _w(5, 8), (2, 1), (True, True, True)
    ),
    "residual_add": lambda x: ops.residual_add(x, x, "silu"),
    "residual_add, shortcut": lambda x: ops.residual_add(x, x[:, :3]),
}
DEVICE = _C.gpu.Device(architecture=90, compiles=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path))
    kept.warn_once.cache_clear()
    return tmp_path / "nvrtc"


@pytest.mark.parametrize("call", CALLS)
def test_compiles_every_planned_launch(call):
    with recorded(DEVICE) as launches:
        CALLS[call](channels_last(torch.zeros(2, 8, 9, 7, dtype=torch.bfloat16)).requires_grad_())
    assert launches
    for launch in launches:
        symbol, cubin = nvrtc.compile_cubin(launch.op, launch.expression, "sm_90")
        assert launch.kernel in symbol
        assert cubin[:4] == b"\x7fELF"


ADD = ("residual_add", "fastconv::cuda::residual_add_shortcut<0>", "sm_80")


def test_keeps_what_it_compiled(cache, monkeypatch):
    first = nvrtc.compile_cubin(*ADD)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(nvrtc, "STANDARD_HEADERS", {"cstdint": "#error compiled again"})
    assert nvrtc.compile_cubin(*ADD) == first


@pytest.mark.parametrize("broken", [b"", b"too short", b"x" * 4000])
def test_compiles_again_what_is_broken_on_disk(broken, cache, caplog):
    first = nvrtc.compile_cubin(*ADD)
    (file,) = cache.iterdir()
    file.write_bytes(broken)
    with caplog.at_level(logging.WARNING, "fastconv"):
        assert nvrtc.compile_cubin(*ADD)[0] == first[0]
    assert "is broken" in caplog.text
    assert len(file.read_bytes()) > 4000


def test_goes_on_without_a_folder_to_write_to(cache, monkeypatch, caplog):
    cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "fastconv"):
        nvrtc.compile_cubin(*ADD)
        nvrtc.compile_cubin(*ADD)
    assert caplog.text.count("are not kept") == 1


def test_goes_on_where_the_disk_is_full(cache, monkeypatch, caplog):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with caplog.at_level(logging.WARNING, "fastconv"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))  # of a file: writing it fails
        try:
            symbol, cubin = nvrtc.compile_cubin(*ADD)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(cubin) > 2000
    assert caplog.text.count("are not kept") == 1
    assert not list(cache.iterdir()), "half a file was left"
    assert nvrtc.compile_cubin(*ADD)[0] == symbol


def test_says_what_the_compiler_refuses():
    with pytest.raises(RuntimeError, match="cannot compile fastconv::cuda::no_such<1>"):
        nvrtc.compile_cubin("residual_add", "fastconv::cuda::no_such<1>", "sm_90")


def test_says_how_to_get_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    with pytest.raises(RuntimeError, match="pip install cupy-cuda13x"):
        nvrtc.compile_cubin(*ADD)


def test_a_launch_says_how_to_get_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    with pytest.raises(RuntimeError, match="pip install cupy-cuda13x"):
        nvrtc.load(_planned_addition(), 0)


@pytest.mark.parametrize("error", [35, 222, 700])
def test_a_driver_that_is_too_old_is_named_with_what_mends_it(error, monkeypatch):
    """35: what CuPy's runtime says where there is no driver at all, too."""
    import cupy

    class Refused(cupy.cuda.driver.CUDADriverError):
        def __init__(self, status):  # CuPy's own asks the driver for its words
            self.status = status

    class Module:
        def load(self, cubin):
            raise Refused(error)

    class Device:
        compute_capability = "90"

        def __init__(self, index):
            if error == 35:
                raise cupy.cuda.runtime.CUDARuntimeError(error)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(cupy.cuda, "Device", Device)
    monkeypatch.setattr(cupy.cuda.function, "Module", Module)
    old = r"driver is too old for the kernels that NVRTC 13\.\d compiles .*: update it"
    raised, words = (Refused, None) if error == 700 else (RuntimeError, old)
    with pytest.raises(raised, match=words):
        nvrtc.load(_planned_addition(), 0)


def _planned_addition():
    with recorded(DEVICE) as launches:
        ops.residual_add(torch.zeros(4), torch.zeros(4))
    return launches[0]
