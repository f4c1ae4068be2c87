import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from tests.helpers import ACTIVATIONS, channels_last, contiguous, variant_counts

# Options of nn.Conv2d(6, out_channels, kernel_size), and the kernel that serves it.
LAYERS = [
    ((6, 3), dict(groups=6, padding=1), "depthwise_conv2d"),
    ((12, 5), dict(groups=6, stride=2), "depthwise_conv2d"),
    ((6, 2), dict(groups=6, padding="same"), "depthwise_conv2d"),
    ((6, 1), dict(groups=6, bias=False), "depthwise_conv2d"),
    ((9, 1), dict(), "pointwise_conv2d"),
    ((9, 1), dict(stride=2, padding="valid"), "pointwise_conv2d"),
    ((9, 1), dict(padding="same"), "pointwise_conv2d"),
    ((9, 1), dict(padding=1), None),
    ((9, 3), dict(groups=3, dilation=2), None),
    ((6, 3), dict(groups=6, padding=1, padding_mode="circular"), None),
]


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("sizes", "options", "kernel"), LAYERS)
def test_same_numbers_as_torchs_layer(sizes, options, kernel, activation, layout):
    torch.manual_seed(0)
    theirs = nn.Conv2d(6, *sizes, **options)
    torch.manual_seed(0)
    layer = fastconv.nn.Conv2d(6, *sizes, **options, activation=activation)
    assert list(layer.state_dict()) == list(theirs.state_dict())
    for ours, others in zip(layer.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours, others)

    x = layout(torch.randn(2, 6, 9, 11))
    before = variant_counts()
    actual = layer(x)
    ran = {name.split(".")[0] for name, count in variant_counts().items() if count > before[name]}
    assert ran == ({kernel} if kernel else set())
    expected = fastconv.reference.activate(theirs(x), activation)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x[0]), expected[0], rtol=1e-4, atol=1e-5)


def test_repr_is_torchs_plus_the_activation():
    plain, fused = fastconv.nn.Conv2d(6, 6, 1), fastconv.nn.Conv2d(6, 6, 1, activation="silu")
    assert repr(plain) == repr(nn.Conv2d(6, 6, 1))
    assert repr(fused) == "Conv2d(6, 6, kernel_size=(1, 1), stride=(1, 1), activation='silu')"


@pytest.mark.parametrize(
    ("input", "weight", "arguments"),
    [
        (torch.ones(1, 4, 5, 5), torch.ones(4, 1, 3, 3), dict(groups=4, stride=0)),
        (torch.ones(1, 4, 5, 5), torch.ones(4, 1, 3, 3), dict(groups=4, padding=-1)),
        (torch.ones(1, 4, 5, 5), torch.ones(4, 1, 3, 3), dict(groups=4, dilation=0)),
        (torch.ones(1, 4, 5, 5), torch.ones(4, 1, 3, 3), dict(groups=4, padding="full")),
        (torch.ones(1, 4, 5, 5), torch.ones(4, 1, 3, 3), dict(groups=4, padding="same", stride=2)),
        (torch.ones(1, 4, 5, 5), torch.ones(4, 1, 7, 7), dict(groups=4)),
        (torch.ones(1, 3, 5, 5), torch.ones(4, 1, 3, 3), dict(groups=4)),
        (torch.ones(1, 4, 5, 5), torch.ones(8, 4, 1, 1).double(), {}),
        (torch.ones(1, 4, 5, 5), torch.ones(8, 3, 1, 1), {}),
        (torch.ones(4, 5), torch.ones(8, 4, 1, 1), {}),
        (torch.ones(1, 4, 5, 5), torch.ones(8, 4, 1, 1), dict(bias=torch.ones(7))),
        ("image", torch.ones(8, 4, 1, 1), {}),
        (torch.ones(1, 4, 5, 5), None, {}),
        (torch.ones(1, 4, 5, 5), torch.ones(8, 4, 1, 1), dict(bias=3)),
        (torch.ones(1, 4, 5, 5), torch.ones(8, 4, 1, 1), dict(stride="2")),
        (torch.ones(1, 4, 5, 5), torch.ones(8, 4, 1, 1), dict(stride=(1, 2, 3))),
    ],
)
def test_errors_have_the_type_of_torchs(input, weight, arguments):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        F.conv2d(input, weight, **arguments)
    with pytest.raises(type(theirs.value)):
        fastconv.ops.conv2d(input, weight, **arguments)
