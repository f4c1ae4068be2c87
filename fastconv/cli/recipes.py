"""fastconv train, evaluate and predict: networks for images of one's own."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import fastconv.tables as tables
from fastconv.cli.common import (
    INTERRUPTED,
    Json,
    app,
    expected_errors,
    messages,
    output,
    print_json,
    progress_bar,
)
from fastconv.recipes import plots, train
from fastconv.recipes import recipe as recipe_of
from fastconv.recipes.evaluate import evaluate
from fastconv.recipes.predict import Ensemble, predictor, published
from fastconv.recipes.train import CHECKPOINT


class Form(StrEnum):
    SCRATCH = "scratch"
    FEATURES = "features"
    FROZEN = "frozen"
    ALL = "all"


Data = Annotated[
    str,
    typer.Option(
        help="digits, faces, or a folder with one folder of images a class; if it has folders "
        "train and test, with one a class in each."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that read images; half as many as cores, if not given."),
]


@app.command("train")
def train_command(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="Of `fastconv models`.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    form: Annotated[
        Form,
        typer.Option(
            help="From scratch, or from published weights: a head on features computed once, all "
            "but the first layers, or all."
        ),
    ] = Form.SCRATCH,
    size: Annotated[int | None, typer.Option(min=1, help="Height and width it sees.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step.")] = None,
    rate: Annotated[float | None, typer.Option(help="The highest learning rate.")] = None,
    augment: Annotated[
        str | None,
        typer.Option(help="Of mirror, crop, rotate, shear, warp, colour, pca: with commas; or ''."),
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    swap: Annotated[bool, typer.Option(help="Train on our layers, or on torch's.")] = True,
    workers: Workers = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last epoch.")] = False,
    as_json: Json = False,
) -> None:
    """Train a network on images, from scratch or from published weights."""
    names = None if augment is None else tuple(name for name in augment.split(",") if name)
    with expected_errors("NETWORK / --data / --out"), progress_bar() as progress:
        recipe = recipe_of(
            network,
            data,
            form.value,
            size=size,
            epochs=epochs,
            batch=batch,
            rate=rate,
            augment=names,
            seed=seed,
            swapped=swap,
        )
        try:
            trained = train(recipe, out, resume=resume, workers=workers, progress=progress)
        except KeyboardInterrupt:
            kept = "--resume goes on after the last epoch" if (out / CHECKPOINT).exists() else ""
            messages.print(f"fastconv: interrupted{'; ' * bool(kept)}{kept}", highlight=False)
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json({**asdict(trained), "checkpoint": str(out / CHECKPOINT)})
    else:
        output.print(tables.training(trained))
        typer.echo(f"checkpoint: {out / CHECKPOINT}")


Crops = Annotated[
    int,
    typer.Option(
        help="Views of an image, averaged: the middle; of 5 the corners too; of 10 all of these "
        "mirrored too, where that changes no meaning: it does a digit's."
    ),
]


class Part(StrEnum):
    TEST = "test"
    TRAIN = "train"
    ALL = "all"


@app.command("evaluate")
def evaluate_command(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CHECKPOINT...", help="Of several the outputs are averaged."),
    ],
    data: Annotated[
        str | None, typer.Option(help="As for train; what the first was trained on, if not given.")
    ] = None,
    part: Annotated[
        Part, typer.Option(help="Held-out images, the others, or all of a folder.")
    ] = Part.TEST,
    crops: Crops = 1,
    top: Annotated[int, typer.Option(min=1, help="Count a label among so many classes.")] = 5,
    curves: Annotated[
        Path | None, typer.Option(help="Draw the precision-recall curves into this PNG.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    as_json: Json = False,
) -> None:
    """Tell how good trained networks are: top-k, average precision of each class, their mean."""
    with expected_errors("CHECKPOINT / --data / --crops / --curves"):
        found, lines = evaluate(
            checkpoints, data, part=part.value, crops=crops, k=top, workers=workers
        )
        if curves is not None:
            names = f"{len(checkpoints)} networks" if len(checkpoints) > 1 else "one network"
            plots.write(plots.precision_recall(lines, f"{names} on {found.data}"), curves)
    if as_json:
        print_json(asdict(found))
    else:
        output.print(*tables.evaluation(found))


@app.command("predict")
def predict_command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...")],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            help="Of `fastconv train`; may be repeated, then the outputs are averaged. Without one "
            "EfficientNet-Lite0 tells the 1000 classes of ImageNet."
        ),
    ] = None,
    crops: Crops = 1,
    top: Annotated[int, typer.Option(min=1, help="The most probable classes to name.")] = 3,
    as_json: Json = False,
) -> None:
    """Name the most probable classes of image files."""
    with expected_errors("IMAGE / --checkpoint / --crops"):
        members = [predictor(path) for path in checkpoint or []] or [published()]
        ensemble = Ensemble(members)
        found: dict[str, dict[str, float]] = {}
        for path, said in zip(images, ensemble.of_files(images, crops), strict=True):
            best = said.topk(min(top, len(said)))
            named = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            found[str(path)] = {ensemble.classes[label]: share for label, share in named}
    if as_json:
        print_json({"images": found})
    else:
        typer.echo(tables.as_text(tables.predicted(found)))
