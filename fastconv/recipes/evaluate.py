"""How good networks are: top-k, average precision of each class, and its mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from fastconv.recipes.images import Images
from fastconv.recipes.libraries import library
from fastconv.recipes.predict import Ensemble, predictor
from fastconv.recipes.sources import load_images, load_split

PARTS = ("test", "train", "all")


@dataclass
class Evaluation:
    """Shares from 0 to 1. `members` holds the top-1 of each network alone.

    mean_average_precision: of average_precision, the area below the precision-recall curve of each
        class against all others; a class without images has none.
    """

    data: str
    images: int
    crops: int
    top1: float
    topk: float
    k: int
    mean_average_precision: float
    average_precision: dict[str, float]
    members: dict[str, float]


class Curve(NamedTuple):
    """Precision and recall, one value a threshold, of finding one class."""

    name: str
    average_precision: float
    precision: Tensor
    recall: Tensor


def evaluate(
    checkpoints: Sequence[Path],
    data: str | None = None,
    *,
    part: str = "test",
    crops: int = 1,
    k: int = 5,
    workers: int = 0,
) -> tuple[Evaluation, list[Curve]]:
    """Networks from checkpoints, together, on images that they were not trained on.

    data: as `load_split` takes it; what the first network was trained on, if None.
    part: "test" for the held-out images, "train" for the others, "all" for a folder as it is.
    crops: 1, 5 or 10 views of each image.
    k: for the share of images whose label is among the k most probable classes.
    workers: processes that read the images.
    Raises ValueError for images of other classes than the networks', and what load_split,
    load_network and Ensemble raise.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    predictors = [predictor(path) for path in checkpoints]
    ensemble = Ensemble(predictors)
    if data is None:
        data = predictors[0].trained_on
    images: Images
    if part == "all":
        images = load_images(data, ensemble.shape)
    else:
        images = getattr(load_split(data, ensemble.shape), part)
    if images.classes != ensemble.classes:
        raise ValueError(
            f"{data} has the classes {', '.join(images.classes)}; the network was trained on "
            f"{', '.join(ensemble.classes)}"
        )
    each = ensemble.of_each(images, crops, workers)
    together = each.mean(0)
    curves = precision_recall(together, images.labels, images.classes)
    precisions = {curve.name: curve.average_precision for curve in curves}
    k = min(k, len(images.classes))
    found = Evaluation(
        data=data,
        images=len(images.labels),
        crops=crops,
        top1=top(together, images.labels),
        topk=top(together, images.labels, k),
        k=k,
        mean_average_precision=sum(precisions.values()) / len(precisions),
        average_precision=precisions,
        members={
            str(path): top(one, images.labels) for path, one in zip(checkpoints, each, strict=True)
        },
    )
    return found, curves


def top(probabilities: Tensor, labels: Tensor, k: int = 1) -> float:
    """The share of images whose label is among the k most probable classes."""
    metrics = library("torchmetrics.functional.classification")
    count = probabilities.shape[1]
    return float(metrics.multiclass_accuracy(probabilities, labels, count, "micro", top_k=k))


def precision_recall(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> list[Curve]:
    """The curve of each class that has images. probabilities (N, classes), labels (N,)."""
    metrics = library("torchmetrics.functional.classification")
    curves = []
    for index in labels.unique().tolist():
        scores, truth = probabilities[:, index], (labels == index).long()
        precision, recall, _ = metrics.binary_precision_recall_curve(scores, truth)
        average = float(metrics.binary_average_precision(scores, truth))
        curves.append(Curve(classes[index], average, precision, recall))
    return curves
