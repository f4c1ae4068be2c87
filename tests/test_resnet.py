import math

import pytest
import torch
from torch import nn

import fastconv
from fastconv import models, reference
from fastconv.models.resnet import REPEATS, BasicBlock, Bottleneck
from tests.known_weights import fill

LAYERS = pytest.mark.parametrize("layers", [torch.nn, fastconv.nn], ids=["torch", "fastconv"])
BLOCKS = pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
DEPTHS = pytest.mark.parametrize("depth", REPEATS)


def silenced(block):
    """The block with all its weights and biases zero."""
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    return block


def on_meta(name, **options):
    with torch.device("meta"):
        return models.build(name, **options)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@DEPTHS
def test_layers_on_the_longest_path_are_the_depth(depth):
    model = on_meta(f"resnet{depth}", shortcut="zero_padding")
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()) == depth


@pytest.mark.parametrize(
    ("name", "changing", "equal"),
    [
        ("resnet18", [(64, 128), (128, 256), (256, 512)], {64: 2, 128: 1, 256: 1, 512: 1}),
        (
            "resnet50",
            [(64, 256), (256, 512), (512, 1024), (1024, 2048)],
            {256: 2, 512: 3, 1024: 5, 2048: 2},
        ),
    ],
)
def test_parameters_of_each_shortcut(name, changing, equal):
    """A projection from n to m channels has n m weights and a norm of 2 m."""
    with_projections = parameters(on_meta(name))
    removed = sum(n * m + 2 * m for n, m in changing)
    added = sum(blocks * (n * n + 2 * n) for n, blocks in equal.items())
    assert parameters(on_meta(name, shortcut="zero_padding")) == with_projections - removed
    assert parameters(on_meta(name, shortcut="all_projection")) == with_projections + added


@LAYERS
@BLOCKS
@pytest.mark.parametrize("train", [True, False])
def test_a_block_without_weights_is_the_identity(block, layers, train):
    channels = 16
    made = silenced(block(channels, channels // block.expansion, layers=layers)).train(train)
    input = torch.randn(2, channels, 5, 6)
    with torch.no_grad():
        assert torch.equal(made(input.relu()), input.relu())
        assert torch.equal(made(input), input.relu())  # a[l+2] = relu(a[l])


@LAYERS
@BLOCKS
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 8), (8, 5)])
def test_zero_padding_is_every_second_pixel_and_zeros(block, layers, size):
    made = silenced(block(3, 8, 2, "zero_padding", layers=layers))
    input = torch.rand(2, 3, *size)
    with torch.no_grad():
        output = made(input)
    assert output.shape[1] == 8 * block.expansion
    assert torch.equal(output[:, :3], input[:, :, ::2, ::2])
    assert output[:, 3:].eq(0).all()


@BLOCKS
def test_projection_is_a_strided_1x1_convolution_and_norm(block):
    made = fill(block(6, 4, 2, "projection")).eval()
    weight = made.downsample[0].weight
    assert weight.shape == (4 * block.expansion, 6, 1, 1)
    for name in ("conv1", "conv2", "conv3"):
        if hasattr(made, name):
            nn.init.zeros_(getattr(made, name).weight)
    for norm in (m for m in made.children() if isinstance(m, nn.BatchNorm2d)):
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    input = torch.randn(2, 6, 5, 7)
    norm = made.downsample[1]
    projected = torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], input[:, :, ::2, ::2])
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    expected = (projected * scale[:, None, None] + shift[:, None, None]).relu()
    torch.testing.assert_close(made(input), expected)


@BLOCKS
def test_identity_needs_equal_shapes(block):
    with pytest.raises(ValueError, match="needs equal shapes, got 8 to 16 channels at stride 1"):
        block(8, 16 // block.expansion)
    with pytest.raises(ValueError, match="needs equal shapes, got 16 to 16 channels at stride 2"):
        block(16, 16 // block.expansion, 2)
    with pytest.raises(ValueError, match="'zero_padding' adds channels, got 16 to 8"):
        block(16, 8 // block.expansion, shortcut="zero_padding")
    with pytest.raises(ValueError, match=r"shortcut must be .* got 'none'"):
        block(16, 16, shortcut="none")


def test_options_are_checked():
    with pytest.raises(ValueError, match="zero_padding, projection, all_projection, got 'A'"):
        models.resnet18(shortcut="A")
    with pytest.raises(ValueError, match="stride_in must be '3x3' or '1x1', got 3"):
        on_meta("resnet50", stride_in=3)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        models.resnet18(0)


def test_the_stride_can_be_in_the_first_1x1():
    """Same keys and shapes, other pixels read."""
    image = torch.randn(1, 3, 40, 40)
    outputs = []
    for stride_in, (first, second) in {"3x3": (1, 2), "1x1": (2, 1)}.items():
        model = fill(on_meta("resnet50", stride_in=stride_in).to_empty(device="cpu")).eval()
        block = model.layer2[0]
        assert (block.conv1.stride[0], block.conv2.stride[0]) == (first, second)
        assert block.conv1.kernel_size == (1, 1)
        assert block.conv2.kernel_size == (3, 3)
        with torch.inference_mode():
            outputs.append(model(image))
    assert (outputs[0] - outputs[1]).abs().max() > 0.1 * outputs[0].abs().max()


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_residual_makes_every_block_its_shortcut(depth):
    model = models.build(f"resnet{depth}", zero_init_residual=True).eval()
    blocks = [block for block in model.modules() if isinstance(block, BasicBlock | Bottleneck)]
    assert len(blocks) == sum(REPEATS[depth])
    for block in blocks:
        channels = block.conv1.in_channels
        input = torch.rand(1, channels, 4, 4)
        with torch.inference_mode():
            assert torch.equal(block(input), block.downsample(input).relu())
        if isinstance(block.downsample, nn.Sequential):
            assert block.downsample[1].weight.eq(1).all()


@LAYERS
@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 3, 33, 50), (1, 3, 1, 1), (0, 3, 32, 32)])
def test_output_shape(shape, layers):
    model = models.resnet18(7, layers=layers).eval()
    with torch.inference_mode():
        assert model(torch.zeros(shape)).shape == (shape[0], 7)


@pytest.mark.parametrize("shortcut", ["zero_padding", "projection", "all_projection"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_both_layers_are_equal_forward_and_backward(name, shortcut):
    images, labels = torch.randn(3, 3, 40, 48), torch.tensor([0, 1, 2])
    results = []
    for layers in (torch.nn, fastconv.nn):
        torch.manual_seed(1)
        model = models.build(name, num_classes=4, shortcut=shortcut, layers=layers).double()
        loss = nn.functional.cross_entropy(model(images.double()), labels)
        loss.backward()
        results.append([loss.detach(), model.conv1.weight.grad, model.fc.weight.grad])
    torch.testing.assert_close(results[0], results[1])


def test_layers_come_from_the_namespace_given():
    plain, fast = on_meta("resnet50"), on_meta("resnet50", layers=fastconv.nn)
    assert list(plain.state_dict()) == list(fast.state_dict())
    for model, conv, add in [
        (plain, nn.Conv2d, reference.ResidualAdd),
        (fast, fastconv.nn.Conv2d, fastconv.nn.ResidualAdd),
    ]:
        convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        adds = [layer for layer in model.modules() if isinstance(layer, reference.ResidualAdd)]
        assert (len(convs), len(adds)) == (53, 16)
        assert {type(layer) for layer in convs} == {conv}
        assert {type(layer) for layer in adds} == {add}


def test_swap_and_optimize_keep_the_output():
    model = fill(models.resnet18(10, shortcut="zero_padding")).eval()
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        expected = model(images)
        fast = fastconv.optimize(model, (images,))
        tolerance = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(fast(images), expected, atol=tolerance, rtol=0)
        fastconv.swap_(model)
        torch.testing.assert_close(model(images), expected, atol=tolerance, rtol=0)


def test_one_step_of_sgd_lowers_the_loss():
    model = models.resnet18(4)
    images, labels = torch.randn(8, 3, 48, 48), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    before = nn.functional.cross_entropy(model(images), labels)
    assert abs(before - math.log(4)) < 0.8
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    assert nn.functional.cross_entropy(model(images), labels) < before


@pytest.mark.parametrize("shortcut", ["projection", "zero_padding"])
def test_least_size_is_exact(shortcut):
    model = models.resnet18(2, shortcut=shortcut).eval()
    least = model.least_size
    with torch.inference_mode():
        for size in [(least, least), (least, 64), (64, least)]:
            assert model(torch.zeros(1, 3, *size)).shape == (1, 2)
        small = torch.zeros(1, 3, least - 1, 64)
        with pytest.raises(RuntimeError, match=f"ResNet: .* at least {least}x{least} pixels"):
            model(small)
        model.least_size = 0
        with pytest.raises(RuntimeError, match=r"residual_add|Kernel size"):
            model(small)


def test_an_image_without_a_batch_is_refused():
    with pytest.raises(RuntimeError, match=r"expected \(N, C, H, W\), got shape \(3, 64, 64\)"):
        models.resnet18(2)(torch.zeros(3, 64, 64))
