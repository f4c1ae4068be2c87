"""Every network: the same numbers with our layers as with torch's, and what runs where.

Both are held against the network in float64: ours may be as far off as torch's own, with some
room, because a deep network with random weights amplifies any rounding.
"""

import copy
import gc
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

import fastconv
from fastconv import models, reference
from fastconv.peers.model import settle_batch_norms
from tests.helpers import channels_last, contiguous, threads
from tests.known_weights import described

CALLS = [(1, contiguous), (3, channels_last)]
CLASSES = 7
ROOM = 4
WINOGRADS_ROOM = 2 * ROOM  # its products round some two bits more a layer
# Float64, bfloat16 and capturing a network again take seconds each, and the others are made of
# these blocks.
ONE_OF_EACH_KIND = (
    *("alexnet_lrn", "vgg16_1x1", "googlenet_lrn", "resnet50"),
    *("mobilenet_v1", "mobilenet_v2", "efficientnet_b0", "efficientnet_lite0"),
)
# Deeper ones of a kind, whose capture takes 3 to 16 s each: swapped in one layout, not optimized.
DEEPER = {"resnet101", "resnet152", *(f"efficientnet_b{i}" for i in (1, 3, 4, 5, 6, 7))}
DEEPER |= {f"efficientnet_lite{i}" for i in (1, 2, 3)}
# Where two values are nearly equal, rounding decides which of them a ReLU or a max pool lets pass:
# a few of those moved the gradients by 1 %.
FLIPS = 0.05
FIRST = {models.AlexNet: "1", models.VGG: "0"}  # the first fully connected layer
WITH_A_CLASSIFIER = ("alexnet", "zfnet", "vgg")  # how the names of these begin


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Torch's float64 convolutions open a parallel region a channel: costly on a busy machine."""
    with threads(1):
        yield


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if not name.startswith(WITH_A_CLASSIFIER):
        return models.build(name, num_classes=CLASSES)
    # 100 million parameters that are torch's, and none of ours: not even drawn.
    with patch.object(nn.Linear, "reset_parameters"), patch.object(nn.init, "normal_"):
        model = models.build(name, num_classes=CLASSES)
    features = model.classifier.get_submodule(FIRST[type(model)]).in_features
    model.classifier = nn.Linear(features, CLASSES)
    return model


@pytest.fixture(scope="module", params=models.BUILDERS)
def network(request):
    model = build(request.param)
    settle_batch_norms(model, images_of(model, 4))
    yield model.eval()
    del model
    gc.collect()


def images_of(model: nn.Module, batch: int) -> Tensor:
    """The first of the images to which the batch norms were settled: on others a deep network with
    random weights is chaotic.
    """
    channels = model.input_size[0]
    side = max(model.least_size, 48) if model.least_size != model.input_size[1] else 32
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, channels, side, side, generator=generator)[:batch]


def is_ours(module: nn.Module) -> bool:
    """Whether a kernel of ours is there for this layer of plain torch."""
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels > 1
        return depthwise or (module.kernel_size == (1, 1) and module.groups == 1)
    return isinstance(module, nn.BatchNorm2d | nn.LocalResponseNorm | reference.ResidualAdd)


def results(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of a loss by image and parameters, all of them fresh."""
    images = images.detach().requires_grad_()
    model.zero_grad()
    output = model(images)
    (output.float() ** 2).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"output": output.detach(), "images": images.grad, **gradients}


def errors(found: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, float]:
    """For each tensor the norm of the difference over the norm of what is right."""
    assert found.keys() == right.keys()
    return {
        name: float((found[name].double() - tensor).norm() / tensor.norm().clamp_min(1e-30))
        for name, tensor in right.items()
    }


def worst(found: dict[str, float]) -> tuple[float, str]:
    return max((error, name) for name, error in found.items())


@pytest.mark.parametrize("network", ONE_OF_EACH_KIND, indirect=True, scope="module")
def test_swapped_in_float64(network):
    """No rounding to speak of, so every gradient must be the same in all its digits but a few."""
    images = images_of(network, 2).double()
    exact = copy.deepcopy(network).double()
    right = results(exact, images)
    for layout in (contiguous, channels_last):
        error, name = worst(errors(results(fastconv.swap_(exact), layout(images)), right))
        assert error < 1e-9, name


@pytest.mark.parametrize(
    ("network", "batch", "layout"),
    [(n, *call) for n in models.BUILDERS for call in CALLS[n in DEEPER :]],
    indirect=["network"],
    scope="module",
)
def test_swapped(network, batch, layout):
    images = layout(images_of(network, batch))
    plain = results(network, images)
    try:
        ours = results(fastconv.swap_(network), images)
    finally:
        fastconv.restore_(network)
    assert ours["output"].stride() == plain["output"].stride()
    wrong = [
        n for n, p in network.named_parameters() if n in ours and ours[n].stride() != p.stride()
    ]
    assert not wrong
    if any(is_ours(module) for module in network.modules()):
        exact = results(copy.deepcopy(network).double(), images.double())
        torchs, found = errors(plain, exact), errors(ours, exact)
        assert found["output"] <= max(ROOM * torchs["output"], 1e-5)
        assert worst(found)[0] <= max(ROOM * worst(torchs)[0], FLIPS), worst(found)
    else:
        assert all(torch.equal(ours[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize("network", ONE_OF_EACH_KIND, indirect=True, scope="module")
def test_swapped_in_bfloat16(network):
    images = channels_last(images_of(network, 3)).bfloat16()
    exact = results(copy.deepcopy(network).double(), images.double())
    half = copy.deepcopy(network).bfloat16()
    ours = errors(results(fastconv.swap_(half), images), exact)
    if any(isinstance(module, nn.LocalResponseNorm) for module in network.modules()):
        # torch has no bfloat16 norm on the CPU; each of some ten layers rounds to 8 bits.
        assert ours["output"] < 0.05
        return
    torchs = errors(results(fastconv.restore_(half), images), exact)
    assert ours["output"] <= max(ROOM * torchs["output"], 0.02)
    assert worst(ours)[0] <= max(ROOM * worst(torchs)[0], 0.1), worst(ours)


@pytest.mark.parametrize(
    "network", [n for n in models.BUILDERS if n not in DEEPER], indirect=True, scope="module"
)
def test_optimized(network):
    fast = fastconv.optimize(network, (images_of(network, 1),))
    exact_network = copy.deepcopy(network).double()
    for batch, layout in CALLS:
        images = layout(images_of(network, batch))
        with torch.no_grad():
            exact = {"output": exact_network(images.double())}
            plain = errors({"output": network(images)}, exact)
            ours = errors({"output": fast(images)}, exact)
        assert ours["output"] <= max(WINOGRADS_ROOM * plain["output"], 1e-5)


@pytest.mark.parametrize("network", ONE_OF_EACH_KIND, indirect=True, scope="module")
def test_optimized_in_bfloat16(network):
    images = images_of(network, 3)
    fast = fastconv.optimize(network, (images[:1].bfloat16(),), dtype=torch.bfloat16)
    with torch.no_grad():
        exact = {"output": copy.deepcopy(network).double()(images.double())}
        if any(isinstance(module, nn.LocalResponseNorm) for module in network.modules()):
            torchs = {"output": 0.0}  # torch has no bfloat16 norm on the CPU
        else:
            half = copy.deepcopy(network).bfloat16()
            torchs = errors({"output": half(images.bfloat16())}, exact)
        ours = errors({"output": fast(images)}, exact)
    assert ours["output"] <= max(ROOM * torchs["output"], 0.03)


@pytest.mark.parametrize("name", models.BUILDERS)
def test_built_of_our_layers(name):
    """The same modules under the same names, ours wherever there is one."""
    with torch.device("meta"):
        plain, ours = models.build(name), models.build(name, layers=fastconv.nn)
    assert described(ours) == described(plain)
    modules = dict(ours.named_modules())
    assert list(modules) == [module_name for module_name, _ in plain.named_modules()]
    for module_name, module in plain.named_modules():
        mine = type(modules[module_name]).__module__.startswith("fastconv.nn")
        kinds = nn.Conv2d | nn.BatchNorm2d | nn.LocalResponseNorm | reference.ResidualAdd
        assert mine == isinstance(module, kinds)
