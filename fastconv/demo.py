"""The main job of fastconv, shown: real photographs classified by plain torch and by fastconv."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastconv.compare import Comparison, compare
from fastconv.data import class_names, load_photo, photos
from fastconv.models import build
from fastconv.peers import DEFAULT_PEERS
from fastconv.progress import Progress, part, silent

MODEL = "efficientnet_lite0"
CLASSIFY_SHARE = 0.1  # of the progress bar


@dataclass
class Answer:
    label: int
    name: str
    probability: float


@dataclass
class Prediction:
    photo: str
    label: int
    name: str
    torch: Answer
    fastconv: Answer


@dataclass
class Demo:
    model: str
    predictions: list[Prediction]
    right_torch: int
    right_fastconv: int
    identical: bool
    comparisons: list[Comparison]


def run_demo(
    *,
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    peers: Sequence[str] = DEFAULT_PEERS,
    seconds: float = 10.0,
    progress: Progress = silent,
) -> Demo:
    """EfficientNet-Lite0 with its ImageNet weights on 20 photos, then timed at each batch size.

    Raises ModuleNotFoundError, with the pip command, where weights or photos are not installed.
    """
    network = build(MODEL, pretrained=True).eval()
    predictions = classify_photos(network, part(progress, 0, CLASSIFY_SHARE))
    comparisons = []
    share = (1 - CLASSIFY_SHARE) / len(batches)
    for index, batch in enumerate(batches):
        start = CLASSIFY_SHARE + index * share
        comparison = compare(
            MODEL,
            network=network,
            batch=batch,
            threads=threads,
            peers=peers,
            seconds=seconds,
            progress=part(progress, start, start + share),
        )
        comparisons.append(comparison)
    return Demo(
        model=MODEL,
        predictions=predictions,
        right_torch=sum(p.torch.label == p.label for p in predictions),
        right_fastconv=sum(p.fastconv.label == p.label for p in predictions),
        identical=all(p.torch.label == p.fastconv.label for p in predictions),
        comparisons=comparisons,
    )


def classify_photos(network: nn.Module, progress: Progress) -> list[Prediction]:
    import fastconv

    names = class_names()
    batch = photos()
    progress("optimising the model", 0)
    optimized = fastconv.optimize(network, (load_photo(batch[0].path)[None],))
    predictions = []
    for index, (path, label) in enumerate(batch):
        progress("classifying photos", index / len(batch))
        image = load_photo(path)[None]
        answers = [top_answer(model, image, names) for model in (network, optimized)]
        predictions.append(Prediction(path.name, label, names[label], *answers))
    return predictions


def top_answer(model: Callable[[Tensor], Tensor], image: Tensor, names: list[str]) -> Answer:
    with torch.inference_mode():
        probabilities = model(image).softmax(dim=1)[0]
    label = int(probabilities.argmax())
    return Answer(label, names[label], float(probabilities[label]))
