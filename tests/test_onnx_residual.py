"""ResNet-50 and GoogLeNet against the graphs that others published, with the same weights."""

import pytest
import torch

from fastconv import models

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.known_weights import fill
from tests.onnx_graphs import LightGraph, weighted_layers


def built(name, **options):
    with torch.device("meta"):
        model = models.build(name, **options)
    return fill(model.to_empty(device="cpu")).eval()


def compare(graph, model, image):
    expected = graph.run(image, weighted_layers(model))
    with torch.inference_mode():
        output = model(image)
    spread = expected.std(dim=1).min().item()
    torch.testing.assert_close(output, expected, atol=1e-4 * spread, rtol=1e-4)
    return output


def test_resnet50():
    """The graph has the stride of a bottleneck in its 3x3; elsewhere the output is another."""
    graph = LightGraph("resnet50")
    image = torch.randn(1, 3, 224, 224)
    output = compare(graph, built("resnet50"), image)
    with torch.inference_mode():
        other = built("resnet50", stride_in="1x1")(image)
    assert (output - other).abs().max() > 0.1 * output.std()


def test_googlenet_lrn():
    """At 222x222, where pools that round down, as the graph's, give the sizes of the paper's.

    The graph was converted from Caffe without its rounding up: from 224x224 it makes 55x55 maps.
    """
    graph = LightGraph("inception_v1")
    model = built("googlenet_lrn", aux_logits=False)
    for node, norm in zip(graph.nodes("LRN"), (model.lrn1, model.lrn2), strict=True):
        values = graph.attributes(node)
        assert (values["size"], values["beta"], values["bias"]) == (norm.size, norm.beta, norm.k)
        assert values["alpha"] == pytest.approx(norm.alpha)
    image = torch.randn(1, 3, 222, 222)
    output = compare(graph, model, image)
    for norm in (model.lrn1, model.lrn2):
        norm.alpha = 0.0
    with torch.inference_mode():
        other = model(image)
    assert (output - other).abs().max() > 1e-3 * output.std()
