"""Every network: the same numbers with our layers as with torch's, and what runs where.

Both are held against the network in float64: ours may be as far off as torch's own, with some
room, because a deep network with random weights amplifies any rounding.
"""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn

import fastconv
from fastconv import models, reference
from fastconv.peers.model import settle_batch_norms
from tests.helpers import channels_last, contiguous

CALLS = [(1, contiguous), (3, channels_last)]
CLASSES = 7
ROOM = 4


@pytest.fixture(scope="module", params=models.BUILDERS)
def network(request):
    torch.manual_seed(0)
    model = models.build(request.param, num_classes=CLASSES)
    settle_batch_norms(model, images_of(model, 1).shape[1:])
    yield model.eval()
    del model
    gc.collect()


def images_of(model: nn.Module, batch: int) -> Tensor:
    channels = model.input_size[0]
    side = max(model.least_size, 48) if model.least_size != model.input_size[1] else 32
    return torch.randn(batch, channels, side, side)


def is_ours(module: nn.Module) -> bool:
    """Whether a kernel of ours is there for this layer of plain torch."""
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels > 1
        return depthwise or (module.kernel_size == (1, 1) and module.groups == 1)
    return isinstance(module, nn.LocalResponseNorm | reference.ResidualAdd)


def results(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of a loss by image and parameters, all of them fresh."""
    images = images.detach().requires_grad_()
    model.zero_grad()
    output = model(images)
    (output.float() ** 2).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = {"output": output.detach(), "images": images.grad, **gradients}
    model.zero_grad()
    return found


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """For each tensor the norm of what is wrong over the norm of what is right."""
    assert found.keys() == exact.keys()
    return {
        name: float((found[name].double() - right).norm() / right.norm().clamp_min(1e-30))
        for name, right in exact.items()
    }


def assert_as_good(ours: dict[str, float], torchs: dict[str, float], least: float) -> None:
    """least is an error that is right however exact torch is."""
    for name, error in ours.items():
        assert error <= max(ROOM * torchs[name], least), (
            f"{name}: {error:.2g}, torch {torchs[name]:.2g}"
        )


@pytest.mark.parametrize(("batch", "layout"), CALLS)
def test_swapped(network, batch, layout):
    images = layout(images_of(network, batch))
    plain = results(network, images)
    fastconv.swap_(network)
    try:
        ours = results(network, images)
        assert ours["output"].stride() == plain["output"].stride()
        for name, p in network.named_parameters():
            if name in ours:
                assert ours[name].stride() == p.stride(), name
    finally:
        fastconv.restore_(network)
    if not any(is_ours(module) for module in network.modules()):
        assert all(torch.equal(ours[name], plain[name]) for name in plain)
        return
    exact = results(copy.deepcopy(network).double(), images.double())
    assert_as_good(errors(ours, exact), errors(plain, exact), least=1e-5)


def test_swapped_in_bfloat16(network):
    images = channels_last(images_of(network, 3))
    exact = results(copy.deepcopy(network).double(), images.bfloat16().double())
    half = copy.deepcopy(network).bfloat16()
    ours = errors(results(fastconv.swap_(half), images.bfloat16()), exact)
    if any(isinstance(module, nn.LocalResponseNorm) for module in network.modules()):
        # torch has no bfloat16 norm on the CPU; each of some 10 layers rounds to 8 bits.
        assert ours["output"] < 0.05
        return
    fastconv.restore_(half)
    assert_as_good(ours, errors(results(half, images.bfloat16()), exact), least=0.02)


def test_optimized(network):
    fast = fastconv.optimize(network, (images_of(network, 1),))
    exact_network = copy.deepcopy(network).double()
    for batch, layout in CALLS:
        images = layout(images_of(network, batch))
        with torch.no_grad():
            exact = {"output": exact_network(images.double())}
            plain = errors({"output": network(images)}, exact)
            ours = errors({"output": fast(images)}, exact)
        assert_as_good(ours, plain, least=1e-5)
