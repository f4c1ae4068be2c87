"""A recipe carried out: from scratch or from published weights, interrupted and taken up again."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import fastconv
from fastconv.machine import cores
from fastconv.models import Network
from fastconv.progress import Progress, silent
from fastconv.recipes import checkpoint as files
from fastconv.recipes.augment import Wanted, augmentation
from fastconv.recipes.checkpoint import Checkpoint, Epoch
from fastconv.recipes.fit import accuracy, fit_epoch, learning_rate
from fastconv.recipes.images import padded
from fastconv.recipes.loader import Batch, Reader, batches, in_order, mixed, shuffled
from fastconv.recipes.preprocess import (
    EFFICIENTNET_LITE_MEAN,
    EFFICIENTNET_LITE_STD,
    Preprocessing,
    colours,
)
from fastconv.recipes.recipe import Recipe, input_shape, untrained
from fastconv.recipes.sources import Shape, Split, load_split
from fastconv.recipes.transfer import (
    freeze_first,
    last_layer,
    pretrained,
    stored_features,
)

CHECKPOINT = "checkpoint.safetensors"
FEATURES = "features.safetensors"


@dataclass
class Task:
    """What one epoch trains on, what it is judged by, and what of the network takes part."""

    model: Network
    forward: Callable[[Tensor], Tensor]
    train: Callable[[int], Iterable[Batch]]  # by epoch
    test: Callable[[], Iterable[Batch]]
    steps: int  # an epoch
    frozen: list[nn.Module]
    save_every: int  # epochs

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]


def default_workers() -> int:
    """Processes that make batches: half of the cores, at most 4; the others train."""
    return max(1, min(4, cores() // 2))


@contextmanager
def threads_beside(workers: int) -> Iterator[None]:
    """Leaves the workers a core each, and the network the other threads.

    OpenMP's threads spin while they wait for one that a worker keeps from running: LeNet-5, 2
    threads beside one worker on 2 cores: 4.5 s an epoch of 1000 digits, one thread 0.16 s.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before - workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    data: Split | None = None,
    progress: Progress = silent,
) -> Checkpoint:
    """Trains the recipe's network and writes out/checkpoint.safetensors after every epoch.

    resume: goes on after the last finished epoch; the weights are then those of a run that was
        never interrupted, to the bit on the same machine and number of threads.
    workers: processes that read and augment images; default_workers() if None. Each takes a thread
        from the network, and the images are the same whatever their number.
    data: images in place of those that recipe.data names, squares of padded(recipe.size) pixels.
    Raises FloatingPointError where the loss becomes NaN;
    ValueError where `out` holds a checkpoint and resume is False, or one of another recipe;
    ImageError naming a file; OSError where the disk is full, with the last checkpoint kept.
    """
    path = out / CHECKPOINT
    earlier = find_earlier(path, recipe, resume)
    if earlier is not None and earlier[0].finished:
        return earlier[0]
    out.mkdir(parents=True, exist_ok=True)
    shape = Shape(input_shape(recipe.network)[0], padded(recipe.size))
    if data is None:
        data = load_split(recipe.data, shape)
    check_images(recipe, data, shape)
    workers = default_workers() if workers is None else workers
    with torch.random.fork_rng(devices=[]), threads_beside(workers):
        torch.manual_seed(recipe.seed)
        task, state = prepare(recipe, data, out, workers, progress)
        optimizer = torch.optim.AdamW(task.parameters(), weight_decay=recipe.decay)
        if earlier is not None:
            found, tensors = earlier
            if found.classes != state.classes:
                raise ValueError(f"{path} was trained on other classes than {recipe.data} has now")
            state = found
            files.load_weights(task.model, files.weights(tensors))
            files.restore_optimizer(optimizer, tensors)
        run(task, state, optimizer, path, progress)
    return state


def check_images(recipe: Recipe, data: Split, shape: Shape) -> None:
    for part in data:
        got = tuple(part.read([0]).shape[1:])
        wanted = (shape.channels, shape.side, shape.side)
        if got != wanted:
            raise ValueError(
                f"{recipe.network} takes images of {by(wanted)}, got {by(got)}: squares of "
                f"padded({recipe.size}) pixels are read, to crop {recipe.size} from"
            )


def by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def find_earlier(
    path: Path, recipe: Recipe, resume: bool
) -> tuple[Checkpoint, dict[str, Tensor]] | None:
    if not path.exists():
        return None
    if not resume:
        raise ValueError(f"{path} exists: go on with --resume, or choose another folder")
    found, tensors = files.load(path)
    if unlike := found.recipe.unlike(recipe):
        raise ValueError(f"{path} is of another recipe ({'; '.join(unlike)})")
    return found, tensors


def prepare(
    recipe: Recipe, data: Split, out: Path, workers: int, progress: Progress
) -> tuple[Task, Checkpoint]:
    """The network as the form begins with it, and where its batches come from."""
    classes = data.train.classes
    scratch = recipe.form == "scratch"
    progress("reading the training set", 0)
    seen = colours(data.train) if scratch or "pca" in recipe.augment else None
    if scratch:
        assert seen is not None
        model = untrained(recipe.network, len(classes))
        preprocessing = seen.preprocessing(recipe.size)
    else:
        model = pretrained(recipe.network, len(classes))
        preprocessing = Preprocessing(recipe.size, EFFICIENTNET_LITE_MEAN, EFFICIENTNET_LITE_STD)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = Checkpoint(recipe, classes, preprocessing)
    if recipe.form == "features":
        return head_task(model, state, data, out, workers, progress), state

    frozen = freeze_first(model, recipe.frozen) if recipe.form == "frozen" else []
    if recipe.swapped:
        fastconv.swap_(model)
    wanted = Wanted(
        recipe.size,
        padded(recipe.size),
        len(preprocessing.mean),
        seen.covariance if seen else None,
    )
    augment = augmentation(recipe.augment, wanted)
    count = len(data.train.labels)

    def shown(epoch: int) -> Iterable[Batch]:
        seed = mixed(recipe.seed, epoch)
        reader = Reader(data.train, preprocessing, augment, seed)
        return batches(reader, shuffled(count, recipe.batch, seed), workers)

    task = Task(
        model,
        model,
        shown,
        lambda: in_order(Reader(data.test, preprocessing), recipe.batch),
        len(shuffled(count, recipe.batch, 0)),
        frozen,
        save_every=1,
    )
    return task, state


def head_task(
    model: Network,
    state: Checkpoint,
    data: Split,
    out: Path,
    workers: int,
    progress: Progress,
) -> Task:
    """The last layer alone, on features computed once; saved when done, for it takes seconds."""
    recipe = state.recipe
    found = stored_features(
        out / FEATURES, model, data._asdict(), state.preprocessing, recipe, workers, progress
    )
    *_, head = last_layer(model)
    model.requires_grad_(False)
    head.requires_grad_(True)
    labels = data.train.labels

    def shown(epoch: int) -> Iterable[Batch]:
        for places in shuffled(len(labels), recipe.batch, mixed(recipe.seed, epoch)):
            yield found["train"][places], labels[places]

    return Task(
        model,
        head,
        shown,
        lambda: [(found["test"], data.test.labels)],
        len(shuffled(len(labels), recipe.batch, 0)),
        [module for module in model.modules() if module is not head],
        save_every=recipe.epochs,
    )


def run(
    task: Task,
    state: Checkpoint,
    optimizer: torch.optim.Optimizer,
    path: Path,
    progress: Progress,
) -> None:
    """The epochs that are still to come; every one draws its numbers from the seed and its own."""
    recipe = state.recipe
    steps = recipe.epochs * task.steps

    def rate_from(done: int) -> Callable[[int], float]:
        return lambda step: learning_rate(done + step, steps, recipe.rate)

    while not state.finished:
        epoch = len(state.history)
        began = time.perf_counter()
        torch.manual_seed(mixed(recipe.seed, epoch))
        task.model.train()
        for module in task.frozen:
            module.training = False
        loss = fit_epoch(
            task.forward,
            task.train(epoch),
            optimizer,
            rate_from(epoch * task.steps),
            recipe.smoothing,
        )
        seconds = time.perf_counter() - began
        task.model.eval()
        right = accuracy(task.forward, task.test())
        state.history.append(Epoch(loss, right, seconds))
        if state.finished or len(state.history) % task.save_every == 0:
            files.save(path, state, task.model, optimizer)
        progress(
            f"epoch {epoch + 1} of {recipe.epochs}: loss {loss:.3f}, {right:.1%} right",
            len(state.history) / recipe.epochs,
        )
