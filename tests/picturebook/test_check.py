"""The check: bars are bars, only what a prompt asks is judged, and a miss is never a success."""

from __future__ import annotations

import errno
import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from namesake import backbone as backbones
from namesake import files
from namesake.errors import Refusal
from namesake.picturebook import check, draw_sheets
from namesake.picturebook.captions import Caption
from namesake.picturebook.check import Bar, asked, heeded, into_page, judge_bars, markdown, summary, world_of
from namesake.picturebook.concept import concept, number_of
from namesake.picturebook.dataset import Drawings
from namesake.picturebook.draw import Truth
from namesake.picturebook.judge import IGNORE, Judge, _network, heads, labels
from namesake.picturebook.scene import FULL_WORLD, SMALL_WORLD, Pose, Scene, Second, Style, World

CAT, BALL, MUG = (concept(number_of("reporting", name, 1)) for name in ("cat", "ball", "mug"))


def reading(rows):
    """Readings that say just these labels; where a label is open, the first class."""
    return {
        head: torch.eye(len(names))[[max(row[head], 0) for row in rows]].log().clamp(min=-50)
        for head, names in heads().items()
    }


def test_bars_are_held_from_the_bar_on():
    assert Bar("x", "y", 0.9, 0.9, 10).held
    assert not Bar("x", "y", 0.899, 0.9, 10).held
    assert Bar("x", "y", 0.2, 0.2, 10, at_most=True).held
    assert not Bar("x", "y", 0.21, 0.2, 10, at_most=True).held
    assert not Bar("x", "y", math.nan, 0.2, 0, at_most=True).held
    bars = [Bar("model", "place", 0.95, 0.9, 10), Bar("model", "style", 0.853, 0.9, 20)]
    assert bars[1].cells == ("model", "style", "20", "85.3 %", "at least 90 %", "MISSED by 4.7")
    assert markdown(bars).splitlines()[3] == "| model | style | 20 | 85.3 % | at least 90 % | MISSED by 4.7 |"
    assert summary(bars) == "1 of 2 bars hold; missed: model, style (85.3 %, at least 90 %)."
    assert summary(bars[:1]) == "All 1 bars hold."


def test_the_bars_of_the_judge():
    told = {"heads": dict.fromkeys(heads(), 0.98), "identity": 0.91, "twins": 0.3}
    after = {"heads": dict.fromkeys(heads(), 0.98) | {"worn": 0.9}, "identity": 0.86, "twins": 0.9}
    bars = judge_bars(told, after, 100, 50)
    assert len(bars) == 15
    assert [bar.name for bar in bars if not bar.held] == ["twins taken for the concept", "worn thing, share kept"]
    assert bars[-2].measured == pytest.approx(0.9 / 0.98)


def test_only_what_a_prompt_names_is_asked():
    scene = Scene("beach", Style("oil"), Pose(scale=0.7))
    want, under = asked(CAT, scene, Caption("a cat, oil", frozenset({"category", "style"})), FULL_WORLD)
    assert not under
    assert {head for head, label in want.items() if label != IGNORE} == {"category", "style"}
    assert heads()["category"][want["category"]] == "cat"
    assert heads()["style"][want["style"]] == "oil"
    nothing, _ = asked(CAT, scene, Caption("a thing", frozenset()), FULL_WORLD)
    assert set(nothing.values()) == {IGNORE}


@pytest.mark.parametrize("relation", ["beside", "on", "under"])
def test_first_and_second_thing_are_the_prompts(relation):
    scenes = [Scene(second=Second(BALL, relation), seed=seed) for seed in (0, 1)]
    words = Caption("", frozenset({"category", "relation", "second category", "color"}))
    wanted = [asked(CAT, scene, words, FULL_WORLD) for scene in scenes]
    drawn = [labels(Truth(CAT, scene)) for scene in scenes]  # beside: one stands left, one right
    right = heeded(reading(drawn), wanted)
    assert right["category"].tolist() == right["second category"].tolist() == [1, 1]
    for shown, first, second in (((CAT, MUG), 1, 0), ((MUG, BALL), 0, 1), ((MUG, MUG), 0, 0)):
        others = [labels(Truth(shown[0], Scene(second=Second(shown[1], relation), seed=seed))) for seed in (0, 1)]
        right = heeded(reading(others), wanted)
        assert right["category"].tolist() == [first] * 2
        assert right["second category"].tolist() == [second] * 2
    colors = heeded(reading(drawn), wanted)["color"].tolist()
    # Under: the judge reads the ball's. Beside, with the cat on the right: the same.
    expected = {"on": [1, 1], "under": [math.nan] * 2, "beside": [math.nan, 1]}[relation]
    assert colors == pytest.approx(expected, nan_ok=True)


def test_two_of_a_kind_must_both_be_there():
    words = Caption("", frozenset({"category", "relation", "second category"}))
    wanted = [asked(CAT, Scene(second=Second(CAT, "beside"), seed=1), words, FULL_WORLD)]
    for shown, right in (((CAT, CAT), (1, 1)), ((CAT, MUG), (1, 0)), ((MUG, CAT), (1, 0))):
        seen = heeded(reading([labels(Truth(shown[0], Scene(second=Second(shown[1], "beside"), seed=1)))]), wanted)
        assert (float(seen["category"]), float(seen["second category"])) == right


def test_a_second_thing_that_is_not_mentioned_is_not_expected():
    words = Caption("a cat", frozenset({"category"}))
    wanted = [asked(CAT, Scene(second=Second(BALL, "under")), words, FULL_WORLD)]
    right = heeded(reading([labels(Truth(CAT, Scene()))]), wanted)
    assert float(right["category"]) == 1
    assert right["second category"].isnan().all()


def test_the_truth_heeds_every_prompt(scenes):
    wanted, shown = [], []
    for made, scene, words in scenes("reporting", 150, 2):
        if scene.second is not None and "relation" not in words.named:
            continue
        wanted.append(asked(made, scene, words, FULL_WORLD))
        shown.append(labels(Truth(made, scene)))
    for head, right in heeded(reading(shown), wanted).items():
        assert bool(((right == 1) | right.isnan()).all()), head
        assert head == "mirror" or bool((right == 1).any()), head


def test_a_page_keeps_all_but_its_marked_place():
    page = f"above\n{check.MARK}\nold\n{check.END}\nbelow\n"
    new = into_page(page, "| table |\n")
    assert new == f"above\n{check.MARK}\n| table |\n{check.END}\nbelow\n"
    assert into_page(new, "| table |") == new
    for bad in ("no marks", f"{check.END} {check.MARK}", check.MARK):
        with pytest.raises(Refusal, match="no place for the table"):
            into_page(bad, "x")


def test_a_model_names_its_world(tmp_path):
    with pytest.raises(Refusal, match=r"no world\.json"):
        world_of(tmp_path)
    (tmp_path / "world.json").write_text('{"categories": 3}')
    with pytest.raises(Refusal, match=r"no world\.json"):
        world_of(tmp_path)
    (tmp_path / "world.json").write_text('{"categories": ["cat"], "places": ["beach"]}')
    assert world_of(tmp_path) == World(("cat",), ("beach",))


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def too_late(*_):
    raise AssertionError("it was measured")


def test_the_whole_check(tmp_path, monkeypatch, capsys):
    """With a model that draws the truth, an autoencoder that blackens everything, and a judge that knows nothing."""
    model, page = tmp_path / "model", tmp_path / "page.md"
    model.mkdir()
    world = {"categories": SMALL_WORLD.categories, "places": SMALL_WORLD.places}
    (model / "world.json").write_text(json.dumps(world))
    page.write_text(f"{check.MARK}\n{check.END}\n")
    torch.manual_seed(0)
    Judge(_network(SMALL_WORLD), SMALL_WORLD).save(tmp_path / "judge.safetensors")
    blind = SimpleNamespace(encode=lambda pictures: pictures, decode=torch.zeros_like)
    monkeypatch.setattr(backbones.Backbone, "load", lambda folder: blind)
    asked_for = []

    def truth(backbone, prompts, seed, progress):
        asked_for.extend(prompts)
        drawings = Drawings("reporting", SMALL_WORLD, seed)
        progress(len(prompts))
        return np.stack([drawings[i][0].picture for i in range(len(prompts))])

    monkeypatch.setattr(check, "draw_prompts", truth)
    for name, value in (("JUDGE_PICTURES", 48), ("GALLERY", 4), ("GROUPS", 2)):
        monkeypatch.setattr(check, name, value)
    assert not check.main(tmp_path / "out", model, tmp_path / "judge.safetensors", count=20, docs=page)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(tuple("0123456789"))
    assert "of 21 bars hold; missed: judge on unseen drawings, category" in last
    told = json.loads((tmp_path / "out" / "check.json").read_text())
    assert told["summary"] == last
    assert not told["held"]
    assert len(told["bars"]) == 21
    assert last in page.read_text()
    assert asked_for == [Drawings("reporting", SMALL_WORLD).scene(i)[2].text for i in range(20)]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"check.json", "check.md", "first.png", "prompts-1.png", "round_trips.png"}
    assert (tmp_path / "page_check.png").is_file()
    assert str(tmp_path) not in page.read_text()

    # What ends it leaves all that was there, and a place that cannot be written ends it before the measurement.
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        patch.setattr(check, "measure", lambda *_: ([Bar("x", "y", 1, 0.5, 1)], {}))
        with pytest.raises(Refusal, match="No space left"):
            check.main(tmp_path / "out", model, tmp_path / "judge.safetensors", docs=page)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(check, "measure", too_late)
    with pytest.raises(Refusal, match="cannot be made"):
        check.main(page / "out", model, tmp_path / "judge.safetensors")
    monkeypatch.setattr(files, "open", full, raising=False)
    for docs, option in ((None, "-o"), (page, "--docs")):
        with pytest.raises(Refusal, match=f"cannot be written to: No space left.*with {option}"):
            check.main(tmp_path / "out", model, tmp_path / "judge.safetensors", docs=docs)
    monkeypatch.undo()

    Judge(_network(World(("cat", "dog"), ("beach",))), World(("cat", "dog"), ("beach",))).save(
        tmp_path / "small.safetensors"
    )
    with pytest.raises(Refusal, match="does not know bird"):
        check.main(tmp_path / "out", model, tmp_path / "small.safetensors")
    with pytest.raises(Refusal, match="count is 3"):
        check.main(tmp_path / "out", model, count=3)


def test_sheets(tmp_path):
    written = draw_sheets.main(tmp_path / "new", seed=1, count=3, size=16, style="plain", place="beach", category="mug")
    assert [path.name for path in written] == ["categories.png", "places.png", "drawings.png"]
    assert all(path.stat().st_size > 1000 for path in written)
    for bad in (
        {"count": 0},
        {"size": 5},
        {"seed": -1},
        {"split": "none"},
        {"category": "cow"},
        {"style": "x"},
        {"place": "y"},
    ):
        with pytest.raises(Refusal, match=next(iter(bad))):
            draw_sheets.main(tmp_path / "not", **bad)
    assert not (tmp_path / "not").exists()
