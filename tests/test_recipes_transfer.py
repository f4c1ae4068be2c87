"""Transfer learning on real images with published weights, in each form, swapped and not."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fastconv.recipes import Split, checkpoint, images, load_network, load_split, recipe, train
from fastconv.recipes.sources import Shape
from fastconv.recipes.train import CHECKPOINT, FEATURES
from fastconv.recipes.transfer import freeze_first, last_layer, pretrained
from tests.helpers import threads

NETWORK, SIZE = "efficientnet_lite0", 32


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def faces() -> Split:
    return load_split("faces", Shape(3, images.padded(SIZE)))


def of_form(form: str, **settings):
    return recipe(NETWORK, "faces", form, size=SIZE, **settings)


def test_a_head_on_stored_features(tmp_path, faces):
    trained = train(of_form("features"), tmp_path, data=faces)
    assert trained.history[-1].accuracy >= 0.9
    features = tmp_path / FEATURES
    stored, about = checkpoint.read_tensors(features)
    assert stored["train"].shape == (160, 1280)
    assert about["network"] == NETWORK
    # All but the last layer is as published, and the whole network is in the checkpoint.
    _, network = load_network(tmp_path / CHECKPOINT)
    fresh = pretrained(NETWORK, 2).state_dict()
    own = network.state_dict()
    changed = [name for name in own if not torch.equal(own[name], fresh[name])]
    assert changed == ["classifier.1.weight", "classifier.1.bias"]
    # They are computed once: another head takes them from the file.
    written = features.stat().st_mtime_ns
    (tmp_path / CHECKPOINT).unlink()
    train(of_form("features", seed=1), tmp_path, data=faces)
    assert features.stat().st_mtime_ns == written
    # But not for other images, nor for these in another order.
    (tmp_path / CHECKPOINT).unlink()
    turned = Split(faces.train.subset(torch.arange(159, -1, -1)), faces.test)
    train(of_form("features", epochs=1), tmp_path, data=turned)
    anew, _ = checkpoint.read_tensors(features)
    torch.testing.assert_close(anew["train"], stored["train"].flip(0), rtol=1e-3, atol=1e-4)
    # And they are those that torch's layers give.
    train(of_form("features", epochs=1, swapped=False), tmp_path / "torch", data=faces)
    theirs, _ = checkpoint.read_tensors(tmp_path / "torch" / FEATURES)
    torch.testing.assert_close(stored["train"], theirs["train"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["frozen", "all"])
def test_what_is_trained_and_what_stays(tmp_path, faces, form):
    half = Split(faces.train.subset(torch.arange(0, 160, 2)), faces.test)
    trained = train(of_form(form, epochs=4), tmp_path, data=half, workers=0)
    assert trained.history[-1].accuracy >= 0.75
    _, network = load_network(tmp_path / CHECKPOINT)
    own, published = network.state_dict(), pretrained(NETWORK, 2).state_dict()
    same = {name for name in own if torch.equal(own[name], published[name])}
    stem = {name for name in own if name.startswith("features.0.")}
    assert len(stem) == 6
    assert stem <= same if form == "frozen" else not stem & same
    assert not same & {name for name in own if name.startswith("features.9.")}


def test_the_first_half_of_the_convolutions_is_frozen_and_what_follows_them():
    model = pretrained(NETWORK, 2)
    frozen = freeze_first(model, 0.5)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    half = len(convolutions) // 2
    assert [c for c in convolutions if c.weight.requires_grad] == convolutions[half:]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in frozen) == half
    *_, head = last_layer(model)
    assert head.weight.requires_grad


def test_our_layers_learn_what_torchs_learn(tmp_path, faces):
    few = Split(faces.train.subset(torch.arange(0, 160, 4)), faces.test)
    losses = []
    for swapped in (True, False):
        settings = of_form("all", epochs=3, batch=40, augment=(), swapped=swapped)
        trained = train(settings, tmp_path / str(swapped), data=few, workers=0)
        losses.append([epoch.loss for epoch in trained.history])
    # An epoch is a step. Before the first the weights are the same; then rounding grows.
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
