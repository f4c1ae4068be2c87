"""GoogLeNet: Szegedy et al. 2014, arXiv 1409.4842, table 1: nine Inception modules.

An Inception module looks at its input through windows of 1x1, 3x3 and 5x5 and a max pool at once;
1x1 "reduce" convolutions before the large windows keep them cheap. Two auxiliary classifiers help
training; they do not run in eval.

`googlenet` is torchvision's form, with its keys, order and outputs; `googlenet_lrn` is the paper's.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastconv.models.layers import Layers
from fastconv.models.layers import batch_norm as norm_of
from fastconv.models.network import Network


class Widths(NamedTuple):
    """Channels in one Inception module: a row of table 1."""

    ch1x1: int
    ch3x3red: int
    ch3x3: int
    ch5x5red: int
    ch5x5: int
    pool_proj: int


INCEPTIONS = {
    "3a": Widths(ch1x1=64, ch3x3red=96, ch3x3=128, ch5x5red=16, ch5x5=32, pool_proj=32),
    "3b": Widths(ch1x1=128, ch3x3red=128, ch3x3=192, ch5x5red=32, ch5x5=96, pool_proj=64),
    "4a": Widths(ch1x1=192, ch3x3red=96, ch3x3=208, ch5x5red=16, ch5x5=48, pool_proj=64),
    "4b": Widths(ch1x1=160, ch3x3red=112, ch3x3=224, ch5x5red=24, ch5x5=64, pool_proj=64),
    "4c": Widths(ch1x1=128, ch3x3red=128, ch3x3=256, ch5x5red=24, ch5x5=64, pool_proj=64),
    "4d": Widths(ch1x1=112, ch3x3red=144, ch3x3=288, ch5x5red=32, ch5x5=64, pool_proj=64),
    "4e": Widths(ch1x1=256, ch3x3red=160, ch3x3=320, ch5x5red=32, ch5x5=128, pool_proj=128),
    "5a": Widths(ch1x1=256, ch3x3red=160, ch3x3=320, ch5x5red=32, ch5x5=128, pool_proj=128),
    "5b": Widths(ch1x1=384, ch3x3red=192, ch3x3=384, ch5x5red=48, ch5x5=128, pool_proj=128),
}
POOL_AFTER = {"3b": "maxpool3", "4e": "maxpool4"}
HEAD_AFTER = {"4a": "aux1", "4d": "aux2"}


class Form(NamedTuple):
    """Where the two published networks differ."""

    batch_norm: bool  # after every convolution; else biases
    lrn: bool  # after the first pool and before the second
    ch5x5_kernel: int
    last_pool: int
    aux_pool: Callable[[], nn.Module]
    least_size: int


TORCHVISION = Form(
    batch_norm=True,
    lrn=False,
    ch5x5_kernel=3,
    last_pool=2,
    aux_pool=partial(nn.AdaptiveAvgPool2d, 4),
    least_size=15,
)
PAPER = Form(
    batch_norm=False,
    lrn=True,
    ch5x5_kernel=5,
    last_pool=3,
    aux_pool=partial(nn.AvgPool2d, 5, stride=3),
    least_size=31,
)

# Image colours, for torchvision's weights: it normalises by these, their training by 0.5 and 0.5.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class GoogLeNetOutputs(NamedTuple):
    """What GoogLeNet returns in training; the paper weighs each auxiliary loss by 0.3."""

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


def conv_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    *,
    batch_norm: bool,
    layers: Layers,
) -> nn.Sequential:
    """Convolution that keeps the size at stride 1, batch norm if wanted, ReLU."""
    padding = kernel_size // 2
    conv = layers.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding, bias=not batch_norm
    )
    modules = OrderedDict[str, nn.Module](conv=conv)
    if batch_norm:
        modules["bn"] = norm_of(layers, out_channels, eps=1e-3)
    modules["relu"] = nn.ReLU()
    return nn.Sequential(modules)


class Inception(nn.Module):
    """Four branches side by side: (N, in_channels, H, W) -> (N, out_channels, H, W), figure 2b.

    The widths are named as in torchvision; out_channels = ch1x1 + ch3x3 + ch5x5 + pool_proj.
    batch_norm: norms in place of biases. ch5x5_kernel: 3 is torchvision's third branch.
    layers: the module that gives Conv2d, torch.nn or fastconv.nn.
    """

    def __init__(
        self,
        in_channels: int,
        ch1x1: int,
        ch3x3red: int,
        ch3x3: int,
        ch5x5red: int,
        ch5x5: int,
        pool_proj: int,
        *,
        batch_norm: bool = False,
        ch5x5_kernel: int = 5,
        layers: Layers = torch.nn,
    ) -> None:
        super().__init__()
        conv = partial(conv_relu, batch_norm=batch_norm, layers=layers)
        self.branch1 = conv(in_channels, ch1x1)
        self.branch2 = nn.Sequential(conv(in_channels, ch3x3red), conv(ch3x3red, ch3x3, 3))
        self.branch3 = nn.Sequential(
            conv(in_channels, ch5x5red), conv(ch5x5red, ch5x5, ch5x5_kernel)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), conv(in_channels, pool_proj)
        )
        self.out_channels = ch1x1 + ch3x3 + ch5x5 + pool_proj

    def forward(self, input: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(input) for branch in branches], dim=1)


class AuxiliaryHead(nn.Module):
    """Average to 4x4, 1x1 convolution, two linear layers: (N, C, H, W) -> (N, num_classes)."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        dropout: float,
        pool: nn.Module,
        conv: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        self.pool = pool
        self.conv = conv(in_channels, 128)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(self.pool, nn.AvgPool2d) and not all(14 <= n <= 16 for n in input.shape[2:]):
            raise RuntimeError(
                "GoogLeNet: expected images of 223 to 270 pixels for the paper's auxiliary heads, "
                "which are trained on 14x14 to 16x16 maps; got a map of "
                f"{input.shape[2]}x{input.shape[3]}: build with aux_logits=False"
            )
        x = self.conv(self.pool(input)).flatten(1)
        return self.fc2(self.dropout(self.relu(self.fc1(x))))


class GoogLeNet(Network):
    """Stem, nine Inception modules, average, classifier: (N, 3, H, W) -> (N, num_classes).

    In training with aux_logits it returns GoogLeNetOutputs; without them, and in eval, the logits.
    Setting aux_logits to False on a built model leaves its heads out.
    """

    def __init__(
        self,
        form: Form,
        num_classes: int = 1000,
        *,
        aux_logits: bool = True,
        transform_input: bool = False,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
        layers: Layers = torch.nn,
    ) -> None:
        super().__init__(num_classes)
        self.aux_logits = aux_logits
        self.transform_input = transform_input
        self.least_size = form.least_size
        conv = partial(conv_relu, batch_norm=form.batch_norm, layers=layers)
        pool = partial(nn.MaxPool2d, stride=2, ceil_mode=True)

        def lrn() -> nn.Module:
            return layers.LocalResponseNorm(5, 1e-4, 0.75, 1.0) if form.lrn else nn.Identity()

        self.conv1 = conv(3, 64, 7, stride=2)
        self.maxpool1 = pool(3)
        self.lrn1 = lrn()
        self.conv2 = conv(64, 64)
        self.conv3 = conv(64, 192, 3)
        self.lrn2 = lrn()
        self.maxpool2 = pool(3)
        channels = 192
        heads = {}
        for name, widths in INCEPTIONS.items():
            inception = Inception(
                channels,
                *widths,
                batch_norm=form.batch_norm,
                ch5x5_kernel=form.ch5x5_kernel,
                layers=layers,
            )
            setattr(self, f"inception{name}", inception)
            channels = inception.out_channels
            if name in HEAD_AFTER and aux_logits:
                heads[HEAD_AFTER[name]] = AuxiliaryHead(
                    channels, num_classes, dropout_aux, form.aux_pool(), conv
                )
        self.maxpool3 = pool(3)
        self.maxpool4 = pool(form.last_pool)
        for name, head in heads.items():
            setattr(self, name, head)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(initialise)

    def forward(self, input: Tensor) -> Tensor | GoogLeNetOutputs:
        self.check_image(input)
        x = to_half_normalised(input) if self.transform_input else input
        x = self.lrn1(self.maxpool1(self.conv1(x)))
        x = self.maxpool2(self.lrn2(self.conv3(self.conv2(x))))
        aux_logits: list[Tensor] = []
        for name in INCEPTIONS:
            x = self.get_submodule(f"inception{name}")(x)
            if name in HEAD_AFTER and self.training and self.aux_logits:
                aux_logits.append(self.get_submodule(HEAD_AFTER[name])(x))
            if name in POOL_AFTER:
                x = self.get_submodule(POOL_AFTER[name])(x)
        logits = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return GoogLeNetOutputs(logits, *reversed(aux_logits)) if aux_logits else logits


def to_half_normalised(input: Tensor) -> Tensor:
    """Images normalised by MEAN and STD -> the same ones normalised by 0.5 and 0.5."""
    scale = input.new_tensor([std / 0.5 for std in STD])
    shift = input.new_tensor([(mean - 0.5) / 0.5 for mean in MEAN])
    return input * scale[:, None, None] + shift[:, None, None]


def initialise(module: nn.Module) -> None:
    """He et al. 2015, equation 10: without norms, other variances would grow or fade on the way."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def googlenet(
    num_classes: int = 1000,
    *,
    aux_logits: bool = True,
    transform_input: bool = False,
    dropout: float = 0.2,
    dropout_aux: float = 0.7,
    layers: Layers = torch.nn,
) -> GoogLeNet:
    """GoogLeNet as torchvision has it, for (N, 3, H, W), made for 224x224.

    Batch norm, no LRN, and 3x3 for the 5x5 windows, a mistake its weights were trained with.
    13 004 888 parameters at 1000 classes, 6 624 904 without the auxiliary heads.

    aux_logits: with the two heads; in training the result is then GoogLeNetOutputs, a named tuple
        (logits, aux_logits2, aux_logits1).
    transform_input: takes images normalised for torchvision's other networks; its published
        weights need True.
    layers: the module that gives Conv2d, torch.nn or fastconv.nn; keys and weights are the same.
    Raises ValueError for num_classes below 1.
    """
    return GoogLeNet(
        TORCHVISION,
        num_classes,
        aux_logits=aux_logits,
        transform_input=transform_input,
        dropout=dropout,
        dropout_aux=dropout_aux,
        layers=layers,
    )


def googlenet_lrn(
    num_classes: int = 1000,
    *,
    aux_logits: bool = True,
    dropout: float = 0.4,
    dropout_aux: float = 0.7,
    layers: Layers = torch.nn,
) -> GoogLeNet:
    """GoogLeNet as in the paper, for (N, 3, H, W), made for 224x224: LRN, biases, no batch norm.

    The paper gives no constants for the LRN; these are those of Caffe's published model.
    13 378 280 parameters at 1000 classes, 6 998 552 without the auxiliary heads.

    aux_logits: as in googlenet; training with the heads takes images of 223 to 270 pixels.
    layers: the module that gives Conv2d and LocalResponseNorm, torch.nn or fastconv.nn.
    Raises ValueError for num_classes below 1.
    """
    return GoogLeNet(
        PAPER,
        num_classes,
        aux_logits=aux_logits,
        dropout=dropout,
        dropout_aux=dropout_aux,
        layers=layers,
    )
