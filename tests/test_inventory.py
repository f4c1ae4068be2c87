"""Which layers of every network run on our kernels, why the others do not, and what share that is.

explain's rows of a swapped network are held against its plain layers, in the order they run.
"""

import gc
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import fastconv
from fastconv import models, reference
from fastconv.inventory import inventory
from tests.helpers import channels_last

# Layers by the op that runs them, batch norms left out: networks everyone knows, counted by hand.
COUNTS = {
    "lenet5": {"torch": 2},
    "alexnet": {"torch": 5},
    "alexnet_lrn": {"torch": 5, "local_response_norm": 2},
    "vgg11_lrn": {"torch": 8, "local_response_norm": 1},
    "vgg16": {"torch": 13},
    "vgg16_1x1": {"torch": 10, "pointwise_conv2d": 3},
    # 9 modules of 4 1x1, a 3x3 and a 5x5 (torchvision's: 3x3); 7x7, 1x1 and 3x3 before them.
    "googlenet": {"torch": 9 * 2 + 2, "pointwise_conv2d": 9 * 4 + 1},
    "googlenet_lrn": {"torch": 20, "pointwise_conv2d": 37, "local_response_norm": 2},
    # 8 blocks of two 3x3, the 7x7 before, 3 projections.
    "resnet18": {"torch": 8 * 2 + 1, "pointwise_conv2d": 3, "residual_add": 8},
    # 16 blocks of 1x1, 3x3, 1x1; 4 projections.
    "resnet50": {"torch": 16 + 1, "pointwise_conv2d": 16 * 2 + 4, "residual_add": 16},
    "resnet152": {"torch": 50 + 1, "pointwise_conv2d": 50 * 2 + 4, "residual_add": 50},
    "mobilenet_v1": {"torch": 1, "depthwise_conv2d": 13, "pointwise_conv2d": 13},
    # 17 blocks, of which the first does not expand; the head.
    "mobilenet_v2": {"torch": 1, "depthwise_conv2d": 17, "pointwise_conv2d": 16 + 17 + 1},
    # 16 blocks, of which the first does not expand; two 1x1 in each squeeze and excitation.
    "efficientnet_b0": {"torch": 1, "depthwise_conv2d": 16, "pointwise_conv2d": 15 + 16 + 32 + 1},
    "efficientnet_lite0": {"torch": 1, "depthwise_conv2d": 16, "pointwise_conv2d": 15 + 16 + 1},
}


@pytest.fixture(params=models.BUILDERS)
def network(request) -> Iterator[nn.Module]:
    """The plain network, its weights zero: what runs where is a matter of shapes."""
    with torch.device("meta"):
        model = models.build(request.param, num_classes=2)
    model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    yield model
    del model, tensor
    gc.collect()


def expected(module: nn.Module) -> tuple[str, str] | None:
    """The op that serves a layer of plain torch once swapped, "torch" with the reason, or None."""
    if isinstance(module, nn.BatchNorm2d):
        return "batch_norm", ""
    if isinstance(module, nn.LocalResponseNorm):
        return "local_response_norm", ""
    if isinstance(module, reference.ResidualAdd):
        return "residual_add", ""
    if not isinstance(module, nn.Conv2d):
        return None
    window = "x".join(map(str, module.kernel_size))
    if module.groups == module.in_channels > 1:
        return "depthwise_conv2d", ""
    if module.groups > 1:
        return "torch", f"{module.groups} groups, {window}: neither depthwise nor 1x1"
    if window == "1x1":
        return "pointwise_conv2d", ""
    return "torch", f"dense {window}: "


def test_each_layer_runs_where_its_shape_says(network, request):
    wanted: list[tuple[str, str]] = []
    for module in network.modules():
        if row := expected(module):
            # Hooks outlive swap_; a layer that does not run, as an auxiliary head, calls none.
            module.register_forward_hook(lambda *_, row=row: wanted.append(row))
    channels, side = network.input_size[0], network.least_size
    images = channels_last(torch.zeros(1, channels, side, side))
    rows = fastconv.explain(fastconv.swap_(network), images)

    variants = {(op, name, when) for op, name, when, _ in fastconv._C.variants()}
    for row, (server, reason) in zip(rows, wanted, strict=True):
        if server == "torch":
            assert row["backend"] == "torch"
            assert row["reason"].startswith(reason)
        else:
            assert row["op"] == server
            assert row["backend"] == f"cpu ({fastconv._C.isa()})"
            assert (server, row["variant"], row["reason"]) in variants

    name = request.node.callspec.params["network"]
    if name in COUNTS:
        ops = (row["backend"] if row["backend"] == "torch" else row["op"] for row in rows)
        assert Counter(op for op in ops if op != "batch_norm") == COUNTS[name]


def test_the_networks_counted_by_hand_are_there():
    assert COUNTS.keys() <= models.BUILDERS.keys()


STEM = 3 * 3 * 3 * 32 * 112 * 112  # the dense 3x3 of both MobileNets
STEM_RESNET = 7 * 7 * 3 * 64 * 112 * 112
# The 3x3 of a block costs the same on all four stages: half the pixels a side, twice the channels.
MIDDLE_RESNET = 3 * 3 * 64 * 64 * 56 * 56


@pytest.mark.parametrize(
    ("name", "of_torch"),
    [
        ("mobilenet_v1", STEM + 1024 * 1000),
        ("mobilenet_v2", STEM + 1280 * 1000),
        ("resnet50", STEM_RESNET + 16 * MIDDLE_RESNET + 2048 * 1000),
    ],
)
def test_share_is_what_torchs_layers_leave(name, of_torch):
    """By hand: the dense convolutions and the classifier are torch's, all else is ours."""
    (entry,) = inventory([name])
    assert entry.share == pytest.approx(1 - of_torch / entry.multiplications, abs=1e-12)


def test_share_of_known_networks():
    names = ["lenet5", "alexnet", "vgg16", "vgg16_1x1", "resnet50", "googlenet", "mobilenet_v1"]
    entries = inventory(names)
    assert [entry.name for entry in entries] == names
    shares = {entry.name: entry.share for entry in entries}
    assert shares["lenet5"] == shares["alexnet"] == shares["vgg16"] == 0
    assert 0 < shares["vgg16_1x1"] < shares["googlenet"] < shares["resnet50"] < 0.6
    assert 0.97 < shares["mobilenet_v1"] < 0.99
    by_name = {entry.name: entry for entry in entries}
    assert by_name["lenet5"].input_shape == (1, 1, 32, 32)
    assert by_name["lenet5"].parameters == 61_706
    assert by_name["resnet50"].parameters == 25_557_032


def test_progress_is_told_and_names_may_be_an_iterator():
    told = []
    inventory(iter(["lenet5", "mobilenet_v1"]), lambda name, done: told.append((name, done)))
    assert told == [("lenet5", 0), ("mobilenet_v1", 0.5)]


def test_unknown_network():
    with pytest.raises(ValueError, match="unknown network 'lenet6': did you mean lenet5"):
        inventory(["lenet6"])
