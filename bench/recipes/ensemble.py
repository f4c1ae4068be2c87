"""LeNet-5 on digits: one network from scratch, and 3 to 15 whose outputs are averaged."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastconv.progress import Progress
from fastconv.recipes import recipe, train
from fastconv.recipes.evaluate import evaluate
from fastconv.recipes.plots import precision_recall, write
from fastconv.recipes.train import CHECKPOINT

COUNTS = (1, 3, 5, 9, 15)
EPOCHS = 15  # of each member; the one network of `digits` has the recipe's own 40


def digits(folder: Path, progress: Progress) -> dict[str, Any]:
    """The recipe of `fastconv train lenet5 --data digits`, timed, with its curves drawn."""
    with TemporaryDirectory() as run:
        trained = train(recipe("lenet5", "digits"), Path(run), progress=progress)
        found, curves = evaluate([Path(run) / CHECKPOINT])
    write(precision_recall(curves, "LeNet-5 on digits"), folder / "precision-recall.png")
    return {
        "held out": found.images,
        "top1": found.top1,
        "mean_average_precision": found.mean_average_precision,
        "epochs": len(trained.history),
        "training_seconds": sum(epoch.seconds for epoch in trained.history),
    }


def ensembles(folder: Path, progress: Progress) -> list[dict[str, Any]]:
    """Networks of other seeds, alone and together: the first so many of 15."""
    paths = []
    for seed in range(max(COUNTS)):
        progress(f"training network {seed + 1}", seed / max(COUNTS))
        paths.append(folder / f"member-{seed}" / CHECKPOINT)
        settings = recipe("lenet5", "digits", epochs=EPOCHS, seed=seed)
        train(settings, paths[-1].parent, resume=True)
    rows = []
    for count in COUNTS:
        found, _ = evaluate(paths[:count])
        alone = sum(found.members.values()) / count
        rows.append({"networks": count, "top1": found.top1, "mean top1 alone": alone})
    return rows
