"""Top-1 accuracy on ImageNet, in percent, one crop, as published with each network's weights.

We have the weights of few of them, so these are their authors' figures and not measured here.
"""

TORCHVISION = "torchvision, the weights IMAGENET1K_V1"
PAPER = "the network's paper"
LITE = "the authors' table of EfficientNet-Lite, github.com/tensorflow/tpu"

TOP1: dict[str, tuple[float, str]] = {
    "alexnet": (56.5, TORCHVISION),
    "vgg11": (69.0, TORCHVISION),
    "vgg16": (71.6, TORCHVISION),
    "googlenet": (69.8, TORCHVISION),
    "resnet18": (69.8, TORCHVISION),
    "resnet34": (73.3, TORCHVISION),
    "resnet50": (76.1, TORCHVISION),
    "resnet101": (77.4, TORCHVISION),
    "resnet152": (78.3, TORCHVISION),
    "mobilenet_v1": (70.6, PAPER),
    "mobilenet_v2": (72.0, PAPER),
    "efficientnet_b0": (77.1, PAPER),
    "efficientnet_b1": (79.1, PAPER),
    "efficientnet_b2": (80.1, PAPER),
    "efficientnet_b3": (81.6, PAPER),
    "efficientnet_b4": (82.9, PAPER),
    "efficientnet_lite0": (75.1, LITE),
    "efficientnet_lite1": (76.7, LITE),
    "efficientnet_lite2": (77.6, LITE),
    "efficientnet_lite3": (79.8, LITE),
    "efficientnet_lite4": (81.5, LITE),
}
