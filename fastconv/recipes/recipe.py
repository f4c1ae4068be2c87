"""What a training run is made of: every setting that the weights depend on."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from fastconv.models import BUILDERS, Network, build

FORMS = ("scratch", "features", "frozen", "all")


@dataclass(frozen=True)
class Recipe:
    """One run. Two runs of the same recipe on one machine give the same weights.

    Attributes:
        network: a name in fastconv.models.
        data: "digits", "faces" or a folder of images, as `load_split` takes it.
        form: "scratch", or one of the three ways to begin with published weights: "features"
            (a new head on features computed once), "frozen" (all but the first layers), "all".
        size: height and width of what the network sees.
        epochs: passes over the images.
        batch: images a step.
        rate: the highest learning rate, of AdamW.
        decay: its weight decay.
        smoothing: share of each label that is spread over all classes.
        augment: names of `fastconv.recipes.augment`.
        frozen: share of the convolutions that stay as they are, of form "frozen".
        seed: of weights, order and augmentation.
        swapped: whether our layers are swapped in, or torch's do the work.
    """

    network: str
    data: str
    form: str = "scratch"
    size: int = 224
    epochs: int = 40
    batch: int = 100
    rate: float = 0.01
    decay: float = 0.1
    smoothing: float = 0.1
    augment: tuple[str, ...] = ()
    frozen: float = 0.5
    seed: int = 0
    swapped: bool = True

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"unknown form {self.form!r}: there are {', '.join(FORMS)}")
        if self.form == "features" and self.augment:
            raise ValueError("form 'features' sees each image once, so there is no augmentation")
        for name in ("size", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be above 0, got {self.rate}")
        if not 0 <= self.frozen < 1:
            raise ValueError(f"frozen must be at least 0 and below 1, got {self.frozen}")

    def unlike(self, other: "Recipe") -> list[str]:
        """The settings in which they differ, each as `name: its own, the other's`."""
        own, others = asdict(self), asdict(other)
        return [f"{name}: {own[name]}, {others[name]}" for name in own if own[name] != others[name]]


# Highest rates: of 0.001, 0.003 and 0.01 the best for EfficientNet-Lite0 on digits, 10 a class;
# 0.01 loses what the weights had.
_OF_FORM: dict[str, dict[str, Any]] = {
    "scratch": {},
    "features": {"epochs": 60, "rate": 0.01, "batch": 32, "decay": 0.01, "smoothing": 0.0},
    "frozen": {"epochs": 10, "rate": 0.003, "batch": 16, "decay": 0.01},
    "all": {"epochs": 10, "rate": 0.003, "batch": 16, "decay": 0.01},
}
# What leaves the meaning of an image as it is: a mirrored digit is none, a shifted photo is one.
_OF_DATA = {"digits": ("rotate", "shear", "crop"), "faces": ("mirror", "rotate", "crop")}
_OF_FOLDER = ("mirror", "crop", "colour")


def recipe(network: str, data: str, form: str = "scratch", **settings: Any) -> Recipe:
    """The recipe that fits network, data and form, but for the settings given; None is not given.

    Raises ValueError for an unknown network, form or setting out of range.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if "size" not in given:
        given["size"] = input_shape(network)[1]
    if form != "features":
        given.setdefault("augment", _OF_DATA.get(data, _OF_FOLDER))
    return replace(Recipe(network, data, form), **(_OF_FORM.get(form, {}) | given))


def input_shape(network: str) -> tuple[int, int, int]:
    """(C, H, W) of the images that the network is made for."""
    import torch

    with torch.device("meta"):
        return build(network).input_size


def untrained(network: str, classes: int) -> Network:
    """The network for so many classes, without GoogLeNet's heads that serve training alone."""
    options = BUILDERS[network].__kwdefaults__ or {}
    return build(
        network, num_classes=classes, **({"aux_logits": False} if "aux_logits" in options else {})
    )


def takes_weights(network: str) -> bool:
    """Whether the network can be built with published weights, its classifier too."""
    return "pretrained" in (BUILDERS[network].__kwdefaults__ or {})
