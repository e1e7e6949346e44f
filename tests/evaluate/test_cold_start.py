"""The measurement: what is asked, what counts as like, agreeing or copied, and the statistics."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from namesake.backbone import Backbone
from namesake.edits import Edit, SecondPath, TokenEdit, about
from namesake.errors import Refusal
from namesake.evaluate import cold_start
from namesake.evaluate.cold_start import (
    KINDS,
    WORD,
    Ruler,
    by_concept,
    by_kind,
    chosen,
    interval,
    measure,
    measure_concept,
    paired,
    part_of,
    questions,
    reference_of,
    summary,
    table,
)
from namesake.picturebook.concept import SPLITS
from namesake.picturebook.draw import Truth, draw
from namesake.picturebook.judge import Judge, _network, heads, labels
from namesake.picturebook.scene import SMALL_WORLD

SPLIT = "tuning"


class Oracle(Judge):
    """Reads the drawings that it was shown by their truth, and knows any picture again."""

    def __init__(self, drawings):
        self.world, self.heads = SMALL_WORLD, heads(SMALL_WORLD)
        self.truths = {drawing.picture.tobytes(): labels(drawing.truth, SMALL_WORLD) for drawing in drawings}

    def sketch(self):
        return torch.full((256,), float(len(self.truths)))

    def judge(self, pictures):
        read = [self.truths[picture.numpy().tobytes()] for picture in pictures]
        out = {}
        for head, classes in self.heads.items():
            out[head] = torch.full((len(read), len(classes)), -9.0)
            for row, truth in enumerate(read):
                out[head][row, max(truth[head], 0)] = 0.0
        return out

    def identity(self, pictures, boxes=None):
        flat = pictures.flatten(1).float() - 127
        where = 0 if boxes is None else (boxes.double() @ torch.tensor([1.0, 2.0, 3.0, 4.0]).double()).float()[:, None]
        dice = torch.Generator().manual_seed(0)
        return torch.nn.functional.normalize(flat @ torch.randn(flat.shape[1], 128, generator=dice) + where, dim=-1)


@pytest.fixture(scope="module")
def made():
    return chosen(SPLIT, SMALL_WORLD, 1)[0]


@pytest.fixture(scope="module")
def measured(made):
    """The figures of the truth itself and of the reference, by an oracle."""
    asked = questions(made, SMALL_WORLD, SPLIT)
    drawings = [draw(made, question.scene) for question in asked]
    reference = draw(made, reference_of(made, SMALL_WORLD))
    ruler = Ruler(Oracle([*drawings, reference]), made, SMALL_WORLD, SPLIT, asked)
    which = list(range(len(asked)))
    return (
        ruler.measure(torch.from_numpy(np.stack([one.picture for one in drawings])), which),
        ruler.measure(torch.from_numpy(np.stack([reference.picture] * len(asked))), which),
    )


def test_concepts_are_of_the_split_and_of_all_categories():
    concepts = chosen(SPLIT, SMALL_WORLD, 30)
    assert {one.category for one in concepts} == set(SMALL_WORLD.categories)
    assert len({one.number for one in concepts}) == 30
    assert all(one.number in SPLITS[SPLIT] for one in concepts)


def test_every_question_asks_for_what_its_scene_shows_and_for_another_place_and_pose_than_the_reference():
    for made in chosen(SPLIT, SMALL_WORLD, 8):
        asked = questions(made, SMALL_WORLD, SPLIT)
        assert [question.kind for question in asked] == list(KINDS)
        reference = labels(Truth(made, reference_of(made, SMALL_WORLD)), SMALL_WORLD)
        for question in asked:
            wanted = labels(Truth(made, question.scene), SMALL_WORLD)
            assert all(wanted[head] >= 0 for head in question.heads)
            assert all(wanted[head] != reference[head] for head in question.unlike)
            assert set(question.unlike) <= set(question.heads)
            assert question.prompt("<it>").count("<it>") == 1
            assert "{" not in question.about("red cat")
        assert {"place", "size", "side", "turn"} == {head for question in asked for head in question.unlike}
        assert asked == questions(made, SMALL_WORLD, SPLIT)
    assert asked[0].about("apple").startswith("an apple ")
    assert f"a small {made.category}" in asked[3].about(made.category) or "a big" in asked[3].about(made.category)


def test_the_truth_is_first_agrees_and_copies_nothing(measured):
    truth, _ = measured
    alone = [place for place, kind in enumerate(KINDS) if kind != "second thing"]
    assert all(truth["rank"][place] == 1 for place in alone)
    assert all(truth["likeness"][place] == pytest.approx(1, abs=1e-4) for place in alone)
    said = [value for rows in truth["agrees"].values() for value in rows if value is not None]
    assert said
    assert all(said)
    assert [value for value in truth["copied"]["place"] if value is not None] == [0, 0, 0, 0]
    assert [value for value in truth["copied"]["pose"] if value is not None] == [0, 0, 0]


def test_the_reference_copies_itself(measured):
    _, copy = measured
    assert [value for value in copy["copied"]["place"] if value is not None] == [1, 1, 1, 1]
    assert [value for value in copy["copied"]["pose"] if value is not None] == [1, 1, 1]
    assert not any(value for value in copy["agrees"]["place"] if value is not None)
    assert all(likeness < 0.99 for likeness in copy["likeness"])


def test_a_concept_is_measured_whole(made, sd15, monkeypatch):
    """On a model and a judge of random weights: every arm and bound has a figure for each picture."""
    monkeypatch.setattr(cold_start, "GALLERY", 3)
    torch.manual_seed(0)
    judge = Judge(_network(SMALL_WORLD), SMALL_WORLD)
    seen = []

    def arm(backbone, picture, class_word):
        seen.append((picture.shape, class_word))
        parts = (TokenEdit(WORD, (torch.zeros(1, 32),)), SecondPath(class_word))
        return Edit(parts, about(backbone, "test", class_word))

    backbone = Backbone.load(sd15, device="cpu")
    figures, shown, reference = measure_concept(
        backbone, judge, {"arm": arm}, made, SMALL_WORLD, SPLIT, seeds=1, steps=1
    )
    assert seen == [((1, 64, 64, 3), made.category)]
    bounds = ["truth through the autoencoder", "copy of the reference", "class word", "fullest description"]
    assert list(figures["arms"]) == list(shown) == [*bounds, "arm"]
    for measured in figures["arms"].values():
        assert len(measured["likeness"]) == len(measured["rank"]) == 8
        assert set(measured["rank"]) <= {1, 2, 3}
        assert sum(value is not None for value in measured["agrees"]["place"]) == 4
    assert (shown["copy of the reference"] == reference).all()
    assert made.category in figures["description"].split()
    assert json.loads(json.dumps(figures)) == figures


def result(likeness, ranks, copied):
    arm = {
        "likeness": likeness,
        "rank": ranks,
        "agrees": {"category": [1] * 8, "place": [1, 0] + [None] * 6},
        "copied": {"place": copied, "pose": [None] * 8},
    }
    base = {**arm, "likeness": [0.0] * 8, "copied": {"place": [0, 1] + [None] * 6, "pose": [None] * 8}}
    return {"arms": {"class word": base, "new word": arm}, "seconds": {"new word": 2.0}}


def test_figures_are_means_of_concepts_and_gains_are_paired():
    results = [
        result([0.5] * 8, [1, 2] * 4, [1, 1] + [None] * 6),
        result([0.7] * 8, [1] * 8, [0, 1] + [None] * 6),
    ]
    assert by_concept(results, "rank 1")["new word"].tolist() == [0.5, 1.0]
    assert by_concept(results, "prompt")["new word"].tolist() == [0.5, 0.5]
    made = summary(results)["new word"]
    assert made["likeness"]["mean"] == pytest.approx(0.6)
    assert made["place copied"]["gain"] == pytest.approx(0.25)
    assert np.isnan(made["pose copied"]["mean"])
    assert "| new word | 0.600 (0.500 to 0.700) | 75% (50% to 100%) |" in table(results)
    assert table(results).splitlines()[-1].endswith("| 2.0 |")
    assert by_kind(results).splitlines()[-1].startswith("| new word | 100% | 50% |")
    itself, more = paired(results, [("new word", "new word"), ("new word", "class word")]).splitlines()[-2:]
    assert "| +0.000 (+0.000 to +0.000) | +0.0 (+0.0 to +0.0) |" in itself
    assert "| +0.600 (+0.500 to +0.700) | +0.0 (" in more
    with pytest.raises(Refusal, match="no results"):
        by_concept([], "likeness")


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(3, 1, 400)
    mean, low, high = interval(values)
    half = 1.96 * values.std() / 20
    assert (mean, low, high) == pytest.approx((values.mean(), mean - half, mean + half), abs=0.02)
    assert interval(np.array([1.0, np.nan])) == (1.0, 1.0, 1.0)


def test_what_is_measured_is_not_measured_again(tmp_path, monkeypatch):
    calls = []

    def once(backbone, judge, arms, made, world, split, **_):
        calls.append(made.number)
        said = {"prompts": list(KINDS), "category": "cat", "description": "a cat"}
        figures = {**result([0.5] * 8, [1] * 8, [None] * 8), **said}
        picture = np.zeros((64, 64, 3), np.uint8)
        return figures, {"new word": np.stack([picture] * 8)}, picture

    sketches = [torch.zeros(1024)]
    monkeypatch.setattr(cold_start, "measure_concept", once)
    monkeypatch.setattr("namesake.edits.sketch", lambda backbone: sketches[0])
    model = SimpleNamespace(vae=None, pipeline=None)
    arguments = (model, Oracle([]), {"new word": lambda *_: None}, tmp_path, SMALL_WORLD)
    first = measure(*arguments, concepts=2)
    assert len(calls) == 2
    assert len(list(tmp_path.glob("*.png"))) == 2
    next(tmp_path.glob(f"{calls[1]}-*.json")).unlink()  # a kill before it was written
    assert measure(*arguments, concepts=2) == first
    assert calls[2:] == calls[1:2]
    sketches[0] = torch.ones(1024)  # other weights
    measure(*arguments, concepts=2)
    assert len(calls) == 5
    made = chosen(SPLIT, SMALL_WORLD, 1)[0]
    other = Oracle([draw(made, reference_of(made, SMALL_WORLD))])
    measure(arguments[0], other, *arguments[2:], concepts=2)  # another judge
    assert len(calls) == 7
    assert len(list(tmp_path.glob(f"{calls[0]}-*.json"))) == 3  # of all three
    sketches[0] = torch.zeros(1024)
    assert measure(*arguments, concepts=2) == first
    assert len(calls) == 7


def test_parts_are_told_as_fractions():
    assert (part_of("0/1"), part_of("1/2")) == ((0, 1), (1, 2))
    for told in ("2/2", "x", "1", "-1/2", "1/0", "0/2/2"):
        with pytest.raises(Refusal, match="The part is"):
            part_of(told)
