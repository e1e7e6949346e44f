"""The stream of drawings: of one split only, never twice the same, and skewed where it says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from minis import Pool

from namesake.data import sources
from namesake.errors import Refusal
from namesake.picturebook import dataset
from namesake.picturebook.concept import CHARACTERS, SPLITS
from namesake.picturebook.dataset import (
    HELD_OUT_FAMILY,
    HELD_OUT_FAR,
    HELD_OUT_NEAR,
    SKEW,
    CutDrawings,
    Drawings,
    Views,
    draw_ahead,
    read_ahead,
    seen,
    views_ahead,
)
from namesake.picturebook.figures import BY_NAME
from namesake.picturebook.judge import Judge
from namesake.picturebook.scene import SMALL_WORLD, World


@pytest.mark.parametrize("split", SPLITS)
def test_drawings_never_show_a_concept_of_another_split(split, scenes):
    names, pairs = set(), 0
    for made, scene, _ in scenes(split, 1500, 3):
        if made.name:
            names.add(made.name)
        else:
            assert made.number in SPLITS[split]
        if scene.second is not None:
            pairs += 1
            assert scene.second.concept.number in SPLITS[split]
    assert pairs > 200
    assert bool(names) == (split == "training")


def test_no_split_sees_the_scenes_or_captions_of_another():
    """Not even at one seed: what is reported on is drawn and said as nothing that was trained on."""
    some = {split: [Drawings(split, SMALL_WORLD, characters=0).scene(i) for i in range(300)] for split in SPLITS}
    styles = {split: {scene.style for _, scene, _ in drawn} for split, drawn in some.items()}
    assert all(len(seen) == 300 for seen in styles.values())
    assert len(set.union(*styles.values())) == 900
    same = [sum(a[2].text == b[2].text for a, b in zip(some["training"], some[split], strict=True)) for split in SPLITS]
    assert same[0] == 300
    assert max(same[1:]) < 5
    # What models were trained on stays what it was.
    assert some["training"][7][2].text == "a green starred rocket at sunrise, blueprint"


def test_drawings_keep_to_their_world(scenes):
    for made, scene, _ in scenes("training", 1000, world=SMALL_WORLD):
        assert made.category in SMALL_WORLD.categories
        assert scene.place in (*SMALL_WORLD.places, "studio")
        assert scene.second is None or scene.second.concept.category in SMALL_WORLD.categories


def test_a_drawing_is_a_function_of_seed_and_index():
    one, again, other = Drawings(seed=1), Drawings(seed=1), Drawings(seed=2)
    for i in (0, 17, 999_999):
        (a, said), (b, repeated), (c, _) = one[i], again[i], other[i]
        assert np.array_equal(a.picture, b.picture)
        assert said == repeated
        assert not np.array_equal(a.picture, c.picture)
    assert Drawings(size=96)[0][0].picture.shape == (96, 96, 3)


class OneAfterAnother(Pool):
    jobs: list = []  # noqa: RUF012

    def submit(self, function, job):
        OneAfterAnother.jobs.append(job)
        return super().submit(function, job)


def test_workers_draw_every_index_once_and_only_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "ProcessPoolExecutor", OneAfterAnother)
    monkeypatch.setattr(OneAfterAnother, "jobs", [])

    def numbered(job):
        start, stop = job[-2:]
        return np.arange(start, stop, dtype=np.int64), [str(i) for i in range(start, stop)]

    monkeypatch.setattr(dataset, "_draw_range", numbered)
    assert list(draw_ahead(tmp_path, 6_540)) == [*range(0, 6_501, 100), 6_540]
    pictures, captions = read_ahead(tmp_path)
    assert pictures.tolist() == list(range(6_540))
    assert captions == [str(i) for i in range(6_540)]
    spans = [range(*job[-2:]) for job in OneAfterAnother.jobs]
    assert sorted(i for span in spans for i in span) == list(range(6_540))

    (tmp_path / "0001.json").unlink()  # as a kill between the two files of a shard leaves it
    OneAfterAnother.jobs = []
    assert list(draw_ahead(tmp_path, 6_540))[-1] == 6_540
    assert [job[-2:] for job in OneAfterAnother.jobs] == [(start, start + 100) for start in range(2000, 4000, 100)]
    assert read_ahead(tmp_path)[0].tolist() == list(range(6_540))


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows blocks no signals")
def test_ctrl_c_while_processes_start_is_heard_by_the_one_that_starts_them():
    code = """if True:
        import os, signal, subprocess, sys
        from namesake.picturebook.dataset import deaf_children
        try:
            with deaf_children():
                child = subprocess.Popen([sys.executable, "-c", "import sys, time; time.sleep(1); sys.exit(7)"])
                for pid in (child.pid, os.getpid()):
                    os.kill(pid, signal.SIGINT)
            print("deaf")
        except KeyboardInterrupt:
            print("heard", child.wait())
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "heard 7\n"


@pytest.mark.skipif(os.name != "posix", reason="needs process groups")
def test_ctrl_c_ends_drawing_at_once_and_the_workers_say_nothing(tmp_path):
    code = f"""if True:
        from pathlib import Path
        from namesake.picturebook.dataset import draw_ahead
        for done in draw_ahead(Path({str(tmp_path)!r}), 1_000_000, workers=2):
            print(done, flush=True)
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run = subprocess.Popen([sys.executable, "-c", code], text=True, start_new_session=True, **pipes)
    assert run.stdout is not None
    while run.stdout.readline().strip() != "100":
        assert run.poll() is None
    os.killpg(run.pid, signal.SIGINT)  # as a terminal sends it: to all of them
    _, said = run.communicate(timeout=60)  # a million drawings take an hour
    assert run.returncode != 0
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1, said
    assert not list(tmp_path.iterdir())


def test_a_program_that_ends_while_it_hears_of_a_drawing_does_not_wait_for_all(tmp_path):
    # Ctrl-C in the loop's body, where the traceback keeps hold of the loop: it once waited for all that was submitted.
    code = f"""if True:
        from pathlib import Path
        from namesake.picturebook.dataset import draw_ahead
        for done in draw_ahead(Path({str(tmp_path)!r}), 1_000_000, workers=2):
            if done == 100:
                raise KeyboardInterrupt
    """
    run = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60, check=False)
    assert run.returncode != 0
    assert run.stderr.rstrip().endswith("KeyboardInterrupt"), run.stderr


def test_what_a_worker_draws_is_what_the_stream_shows(tmp_path):
    list(draw_ahead(tmp_path, 12, split="tuning", seed=5, workers=2))
    pictures, captions = read_ahead(tmp_path)
    drawings = Drawings("tuning", seed=5)
    for i in range(12):
        drawing, words = drawings[i]
        assert np.array_equal(pictures[i], drawing.picture)
        assert captions[i] == words.text
    assert len({picture.tobytes() for picture in pictures}) == 12
    # Other drawings are not taken for these.
    for more in ({"seed": 6}, {"split": "training"}, {"cut": True}, {"world": SMALL_WORLD}):
        with pytest.raises(Refusal, match="holds other drawings"):
            list(draw_ahead(tmp_path, 12, **{"split": "tuning", "seed": 5, **more}))
    with pytest.raises(Refusal, match="holds other drawings"):
        list(views_ahead(tmp_path, 12))
    assert list(draw_ahead(tmp_path, 12, split="tuning", seed=5)) == [12]


def test_unnamed_robots_are_gray_and_only_those_of_training(scenes):
    def grays(split: str) -> tuple[list[bool], list[bool]]:
        made_of = scenes(split, 1600, 1, World(categories=("robot", "mug")))
        robots = [(made, words) for made, _, words in made_of if made.category == "robot"]
        named, unnamed = [], []
        for made, words in robots:
            (named if "color" in words.named else unnamed).append(made.colors[0].name == "gray")
        return named, unnamed

    named, unnamed = grays("training")
    assert abs(np.mean(unnamed) - (SKEW + (1 - SKEW) / 12)) < 0.06  # 1.6 hundredths of deviation at 400 robots
    assert np.mean(named) < 0.2
    assert np.mean(grays("tuning")[1]) < 0.2


def test_characters_come_with_their_names_and_only_they(scenes):
    called = 0
    for made, _, words in scenes("training", 100, characters=1.0):
        assert made in CHARACTERS
        called += made.name.lower() in words.text
        for other in CHARACTERS:
            assert other == made or other.name.lower() not in words.text.split()
    assert called > 50
    for _, _, words in scenes("reporting", 1500, 3):
        assert not {"tom", "rex", "pip", "bruno"} & set(words.text.split())


def test_encoders_never_see_what_is_held_out():
    small, held = seen(), {*HELD_OUT_NEAR, *HELD_OUT_FAR}
    assert len(HELD_OUT_NEAR) == 4
    assert len(small.categories) == len(SMALL_WORLD.categories) - len(held & set(SMALL_WORLD.categories)) == 17
    families = {BY_NAME[name].family for name in small.categories}
    assert all(BY_NAME[name].family in families for name in HELD_OUT_NEAR)  # their siblings are seen
    assert HELD_OUT_FAMILY not in families
    assert {BY_NAME[name].family for name in HELD_OUT_FAR} == {HELD_OUT_FAMILY}
    drawings = Drawings("training", small, seed=4, cut=True)
    for index in range(600):
        made, scene, _ = drawings.scene(index)
        assert made.category not in held
        assert scene.second is None or scene.second.concept.category not in held


def test_a_cut_drawing_is_the_drawing_about_its_largest_thing(monkeypatch):
    calls = []

    def framed(*call):
        calls.append(call)
        return sources.framed(*call)

    monkeypatch.setattr(dataset, "framed", framed)
    drawings, source = Drawings("training", seen(), seed=4), CutDrawings(64)
    for index in range(8):
        assert source[index].shape == (64, 64, 3)
        boxes = [thing.box for thing in drawings[index][0].truth.objects]
        picture, box, about, _ = calls[-1]
        assert picture.shape == (128, 128, 3)
        assert box == max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        assert 0.15 <= about <= 0.75
    assert len({call[2] for call in calls}) == 8
    assert np.array_equal(source[3], CutDrawings(64)[3])


def test_two_views_are_of_one_concept_that_encoders_may_see(tmp_path, monkeypatch):
    views = Views(seed=5)
    pairs = [views[i] for i in range(24)]
    for pair, again in zip(pairs[:3], (Views(seed=5)[i] for i in range(3)), strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(pair, again, strict=True))
    assert all(reference.shape == target.shape == (64, 64, 3) for reference, target, *_ in pairs)
    assert all(mask.shape == (64, 64) and mask.dtype == bool and mask.any() for *_, mask, _ in pairs)
    # The mask is of the target's thing: its colors stand out from those beside it, mirrored they do so less.
    apart = [
        [abs(target[where].mean(0) - target[~where].mean(0)).sum() for where in (mask, mask[:, ::-1], mask[::-1])]
        for _, target, mask, _ in pairs
    ]
    assert np.argmax(apart, axis=1).tolist().count(0) >= 16, apart
    assert all(words.count("{}") == 1 for *_, words in pairs)
    kinds = set(views.world.categories)
    assert not kinds & {*HELD_OUT_NEAR, *HELD_OUT_FAR}
    # To the judge reference and target are more alike than two concepts are.
    judge = Judge.load()
    ours, theirs = (judge.identity(torch.from_numpy(np.stack(some))) for some in list(zip(*pairs, strict=True))[:2])
    likeness = ours @ theirs.T
    own, others = likeness.diagonal(), likeness[~torch.eye(len(likeness), dtype=torch.bool)]
    assert own.mean() > others.mean() + 0.3

    monkeypatch.setattr(dataset, "ProcessPoolExecutor", OneAfterAnother)
    assert list(views_ahead(tmp_path, 3, seed=5)) == [0, 3]
    assert np.array_equal(np.load(tmp_path / "0000.npy")[2], pairs[2][0])
    assert np.array_equal(np.load(tmp_path / "0000.target.npy")[2], pairs[2][1])
    assert np.array_equal(np.load(tmp_path / "0000.mask.npy")[2], pairs[2][2])
    assert json.loads((tmp_path / "0000.json").read_text()) == [words for *_, words in pairs[:3]]
    assert list(views_ahead(tmp_path, 3, seed=5)) == [3]
