"""The judge: what its labels say, that its losses are right and repeatable, that a file keeps it whole."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from namesake.errors import Refusal
from namesake.picturebook.concept import SPLITS, concept, number_of
from namesake.picturebook.draw import Truth, draw
from namesake.picturebook.judge import (
    IGNORE,
    Judge,
    JudgeData,
    _look,
    _loss,
    _network,
    agreement,
    draw_judge_data,
    heads,
    identity_loss,
    labels,
    measure_judge,
    train_judge,
    twin,
)
from namesake.picturebook.scene import FULL_WORLD, Pose, Scene, Second, Style, Worn, sample_color


def cat(index: int = 0):
    return concept(number_of("tuning", "cat", index))


def said(truth: Truth) -> dict[str, str | None]:
    classes = heads()
    return {head: None if at == IGNORE else classes[head][at] for head, at in labels(truth).items()}


def test_labels_name_the_truth():
    made = cat()
    hat = Worn("hat", sample_color(np.random.default_rng(0)))
    scene = Scene("beach", Style("oil"), Pose(turn=-20, scale=0.7, mirror=True, x=12), hat)
    names = said(Truth(made, scene))
    assert names["category"] == "cat"
    assert names["color"] == made.colors[0].name
    assert names["second color"] == made.colors[1].name
    assert (names["place"], names["style"], names["worn"]) == ("beach", "oil", "hat")
    assert (names["turn"], names["size"], names["side"], names["mirror"]) == ("left", "small", "right", "mirrored")
    assert (names["relation"], names["second category"]) == ("none", None)


def test_labels_leave_out_what_cannot_be_seen():
    blueprint = said(Truth(cat(), Scene(style=Style("blueprint"))))
    assert blueprint["color"] is None
    assert blueprint["second color"] is None
    assert blueprint["category"] == "cat"
    vase = concept(number_of("tuning", "vase", 0))
    assert said(Truth(vase, Scene()))["mirror"] is None
    striped = replace(cat(), pattern=replace(cat().pattern, kind="striped", tile=11.0))
    assert said(Truth(striped, Scene(pose=Pose(scale=0.6))))["pattern"] is None
    assert said(Truth(striped, Scene(pose=Pose(scale=1.0))))["pattern"] == "striped"


def test_labels_say_pairs_by_where_they_stand():
    ball, made = concept(number_of("tuning", "ball", 3)), cat()
    on = labels(Truth(made, Scene(second=Second(ball, "on"))))
    under = labels(Truth(ball, Scene(second=Second(made, "under"))))
    for head in ("category", "second category", "relation", "color"):
        assert on[head] == under[head], head
    for seed in (0, 1):
        truth = Truth(made, Scene(second=Second(ball, "beside"), seed=seed))
        cat_is_left = truth.objects[0].center[0] < truth.objects[1].center[0]
        assert said(truth)["category"] == ("cat" if cat_is_left else "ball")
    assert on["turn"] == on["size"] == on["side"] == on["mirror"] == IGNORE


def as_reading(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
    """Readings that say just these labels."""
    return {
        head: torch.eye(len(names))[[max(row[head], 0) for row in rows]].log().clamp(min=-50)
        for head, names in heads().items()
    }


def test_agreement_takes_things_beside_each_other_either_way_round():
    ball, made = concept(number_of("tuning", "ball", 3)), cat()
    wanted = [labels(Truth(made, Scene(second=Second(ball, "beside"), seed=seed))) for seed in (0, 1)]
    onto = [labels(Truth(a, Scene(second=Second(b, "on")))) for a, b in ((made, ball), (ball, made))]
    crossed = agreement(as_reading(wanted[::-1]), wanted)
    assert crossed["category"].tolist() == crossed["second category"].tolist() == [1, 1]
    assert crossed["color"].isnan().all()
    crossed = agreement(as_reading(onto[::-1]), onto)
    assert crossed["category"].tolist() == crossed["second category"].tolist() == [0, 0]
    straight = agreement(as_reading(wanted), wanted)
    assert all(bool(((right == 1) | right.isnan()).all()) for right in straight.values())


def test_a_twin_shares_the_words_and_nothing_else():
    made = cat(5)
    other = twin(made, np.random.default_rng(1))
    assert other.category == made.category
    assert [c.name for c in other.colors] == [c.name for c in made.colors]
    assert other.pattern.kind == made.pattern.kind
    assert (len(other.patches) > 1) == (len(made.patches) > 1)
    assert other.proportions != made.proportions
    assert other.colors[0].hsv != made.colors[0].hsv
    assert other.patches[0].shape != made.patches[0].shape
    assert (draw(made, Scene()).picture != draw(other, Scene()).picture).any(-1).sum() > 150


def test_identity_loss_by_hand():
    e = torch.eye(2)
    embeddings = torch.stack([e[0], e[0], e[1], e[1]])
    # Objects 0 and 1 are twins of each other: each drawing's partner is at cosine 1, two of the twin's at 0.
    twins = identity_loss(embeddings, torch.tensor([0, 0, 1, 1]), temperature=0.5, twin_weight=3.0)
    assert float(twins) == pytest.approx(math.log(math.exp(2) + 2 * 3) - 2, abs=1e-6)
    strangers = identity_loss(embeddings, torch.tensor([0, 0, 2, 2]), temperature=0.5, twin_weight=3.0)
    assert float(strangers) == pytest.approx(math.log(math.exp(2) + 2) - 2, abs=1e-6)
    # A drawing without a partner is a negative for the others and asks nothing itself; negative objects take no part.
    alone = identity_loss(embeddings, torch.tensor([0, 0, 2, -1]), temperature=0.5)
    assert float(alone) == pytest.approx(math.log(math.exp(2) + 1) - 2, abs=1e-6)
    assert float(identity_loss(embeddings, torch.tensor([0, 2, 4, 6]))) == 0.0


def test_a_whole_window_sees_the_picture_itself_and_a_crop_its_part():
    x = torch.rand(1, 3, 64, 64)
    assert torch.allclose(_look(x, torch.tensor([[0.0, 0.0, 1.0]])), x, atol=1e-5)
    quarter = _look(x, torch.tensor([[-0.5, -0.5, 0.5]]))
    assert abs(float(quarter.mean() - x[..., :32, :32].mean())) < 0.01


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    draw_judge_data(folder, 64, seed=4, workers=1)
    return folder


def test_data_are_of_training_concepts_only(drawings):
    numbers = np.load(next(drawings.glob("numbers-*.npy")))
    assert numbers.shape == (16, 4, 2)
    first, second = numbers[..., 0], numbers[..., 1]
    assert all(int(n) in SPLITS["training"] for n in first.ravel())
    assert all(int(n) in SPLITS["training"] for n in second.ravel() if n != -1)
    assert (second != -1).any()
    before = {path.name: path.stat().st_mtime_ns for path in drawings.iterdir()}
    draw_judge_data(drawings, 64, seed=4, workers=1)
    assert {path.name: path.stat().st_mtime_ns for path in drawings.iterdir()} == before


def test_the_loss_is_repeatable_and_reaches_every_parameter(drawings):
    data = JudgeData(drawings)

    def once(step: int) -> tuple[float, list[float]]:
        torch.manual_seed(0)
        network = _network(FULL_WORLD).train()
        rng = np.random.default_rng([1, step])
        loss, _ = _loss(network, data.batch(rng), rng)
        loss.backward()
        return float(loss.detach()), [float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None]

    (first, grads), (again, _), (other, _) = once(3), once(3), once(4)
    assert first == again != other
    assert len(grads) == len(list(_network(FULL_WORLD).parameters()))
    assert min(grads) > 0


def test_a_resumed_run_is_the_run_that_was_not_killed(drawings, tmp_path):
    straight = train_judge(drawings, tmp_path / "a", steps=4, seed=1)
    import namesake.picturebook.judge as module

    class Killed(Exception):
        pass

    real, calls = module._loss, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHECKPOINT_EVERY", 2)
        patch.setattr(module, "_loss", dies)
        with pytest.raises(Killed):
            train_judge(drawings, tmp_path / "b", steps=4, seed=1)
    assert torch.load(tmp_path / "b" / "checkpoint.pt", weights_only=True)["step"] == 2
    resumed = train_judge(drawings, tmp_path / "b", steps=4, seed=1)
    for name, value in straight._network.state_dict().items():
        assert torch.equal(value, resumed._network.state_dict()[name]), name


def test_save_and_load(tmp_path):
    torch.manual_seed(0)
    judge = Judge(_network(FULL_WORLD), FULL_WORLD)
    judge.save(tmp_path / "judge.safetensors")
    assert (tmp_path / "judge.safetensors").stat().st_size < 3.3e6
    again = Judge.load(tmp_path / "judge.safetensors")
    assert again.world == FULL_WORLD
    pictures = np.stack([draw(cat(i), Scene(), 64).picture for i in range(3)])
    said, repeated = judge.judge(pictures), again.judge(pictures)
    for head, names in heads().items():
        assert said[head].shape == (3, len(names))
        assert torch.allclose(said[head].exp().sum(-1), torch.ones(3))
        assert torch.allclose(said[head], repeated[head], atol=0.02), head
    boxes = np.array([[0.2, 0.2, 0.8, 0.9]] * 3, np.float32)
    for embedding in (
        again.identity(pictures),
        again.identity(pictures, boxes),
        again.identity(pictures.repeat(2, 1).repeat(2, 2)),
    ):
        assert embedding.shape == (3, 128)
        assert torch.allclose(embedding.norm(dim=-1), torch.ones(3))
    # A picture is read alike alone and among others, and another size of it almost alike.
    assert torch.allclose(again.identity(pictures[:1])[0], again.identity(pictures)[0], atol=1e-5)
    assert float((again.identity(pictures.repeat(2, 1).repeat(2, 2)) * again.identity(pictures)).sum(-1).min()) > 0.9999


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(Refusal, match="no judge at"):
        Judge.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(Refusal, match="not a judge"):
        Judge.load(tmp_path / "bad.safetensors")
    with pytest.raises(Refusal, match="no drawings"):
        JudgeData(tmp_path)
    with pytest.raises(Refusal, match="minutes or steps"):
        train_judge(tmp_path, tmp_path)
    judge = Judge(_network(FULL_WORLD), FULL_WORLD)
    with pytest.raises(Refusal, match="uint8 pictures"):
        judge.judge(np.zeros((1, 64, 64, 3), np.float32))


def test_measuring_reports_every_head():
    torch.manual_seed(0)
    told = measure_judge(Judge(_network(FULL_WORLD), FULL_WORLD), "tuning", count=40, gallery=4, groups=2)
    assert set(told["heads"]) == set(heads())
    assert 0 <= told["identity"] <= 1
    assert told["twins accepted"] <= told["twins"]
    json.dumps(told)
