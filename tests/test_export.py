"""Swapped and optimized networks by torch.export: saved, loaded, and compiled ahead of time."""

import io

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fastconv
from tests.small_network import images, plain_and_swapped


class Both(nn.Module):
    """A swapped network and an optimized one, and what they should give."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.swapped = plain_and_swapped()
        self.optimized = fastconv.optimize(self.plain, (images(),))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.plain(x), self.swapped(x), self.optimized(x)


@pytest.fixture
def program() -> torch.export.ExportedProgram:
    """Of any batch."""
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(Both(), (images(),), dynamic_shapes={"x": {0: batch}})


def check(run: nn.Module) -> None:
    for batch in (4, 2, 40):
        plain, *others = run(images(batch))
        for other in others:
            assert_close(other, plain)


def test_our_ops_are_in_the_program(program):
    called = {str(node.target) for node in program.graph.nodes}
    names = ("batch_norm", "depthwise_conv2d", "local_response_norm", "residual_add")
    assert called >= {f"fastconv.{name}.default" for name in (*names, "separable_conv2d")}
    check(program.module())


@pytest.mark.filterwarnings("ignore:No complete tensor found")  # torch's, of any packed weight
def test_saved_and_loaded(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    check(torch.export.load(file).module())


def test_compiled_ahead_of_time(program, tmp_path):
    path = str(tmp_path / "network.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=path)
    check(torch._inductor.aoti_load_package(path))
