"""Our networks against the graphs of the published ones that the package onnx carries."""

import pytest
import torch
from torch import Tensor, nn

from fastconv import models
from tests.known_weights import fill

pytest.importorskip("onnxruntime")

from tests.onnx_graphs import LightGraph, weighted_layers


def filled(name: str) -> nn.Module:
    with torch.device("meta"):
        model = models.build(name)
    return fill(model.to_empty(device="cpu")).eval()


def image() -> Tensor:
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def difference(graph: LightGraph, model: nn.Module) -> float:
    """The largest difference of the logits, over the largest logit."""
    with torch.inference_mode():
        ours = model(image())
    theirs = graph.run(image(), weighted_layers(model))
    assert theirs.std() > 0.1, "all logits alike: they would show little"
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_alexnet_lrn():
    """Caffe's constants and its unpadded images are the two differences."""
    graph, model = LightGraph("bvlc_alexnet"), filled("alexnet_lrn")
    for node in graph.nodes("LRN"):
        assert graph.attributes(node)["alpha"] == pytest.approx(1e-4)
        assert graph.attributes(node)["bias"] == 1
    # Unpadded, 224 pixels would give maps of 54 and not the paper's 55.
    graph.set_attributes(graph.nodes("Conv")[0], pads=[2, 2, 2, 2])
    assert difference(graph, model) > 1e-3
    for module in model.modules():
        if isinstance(module, nn.LocalResponseNorm):
            module.alpha, module.k = 1e-4, 1.0
    assert difference(graph, model) < 1e-5


def test_zfnet512():
    """As it is, with the paper's LRN."""
    assert difference(LightGraph("zfnet512"), filled("zfnet512")) < 1e-5


def test_vgg19():
    assert difference(LightGraph("vgg19"), filled("vgg19")) < 1e-5


@pytest.mark.parametrize("wrong", [slice(None, -1), slice(None, None, -1)], ids=["fewer", "turned"])
def test_other_layers_do_not_pass(wrong):
    with torch.device("meta"):
        layers = weighted_layers(models.build("alexnet_lrn"))
    with pytest.raises(AssertionError):
        LightGraph("bvlc_alexnet").run(image(), layers[wrong])
