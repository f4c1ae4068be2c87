"""Large results of training steps lie in memory that is kept from step to step."""

import os

import pytest
import torch
from torch import Tensor, nn

import fastconv
from fastconv import _C

SHAPE = (2, 32, 112, 112)  # 3 MiB
BYTES = 4 * 2 * 32 * 112 * 112

pytestmark = pytest.mark.skipif(os.name == "nt" or os.uname().sysname != "Linux", reason="Linux")


@pytest.fixture(autouse=True)
def nothing_kept():
    fastconv.release_memory()
    yield
    fastconv.release_memory()


def network() -> nn.Module:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
    return nn.Sequential(
        depthwise, nn.BatchNorm2d(32), nn.ReLU6(), nn.Conv2d(32, 32, 1, bias=False)
    )


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(SHAPE, dtype=dtype).to(memory_format=torch.channels_last)


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    output = model(x)
    output.square().mean().backward()
    of_all = [tensor.grad for tensor in (x, *model.parameters())]
    return [output.detach().clone(), *(grad.clone() for grad in of_all if grad is not None)]


def test_steps_reuse_memory_and_give_the_same_bits():
    model = fastconv.swap_(network())
    used = _C.kept_bytes()[0]
    steps = []
    for _ in range(4):
        model.zero_grad()
        steps.append((gradients(model, images()), _C.kept_bytes()))
    exact = network().double()
    expected = gradients(exact, images().double())
    for found, kept in steps:
        for a, b, first in zip(found, expected, steps[0][0], strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)
            assert torch.equal(a, first)
        assert kept[0] == used  # all was given back
        assert kept == steps[1][1]
    assert steps[0][1][1] >= 3 * BYTES  # three outputs at least were held at once


def test_memory_in_use_is_not_handed_out_twice():
    x = images().requires_grad_()
    weight = torch.randn(32, 1, 3, 3)
    held = [fastconv.ops.depthwise_conv2d(x, weight * i, None, 1, 1) for i in range(4)]
    fastconv.release_memory()
    held += [fastconv.ops.depthwise_conv2d(x, weight * i, None, 1, 1) for i in range(4)]
    assert len({y.data_ptr() for y in held}) == 8
    for i in range(4):
        assert torch.equal(held[i], held[i + 4])
        expected = nn.functional.conv2d(x, weight * i, padding=1, groups=32)
        torch.testing.assert_close(held[i], expected, rtol=1e-4, atol=1e-4)


def test_what_waits_is_bounded_and_released():
    in_use, _, _ = _C.kept_bytes()
    weight = torch.randn(32, 1, 3, 3)
    for batch in range(2, 12):  # each size is another
        x = torch.randn(batch, *SHAPE[1:]).requires_grad_()
        fastconv.ops.depthwise_conv2d(x, weight, None, 1, 1).sum().backward()
        now, kept, most = _C.kept_bytes()
        assert now + kept <= most * 5 // 4
    assert now - in_use >= x.nbytes  # the gradient that x holds
    assert kept > 0
    fastconv.release_memory()
    assert _C.kept_bytes() == (now, 0, most)
    del x
    assert _C.kept_bytes()[0] == in_use


def test_inference_and_small_results_take_torchs_memory():
    model = fastconv.swap_(network())
    before = _C.kept_bytes()
    with torch.no_grad():
        model.eval()(images())
    gradients(model.train(), images()[:, :, :8, :8].contiguous(memory_format=torch.channels_last))
    assert _C.kept_bytes() == before


def test_results_are_tensors_like_others():
    x = images().requires_grad_()
    y = fastconv.ops.depthwise_conv2d(x, torch.randn(32, 1, 3, 3), None, 1, 1)
    values = y.detach().clone()
    shared = y.detach().share_memory_()
    assert shared.is_shared()
    assert torch.equal(shared, values)
    view = fastconv.ops.depthwise_conv2d(x, torch.ones(32, 1, 3, 3), None, 1, 1)[1:, :, 2:]
    sums = view.detach().clone()
    fastconv.release_memory()
    assert torch.equal(view, sums)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_trains_on_a_copy():
    x = images().requires_grad_()
    weight = torch.randn(32, 1, 3, 3)
    fastconv.ops.depthwise_conv2d(x, weight, None, 1, 1).sum().backward()
    expected, x.grad = x.grad, None
    child = os.fork()
    if child == 0:
        fastconv.ops.depthwise_conv2d(x, weight, None, 1, 1).sum().backward()
        os._exit(0 if torch.equal(x.grad, expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    fastconv.ops.depthwise_conv2d(x, weight, None, 1, 1).sum().backward()
    assert torch.equal(x.grad, expected)
