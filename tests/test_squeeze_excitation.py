import torch
from torch import nn

from fastconv.models.squeeze_excitation import SqueezeExcitation


def test_weighs_each_channel_by_the_means():
    layer = SqueezeExcitation(6, 2, layers=nn)
    input = torch.randn(3, 6, 4, 5)
    mean = input.mean((2, 3))
    inner = mean @ layer.fc1.weight[:, :, 0, 0].T + layer.fc1.bias
    inner = inner / (1 + torch.exp(-inner))  # SiLU
    gate = 1 / (1 + torch.exp(-(inner @ layer.fc2.weight[:, :, 0, 0].T + layer.fc2.bias)))
    torch.testing.assert_close(layer(input), input * gate[:, :, None, None])


def test_a_gate_of_zeros_halves():
    layer = SqueezeExcitation(6, 2, layers=nn)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    input = torch.randn(2, 6, 3, 3)
    assert torch.equal(layer(input), input / 2)
