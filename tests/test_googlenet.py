import math

import pytest
import torch
from torch import nn

import fastconv
from fastconv import models
from fastconv.models.googlenet import INCEPTIONS, GoogLeNetOutputs
from tests.known_weights import fill

LAYERS = pytest.mark.parametrize("layers", [torch.nn, fastconv.nn], ids=["torch", "fastconv"])
BOTH = pytest.mark.parametrize("name", ["googlenet", "googlenet_lrn"])
WIDTHS = INCEPTIONS["3a"]


def on_meta(name, **options):
    with torch.device("meta"):
        return models.build(name, **options)


def known(name, **options):
    return fill(on_meta(name, **options).to_empty(device="cpu")).eval()


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def convolution(inputs, outputs, size):
    return inputs * outputs * size**2 + outputs


def test_output_channels_are_those_of_table_1():
    model = on_meta("googlenet")
    channels = [model.get_submodule(f"inception{name}").out_channels for name in INCEPTIONS]
    assert channels == [256, 480, 512, 512, 512, 528, 832, 832, 1024]


@pytest.mark.parametrize(
    ("name", "with_heads", "without"),
    [("googlenet", 13_004_888, 6_624_904), ("googlenet_lrn", 13_378_280, 6_998_552)],
)
def test_parameters(name, with_heads, without):
    assert parameters(on_meta(name)) == with_heads
    assert parameters(on_meta(name, aux_logits=False)) == without


def test_parameters_of_a_module_are_table_1s():
    """The paper counts 159 K in 3a."""
    a, b, c, d, e, f = WIDTHS
    expected = convolution(192, a, 1) + convolution(192, b, 1) + convolution(b, c, 3)
    expected += convolution(192, d, 1) + convolution(d, e, 5) + convolution(192, f, 1)
    assert parameters(models.Inception(192, *WIDTHS)) == expected
    assert expected // 1024 == 159


def test_inception_is_four_branches_side_by_side():
    module = fill(models.Inception(6, 1, 2, 3, 4, 5, 7))
    input = torch.randn(2, 6, 8, 9)

    def conv(name, x):
        layer = module.get_submodule(name).conv
        return nn.functional.conv2d(x, layer.weight, layer.bias, padding="same").relu()

    pooled = nn.functional.max_pool2d(input, 3, 1, 1)
    expected = [
        conv("branch1", input),
        conv("branch2.1", conv("branch2.0", input)),
        conv("branch3.1", conv("branch3.0", input)),
        conv("branch4.1", pooled),
    ]
    torch.testing.assert_close(module(input), torch.cat(expected, 1))
    assert module.out_channels == 1 + 3 + 5 + 7
    assert module.branch3[1].conv.kernel_size == (5, 5)


def test_inception_in_torchvisions_form():
    module = models.Inception(192, *WIDTHS, batch_norm=True, ch5x5_kernel=3)
    wanted = on_meta("googlenet").inception3a.state_dict()
    state = module.state_dict()
    assert {key: t.shape for key, t in state.items()} == {k: t.shape for k, t in wanted.items()}


def test_lrn_is_after_the_first_pool_and_before_the_second():
    model = models.googlenet_lrn(2, aux_logits=False).eval()
    order = []
    for name, module in model.named_modules():
        if isinstance(module, nn.LocalResponseNorm | nn.MaxPool2d) and "branch" not in name:
            module.register_forward_hook(lambda *_, name=name: order.append(name))
    model(torch.zeros(1, 3, 32, 32))
    assert order == ["maxpool1", "lrn1", "lrn2", "maxpool2", "maxpool3", "maxpool4"]
    for norm in (model.lrn1, model.lrn2):
        assert (norm.size, norm.alpha, norm.beta, norm.k) == (5, 1e-4, 0.75, 1.0)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_maps_have_the_sizes_of_table_1():
    model = on_meta("googlenet_lrn").eval()
    sizes = []
    for name in ["conv1", "maxpool1", "maxpool2", "maxpool3", "maxpool4"]:
        hook = model.get_submodule(name).register_forward_hook
        hook(lambda module, args, output: sizes.append(output.shape[2]))
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert sizes == [112, 56, 28, 14, 7]


@BOTH
def test_training_gives_three_logits_and_eval_one(name):
    model = models.build(name, num_classes=5)
    images = torch.rand(2, 3, 224, 224)
    outputs = model(images)
    assert isinstance(outputs, GoogLeNetOutputs)
    assert outputs._fields == ("logits", "aux_logits2", "aux_logits1")
    assert [output.shape for output in outputs] == [(2, 5)] * 3
    # The last field is the head at 4a: what comes after 4a gets no gradient from it.
    outputs.aux_logits1.sum().backward()
    assert model.inception4a.branch1.conv.weight.grad is not None
    assert model.inception4b.branch1.conv.weight.grad is None
    with torch.inference_mode():
        assert model.eval()(images).shape == (2, 5)


@BOTH
def test_without_heads_training_gives_logits(name):
    model = models.build(name, num_classes=5, aux_logits=False)
    assert not [key for key in model.state_dict() if key.startswith("aux")]
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    model = models.build(name, num_classes=5)
    model.aux_logits = False
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 5)


def test_heads_pool_as_published():
    """14x14 to 4x4: the paper's windows of 5 at stride 3, torchvision's adaptive ones."""
    head = models.googlenet_lrn(2).aux1
    x = torch.randn(1, 512, 14, 14)
    expected = torch.stack([x[..., i : i + 5, 9:14].mean((2, 3)) for i in (0, 3, 6, 9)], 2)
    torch.testing.assert_close(head.pool(x)[..., 3], expected)
    assert models.googlenet(2).aux1.pool(torch.randn(1, 512, 3, 9)).shape[2:] == (4, 4)


@pytest.mark.parametrize(("size", "fits"), [(222, False), (223, True), (270, True), (271, False)])
def test_the_papers_heads_take_few_sizes(size, fits):
    model = on_meta("googlenet_lrn").train()
    images = torch.empty(1, 3, 224, size, device="meta")
    if fits:
        assert model(images).aux_logits1.shape == (1, 1000)
    else:
        with pytest.raises(RuntimeError, match=r"223 to 270 pixels .* build with aux_logits=False"):
            model(images)
    assert model.eval()(images).shape == (1, 1000)


def test_transform_input_undoes_the_usual_normalisation():
    plain, transforming = known("googlenet"), known("googlenet", transform_input=True)
    colours = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    with torch.inference_mode():
        torch.testing.assert_close(
            transforming((colours - mean) / std), plain((colours - 0.5) / 0.5), rtol=1e-3, atol=1e-3
        )
        program = torch.export.export(transforming, (colours,))
        torch.testing.assert_close(program.module()(colours), transforming(colours))
        assert transforming.bfloat16()(colours.bfloat16()).dtype == torch.bfloat16


@LAYERS
@BOTH
def test_output_shape(name, layers):
    model = models.build(name, num_classes=7, layers=layers).eval()
    with torch.inference_mode():
        for shape in [(2, 3, 64, 64), (1, 3, 33, 50), (0, 3, 32, 32)]:
            assert model(torch.zeros(shape)).shape == (shape[0], 7)


@pytest.mark.parametrize(("name", "least"), [("googlenet", 15), ("googlenet_lrn", 31)])
def test_least_size_is_exact(name, least):
    model = models.build(name, num_classes=2).eval()
    assert model.least_size == least
    with torch.inference_mode():
        for size in [(least, least), (least, 64), (64, least)]:
            assert model(torch.zeros(1, 3, *size)).shape == (1, 2)
        small = torch.zeros(1, 3, least - 1, 64)
        with pytest.raises(RuntimeError, match=f"GoogLeNet: .* at least {least}x{least} pixels"):
            model(small)
        model.least_size = 1
        with pytest.raises(RuntimeError, match="Output size is too small"):
            model(small)


@BOTH
def test_both_layers_are_equal_forward_and_backward(name):
    images, labels = torch.randn(2, 3, 40, 48), torch.tensor([0, 1])
    results = []
    for layers in (torch.nn, fastconv.nn):
        torch.manual_seed(1)
        model = models.build(name, num_classes=4, aux_logits=False, dropout=0, layers=layers)
        model.double()
        loss = nn.functional.cross_entropy(model(images.double()), labels)
        loss.backward()
        results.append([loss.detach(), model.conv1.conv.weight.grad, model.fc.weight.grad])
    torch.testing.assert_close(results[0], results[1])


def test_layers_come_from_the_namespace_given():
    plain, fast = on_meta("googlenet_lrn"), on_meta("googlenet_lrn", layers=fastconv.nn)
    assert list(plain.state_dict()) == list(fast.state_dict())
    for kind, count in [("Conv2d", 3 + 9 * 6 + 2), ("LocalResponseNorm", 2)]:
        for model, layers in [(plain, torch.nn), (fast, fastconv.nn)]:
            found = [m for m in model.modules() if isinstance(m, getattr(nn, kind))]
            assert len(found) == count
            assert {type(m) for m in found} == {getattr(layers, kind)}


@BOTH
def test_swap_and_optimize_keep_the_output(name):
    model = known(name, num_classes=10)
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        expected = model(images)
        fast = fastconv.optimize(model, (images,))
        tolerance = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(fast(images), expected, atol=tolerance, rtol=0)
        fastconv.swap_(model)
        torch.testing.assert_close(model(images), expected, atol=tolerance, rtol=0)


@BOTH
def test_one_step_of_sgd_lowers_the_loss(name):
    model = models.build(name, num_classes=4, aux_logits=False, dropout=0)
    images, labels = torch.randn(8, 3, 48, 48), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    before = nn.functional.cross_entropy(model(images), labels)
    assert abs(before - math.log(4)) < 0.8
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    assert nn.functional.cross_entropy(model(images), labels) < before


def test_a_fresh_network_neither_grows_nor_fades():
    """Without norms only the first weights keep 22 layers of numbers near 1."""
    model = models.googlenet_lrn(2).eval()
    features = []
    model.inception5b.register_forward_hook(lambda *args: features.append(args[2]))
    with torch.inference_mode():
        model(torch.randn(2, 3, 64, 64))
    assert 0.1 < features[0].std() < 10


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        models.googlenet(0)
    with pytest.raises(RuntimeError, match=r"expected \(N, C, H, W\), got shape \(3, 64, 64\)"):
        models.googlenet(2)(torch.zeros(3, 64, 64))
