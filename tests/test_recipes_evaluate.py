"""fastconv evaluate and predict: numbers checked by hand, crops, ensembles, pictures."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastconv import tables
from fastconv.cli import app
from fastconv.data import class_names, photos
from fastconv.recipes import Split, images, load_split, plots, recipe, train
from fastconv.recipes.evaluate import precision_recall, top
from fastconv.recipes.plots import Point, pareto
from fastconv.recipes.predict import Ensemble, predictor, published, views
from fastconv.recipes.sources import Shape


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def few() -> Split:
    digits = load_split("digits", Shape(1, images.padded(32)))
    return Split(*(part.subset(torch.arange(0, len(part.labels), 10)) for part in digits))


@pytest.fixture(scope="module")
def trained(few, tmp_path_factory) -> list[Path]:
    """Three networks that have seen 400 digits three times, from other first weights each."""
    paths = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("trained")
        settings = recipe("lenet5", "digits", epochs=3, batch=20, augment=(), seed=seed)
        train(settings, folder, data=few, workers=0)
        paths.append(folder / "checkpoint.safetensors")
    return paths


def test_top_k_by_hand():
    said = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25], [0.0, 0.9, 0.1]])
    labels = torch.tensor([0, 1, 1, 0])
    assert top(said, labels) == 1 / 4
    assert top(said, labels, 2) == 3 / 4
    assert top(said, labels, 3) == 1


def test_average_precision_by_hand():
    """Class 1 is said of four images in the order right, wrong, right, wrong: (1/1 + 2/3) / 2."""
    said = torch.tensor([0.9, 0.8, 0.7, 0.1])
    labels = torch.tensor([1, 0, 1, 0])
    curves = precision_recall(torch.stack([1 - said, said, 0 * said], 1), labels, ("a", "b", "c"))
    assert [curve.name for curve in curves] == ["a", "b"]  # no image of c: no curve
    assert curves[1].average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert curves[0].average_precision == pytest.approx((1 + 2 / 3) / 2)


def test_crops_are_the_middle_the_corners_and_their_mirrors():
    places = torch.arange(36 * 36).view(1, 1, 36, 36)
    shown = list(views(places, 32, 10))
    starts = [int(view[0, 0, 0, 0]) for view in shown[::2]]
    assert starts == [2 * 36 + 2, 0, 4, 4 * 36, 4 * 36 + 4]
    for view, mirrored in zip(shown[::2], shown[1::2], strict=True):
        assert torch.equal(view.flip(3), mirrored)
    assert len(list(views(places, 32, 5))) == 5
    with pytest.raises(ValueError, match="crops must be one of 1, 5, 10, got 3"):
        next(views(places, 32, 3))


def test_an_ensemble_is_the_mean_of_its_networks(trained, few):
    result = run("evaluate", *trained, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["images"] == 1000
    split = load_split("digits", Shape(1, images.padded(32)))
    each = Ensemble([predictor(path) for path in trained]).of_each(split.test)
    alone = [predictor(path) for path in trained]
    for answers, member in zip(each, alone, strict=True):
        torch.testing.assert_close(
            answers[:40], member.probabilities(split.test.pixels[:40]), rtol=1e-4, atol=1e-6
        )
    right = (each.mean(0).argmax(1) == split.test.labels).double().mean()
    assert found["top1"] == pytest.approx(float(right))
    assert list(found["members"].values()) == pytest.approx(
        [float((one.argmax(1) == split.test.labels).double().mean()) for one in each]
    )
    # Chance is 10 %; together they read more than the mean of them does.
    mean = sum(found["members"].values()) / 3
    assert 0.5 < mean < found["top1"] < found["topk"] <= 1
    assert len(found["average_precision"]) == 10
    assert found["mean_average_precision"] == pytest.approx(
        sum(found["average_precision"].values()) / 10
    )


def mapped_file(address: int) -> str:
    """The file that the system has mapped at this address of the process, if any."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(end, 16) for end in line.split()[0].split("-"))
        if start <= address < stop:
            return line.split(maxsplit=5)[-1]
    return ""


def test_the_weights_of_a_member_lie_in_its_file(trained):
    member = predictor(trained[0])
    for name, parameter in member.network.named_parameters():
        assert mapped_file(parameter.data_ptr()) == str(trained[0]), name


def test_evaluate_draws_the_curves_and_prints_a_table(trained, tmp_path):
    picture = tmp_path / "curves.png"
    result = run("evaluate", trained[0], "--crops", 5, "--curves", picture, "--top", 2)
    assert result.exit_code == 0, result.output
    assert "top-2" in result.stdout
    with Image.open(picture) as image:
        assert image.width > 600
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_many_classes_get_names_for_the_least_precise():
    said = torch.rand(60, 30).softmax(1)
    curves = precision_recall(said, torch.arange(60) % 30, [str(i) for i in range(30)])
    axis = plots.precision_recall(curves, "chance").axes[0]
    named = [text.get_text().split()[0] for text in axis.get_legend().get_texts()]
    ordered = sorted(curves, key=lambda curve: curve.average_precision)
    assert named == [curve.name for curve in ordered[:10]]
    assert len(axis.lines) == 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "faces"], "has the classes face, other; the network was trained on 0, 1"),
        (["--crops", "2"], "crops must be one of 1, 5, 10, got 2"),
        (["--data", "nowhere"], "there is no folder nowhere"),
        (["--curves", "nowhere/curves.png"], "No such file or directory: 'nowhere/curves.png'"),
        (["--curves", "curves.docx"], "'docx' is not supported"),
    ],
)
def test_bad_arguments_are_one_sentence(trained, arguments, said):
    result = run("evaluate", trained[0], *arguments)
    assert result.exit_code in (1, 2)
    assert said.replace(" ", "") in "".join(result.stderr.replace("\u2502", "").split())
    assert "Traceback" not in result.stderr


def test_networks_of_other_images_are_no_ensemble(trained):
    with pytest.raises(ValueError, match="same classes and take images of one size"):
        Ensemble([predictor(trained[0]), published()])


def test_predict_names_photographs():
    chosen = [photo for photo in photos() if photo.label in (243, 559)]
    result = run("predict", *(photo.path for photo in chosen), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["images"]
    for photo in chosen:
        said = found[str(photo.path)]
        assert next(iter(said)) == class_names()[photo.label]
        assert list(said.values()) == sorted(said.values(), reverse=True)
        assert len(said) == 3


def test_predict_reads_digits_as_evaluate_does(trained, few, tmp_path):
    paths = []
    for place in range(5):
        paths.append(tmp_path / f"{place}.png")
        Image.fromarray(few.test.pixels[place, 0].numpy()).save(paths[-1])
    options = [option for path in trained for option in ("--checkpoint", path)]
    found = json.loads(run("predict", *paths, *options, "--top", 10, "--json").stdout)["images"]
    ensemble = Ensemble([predictor(path) for path in trained])
    wanted = ensemble.of_each(few.test.subset(torch.arange(5))).mean(0)
    for path, row in zip(paths, wanted, strict=True):
        said = found[str(path)]
        assert [said[str(digit)] for digit in range(10)] == pytest.approx(row.tolist(), abs=1e-5)


def test_the_pareto_front_is_what_nothing_beats():
    points = [Point("a", 70, 2), Point("b", 75, 5), Point("c", 72, 6), Point("d", 75, 9)]
    points += [Point("e", 80, 20), Point("f", 69, 2)]
    assert [point.name for point in pareto(points)] == ["a", "b", "e"]
    groups = {"torch": points, "fastconv": points}
    axis = plots.accuracy_against_latency(groups, "title", "label").axes[0]
    assert sorted(text.get_text() for text in axis.texts) == list("abcdef")


def test_names_are_shown_as_they_are():
    """And not read as marks of style, which [/c] would be without a beginning."""
    found = {"a[b].jpg": {"[/c]": 0.75}, "d:cat:.jpg": {"[red]": 0.5}}
    shown = tables.as_text(tables.predicted(found))
    assert all(name in shown for name in ("a[b].jpg", "[/c]", "d:cat:.jpg", "[red]"))
