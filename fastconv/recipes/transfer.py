"""Three ways to begin with published weights, and what each leaves to be trained.

A rule of thumb, by how many images of a class there are, and how far they are from the photographs
of ImageNet:

    few, or photographs     features: seconds, and the head can be tried again at no cost
    some tens, other kinds  frozen: as good as all, at 3/4 of its time
    hundreds, other kinds   all

`python -m bench.recipes transfer` measures it with EfficientNet-Lite0 (bench/results): faces, 80 a
class, 97.5 % by features and 100 % by both others; digits, 10 a class, 68 %, 86 % and 88 %; 160 a
class 91 %, 98 % and 97 %. So the kind of picture counts for more than the number.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import fastconv
from fastconv.models import Network, build
from fastconv.progress import Progress, silent
from fastconv.recipes.checkpoint import read_tensors, write_tensors
from fastconv.recipes.images import Images
from fastconv.recipes.loader import Reader, in_order
from fastconv.recipes.preprocess import Preprocessing
from fastconv.recipes.recipe import Recipe, takes_weights

FEATURE_BATCH = 32
# From here on the seconds that fastconv.optimize takes come back: about 4 s, and 8 ms an image of
# 224 x 224 (one thread, Zen 5, `python -m bench.recipes transfer --form features`).
OPTIMIZED_PIXELS = 500 * 224**2
# The authors' 0.01 keeps ImageNet's statistics for the hundred steps that a small set has: digits,
# 10 a class, 10 epochs of form all, 84 % right with 0.1.
NORM_MOMENTUM = 0.1


def last_layer(model: nn.Module) -> tuple[nn.Module, str, nn.Linear]:
    """The last fully connected layer, the module that holds it, and its name there."""
    *_, (name, layer) = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    holder, _, own = name.rpartition(".")
    return model.get_submodule(holder), own, layer


def replace_last_layer(model: nn.Module, layer: nn.Module) -> None:
    holder, name, _ = last_layer(model)
    setattr(holder, name, layer)


def pretrained(network: str, classes: int) -> Network:
    """The network with its published weights and a new last layer for so many classes.

    Raises ValueError for a network without weights that install by pip.
    """
    if not takes_weights(network):
        raise ValueError(
            f"no package with all weights of {network} is known: train it from scratch, or take "
            "efficientnet_lite0, 1 or 2"
        )
    model = build(network, pretrained=True)
    *_, old = last_layer(model)
    replace_last_layer(model, nn.Linear(old.in_features, classes))
    model.num_classes = classes
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = NORM_MOMENTUM
    return model


def freeze_first(model: nn.Module, share: float) -> list[nn.Module]:
    """Stops the training of the first `share` of the convolutions, and of what follows them.

    Returns the frozen modules. They must stay in evaluation mode: a batch norm would go on
    following the batches.
    """
    leaves = [module for module in model.modules() if not list(module.children())]
    convolutions = [module for module in leaves if isinstance(module, nn.Conv2d)]
    first_trained = convolutions[int(share * len(convolutions))]
    frozen = leaves[: leaves.index(first_trained)]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def features(
    model: nn.Module,
    parts: Mapping[str, Images],
    preprocessing: Preprocessing,
    swapped: bool,
    workers: int = 0,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """What the last layer of the model is given for each image of each part: (N, features)."""
    holder, name, head = last_layer(model)
    setattr(holder, name, nn.Identity())
    try:
        run: nn.Module = model.eval()
        count = sum(len(images.labels) for images in parts.values())
        if swapped and count * preprocessing.size**2 >= OPTIMIZED_PIXELS:
            example = preprocessing.crop(next(iter(parts.values())).read([0]))
            layout = torch.channels_last
            run = fastconv.optimize(model, (example.contiguous(memory_format=layout),))
        elif swapped:
            fastconv.swap_(run)
        found: dict[str, Tensor] = {}
        for part, images in parts.items():
            reader, rows = Reader(images, preprocessing), []
            for batch, _ in in_order(reader, FEATURE_BATCH, workers):
                with torch.inference_mode():
                    rows.append(run(batch).clone())
                share = len(rows) * FEATURE_BATCH / len(reader)
                progress(f"computing features of {part}", min(1.0, share))
            found[part] = torch.cat(rows).clone()  # no inference tensor: a head trains on it
        return found
    finally:
        fastconv.restore_(model)
        setattr(holder, name, head)


def stored_features(
    path: Path,
    model: nn.Module,
    parts: Mapping[str, Images],
    preprocessing: Preprocessing,
    recipe: Recipe,
    workers: int,
    progress: Progress,
) -> dict[str, Tensor]:
    """The features of each part, computed once: later runs on the same images read them there."""
    about = {
        "network": recipe.network,
        "data": recipe.data,
        "size": recipe.size,
        "images": {name: images.digest() for name, images in parts.items()},
    }
    if path.exists():
        found, of = read_tensors(path)
        if of == about:
            return found
    found = features(model, parts, preprocessing, recipe.swapped, workers, progress)
    write_tensors(path, found, about)
    return found
