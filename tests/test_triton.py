"""The Triton kernels: run by Triton's interpreter, registered as the other kernels are, packaged.

The interpreter wants a process of its own, for a process compiles every kernel or none.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton
from setuptools import find_packages
from torch._functorch.aot_autograd import aot_function
from torch._subclasses import FakeTensorMode
from triton.backends.compiler import GPUTarget

import fastconv
from fastconv.triton_kernels import KERNELS
from fastconv.triton_kernels._tuned import SHIPPED

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "tests" / "triton").glob("test_*.py"))
# The longest have a process of their own; the others share one, for each starts torch and Triton.
LONG = [[path] for path in FILES if path.stem in ("test_depthwise_conv2d", "test_search")]
SHORT = [path for path in FILES if [path] not in LONG]


@pytest.mark.parametrize("files", [*LONG, SHORT], ids=["depthwise_conv2d", "search", "others"])
def test_interpreted(files):
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, files)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", KERNELS)
def test_arguments_are_those_of_the_op(name):
    ours = KERNELS[name].op._schema
    assert ours.name == f"fastconv_triton::{name}"
    if not hasattr(torch.ops.fastconv, name):
        return  # a kernel beside the ops
    op = getattr(torch.ops.fastconv, name).default._schema
    assert [(a.name, str(a.type)) for a in ours.arguments] == [
        (a.name, str(a.type)) for a in op.arguments
    ]
    assert [str(r.type) for r in ours.returns] == [str(r.type) for r in op.returns]


@pytest.fixture
def a_gpu_in_name(monkeypatch):
    """Torch asks Triton for the GPU to find out which arguments a kernel writes to."""
    named = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))
    monkeypatch.setattr(triton.runtime.driver, "_active", named)


X, WINDOW = (2, 8, 9, 7), ((1, 1), (1, 1, 1, 1), (1, 1))


@pytest.mark.usefixtures("a_gpu_in_name")
@pytest.mark.parametrize(
    ("name", "shapes", "rest"),
    [
        ("residual_add", (X, X), ("relu",)),
        ("depthwise_conv2d", (X, (8, 1, 3, 3), (8,)), (*WINDOW, "silu")),
        ("depthwise_conv2d_backward", (X, X, (8, 1, 3, 3)), WINDOW),
        ("depthwise_conv2d_backward_weight", (X, X, (8, 1, 3, 3)), WINDOW),
        ("local_response_norm_backward", (X, X), (5,)),
        ("local_response_norm_backward", (X, X), (11,)),
    ],
)
def test_torch_compile_sees_into_the_op(name, shapes, rest):
    seen = []

    def compiler(graph, _inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    with FakeTensorMode():
        tensors = [torch.empty(shape, device="cuda") for shape in shapes]
        aot_function(lambda *tensors: KERNELS[name].op(*tensors, *rest), compiler)(*tensors)
    assert any("triton_kernel_wrapper" in target for target in seen), seen


def test_other_dtypes_are_refused_with_the_reason():
    x = torch.ones(2, dtype=torch.float64)
    for kernel in KERNELS.values():
        assert kernel.refusal(x) == "no Triton kernel for torch.float64"
    assert KERNELS["residual_add"].refusal(x.half(), x.half(), "relu") == ""


def test_kernels_are_installed_with_the_package():
    assert Path(fastconv.__file__).with_name("triton_kernels").is_dir()
    assert "fastconv.triton_kernels" in find_packages(str(ROOT), include=["fastconv.*"])
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = [Path(fastconv.__file__).parent.glob(p) for p in setuptools["package-data"]["fastconv"]]
    assert SHIPPED.name in {path.name for found in files for path in found}
