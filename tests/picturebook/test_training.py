"""The recipe: the optimizer is what it says, and a stage that was killed ends as one that was not."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pair
import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from namesake import cli
from namesake.errors import Refusal
from namesake.picturebook import train
from namesake.picturebook.captions import words_of
from namesake.picturebook.concept import COLORS, PATTERNS, concept, number_of
from namesake.picturebook.dataset import Drawings, draw_ahead
from namesake.picturebook.judge import SHIPPED
from namesake.picturebook.optim import MuonAndAdamW
from namesake.picturebook.scene import SMALL_WORLD, STYLES, WORN, Pose, Scene, Style, Worn
from namesake.picturebook.train import (
    PRESETS,
    QUESTIONS,
    SCENES,
    Stage,
    answers,
    color_said,
    make_tokenizer,
    nouns_of,
    pattern_said,
    rate,
    run_stage,
    scene_shares,
    style_said,
    subject,
    train_text_encoder,
)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_is_stepped_as_the_matrix_that_it_is(kernel):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(12, 8, kernel, kernel).to(memory_format=torch.channels_last))
    start = weight.detach().clone()
    last, first = (
        nn.Parameter(matrix.reshape(12, -1).clone()) for matrix in (start.permute(0, 2, 3, 1), start.contiguous())
    )
    ours = MuonAndAdamW([("conv.weight", weight)], 0.02, 0.001)
    same, flat = (
        torch.optim.Muon([p], lr=0.02, weight_decay=0.01, momentum=0.95, ns_steps=5, adjust_lr_fn="match_rms_adamw")
        for p in (last, first)
    )
    for _ in range(3):
        grad = torch.randn(12, 8, kernel, kernel)
        weight.grad = grad.to(memory_format=torch.channels_last)
        last.grad, first.grad = grad.permute(0, 2, 3, 1).reshape(12, -1).clone(), grad.reshape(12, -1).clone()
        ours.step()
        same.step()
        flat.step()
        assert weight.grad is None
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight.detach().permute(0, 2, 3, 1).reshape(12, -1), last.detach())
    # In another order of the columns only bfloat16's rounding inside Muon differs.
    moved = (first.detach() - start.reshape(12, -1)).norm()
    assert (weight.detach().reshape(12, -1) - first.detach()).norm() < 0.03 * moved
    assert (weight.detach() - start).norm() > 0.01


def test_who_steps_what_and_how_fast():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_in, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
            self.embedding, self.text, self.frozen = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.frozen.requires_grad_(False)

    net = Net()
    optimizer = MuonAndAdamW(
        net.named_parameters(), 0.1, 0.01, plain=("conv_in.weight",), gentle=("text.",), lr_gentle=0.001
    )
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step(0.5)
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in net.named_parameters()}
    # AdamW's first step is its rate; a matrix of ones becomes, orthogonal, one of quarters, times 0.2 sqrt(4).
    assert moved["conv_in.weight"] == moved["embedding.weight"] == pytest.approx(0.005, rel=1e-3)
    assert moved["conv_in.bias"] == moved["linear.bias"] == pytest.approx(0.005, rel=1e-3)
    assert moved["text.weight"] == moved["text.bias"] == pytest.approx(0.0005, rel=1e-3)
    assert moved["linear.weight"] == pytest.approx(0.05 * 0.25 * 0.4, rel=0.35)
    assert moved["frozen.weight"] == 0


def test_the_rate_rises_stays_and_falls():
    stage = Stage(1000, 1, 1.0, 1.0, warmup=100, decay=0.3)
    rates = [rate(step, stage) for step in range(1000)]
    assert rates[0] == 0.01
    assert rates[100:700] == [1.0] * 600
    assert np.allclose(np.diff(rates[700:]), -1 / 300)
    assert 0 < rates[-1] < 0.01


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(0.2), nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(self.drop(torch.relu(self.conv(x)).mean((2, 3))))


class Killed(Exception):
    pass


def run(folder, steps=6, dies_at=None, every=-1.0):
    """A stage on a small model whose batches, noise and dropout all come from chance."""
    torch.manual_seed(3)
    model = Tiny().to(memory_format=torch.channels_last)
    optimizer = MuonAndAdamW(model.named_parameters(), 0.02, 0.01)
    stage = Stage(steps, 4, 0.02, 0.01, warmup=2, decay=0.5, average=0.5, save_every=every, sheet_every=2)
    calls = []

    def batches(rng, count, step):
        return torch.from_numpy(rng.normal(size=(count, 3, 8, 8)).astype(np.float32))

    def loss(module, batch):
        calls.append(batch)
        if len(calls) == dies_at:
            raise Killed
        noise = torch.randn_like(batch)
        return (module(batch + noise).float() - batch.mean((2, 3))).square().mean(), {"noise": float(noise.mean())}

    def sheet(module, step):
        return {"sheet": float(step)}

    averaged = run_stage("tiny", stage, model, optimizer, loss, batches, folder, Accelerator(cpu=True), sheet)
    return averaged, calls


def test_a_killed_stage_ends_at_the_same_bytes(tmp_path):
    straight, whole = run(tmp_path / "a")
    with pytest.raises(Killed):
        run(tmp_path / "b", dies_at=4)
    resumed, rest = run(tmp_path / "b")
    assert len(whole) == 6
    assert len(rest) == 3  # it went on after the third step
    assert all(torch.equal(one, other) for one, other in zip(whole[3:], rest, strict=True))
    for (name, one), (_, other) in zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    states = [torch.load(tmp_path / part / "tiny.ckpt", weights_only=True) for part in "ab"]
    flat = [torch.utils._pytree.tree_leaves(state) for state in states]
    for one, other in zip(*flat, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert not list(tmp_path.rglob("*.part"))
    lines = [json.loads(line) for line in (tmp_path / "a" / "tiny.curve.jsonl").read_text().splitlines()]
    assert [line["sheet"] for line in lines if "sheet" in line] == [2.0, 4.0, 6.0]
    assert {"step", "seconds", "rate", "loss", "noise"} <= lines[-2].keys()


def test_the_curve_forgets_what_came_after_the_checkpoint(tmp_path):
    run(tmp_path, steps=2)
    with open(tmp_path / "tiny.curve.jsonl", "a") as file:
        file.write('{"step": 4, "sheet": 4.0}\n{"step": 5, "lo')  # the kill came before the next checkpoint, in a line
    before = [json.loads(line) for line in (tmp_path / "tiny.curve.jsonl").read_text().splitlines()[:-1]]
    run(tmp_path, steps=6)
    lines = [json.loads(line) for line in (tmp_path / "tiny.curve.jsonl").read_text().splitlines()]
    assert [line["sheet"] for line in lines if "sheet" in line] == [2.0, 4.0, 6.0]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    assert seconds[0] == before[0]["seconds"]
    assert seconds == sorted(seconds)


def test_a_finished_stage_is_not_trained_again(tmp_path):
    once, _ = run(tmp_path)
    again, calls = run(tmp_path)
    assert not calls
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("mine", [True, False])
def test_a_loss_that_is_not_finite_ends_every_process(tmp_path, mine):
    """The second of two processes, which shares no gradient here: its own loss is not finite, or the first one's."""

    class Second(Accelerator):
        num_processes, process_index, is_main_process, device = 1, 1, False, torch.device("cpu")

        def __init__(self): ...

        def reduce(self, tensor, reduction):
            assert reduction == "sum"
            return tensor + (0 if mine else 1)

    model = Tiny()
    optimizer = MuonAndAdamW(model.named_parameters(), 0.02, 0.01)

    def loss(module, batch):
        return module(batch).mean() * (torch.nan if mine else 1), {}

    with pytest.raises(Refusal, match="diverged at step 1"):
        run_stage(
            "tiny",
            Stage(6, 4, 0.02, 0.01),
            model,
            optimizer,
            loss,
            lambda *_: torch.ones(4, 3, 8, 8),
            tmp_path,
            Second(),
        )
    assert not list(tmp_path.iterdir())


def test_latents_are_normalized_and_pictures_stay_what_they_are():
    torch.manual_seed(0)
    vae = train.make_autoencoder()
    pictures = torch.from_numpy(np.stack([Drawings("tuning")[i][0].picture for i in range(8)]))
    x = train._floats(pictures)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            mean = vae.quant_conv(vae.encoder(x)).chunk(2, 1)[0]
            return mean, vae.decoder(vae.post_quant_conv(mean))

    (_, before), _ = both(), train.normalize_latents(vae, pictures)
    latents, after = both()
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert (after - before).abs().max() < 1e-3


def test_answers_say_what_the_caption_says_and_nothing_else():
    made = concept(number_of("training", "cat", 3))
    scene = Scene("beach", Style("oil"), Pose(turn=-20.0), Worn("crown", made.colors[0]))
    named = frozenset({"category", "turn", "style", "worn"})
    told = dict(zip(QUESTIONS, answers(made, scene, named, SMALL_WORLD), strict=True))
    assert {what for what, answer in told.items() if answer} == named
    assert SMALL_WORLD.categories[told["category"] - 1] == "cat"
    assert STYLES[told["style"] - 1] == "oil"
    assert WORN[told["worn"] - 1] == "crown"
    assert told["turn"] == 1  # left


def test_all_that_a_grammar_names_is_a_question_of_the_text_encoder(scenes):
    said = frozenset().union(*(words.named for *_, words in scenes("training", 400)))
    assert set(QUESTIONS) == said - {"third color"}


def test_easy_drawings_come_first_and_joined_ones_then():
    stage = Stage(1000, 32, 1.0, 1.0)
    shares = np.array([scene_shares(step, stage) for step in range(1000)])
    np.testing.assert_allclose(shares.sum(1), 1)
    easy, joined = (shares[:, SCENES.index(kind)] for kind in ("easy", "joined"))
    assert easy[:500].min() > 0.5 > easy[500:].max() > 0
    assert not joined[:500].any()
    assert joined[500:].min() > 0.25
    assert {scene_shares(step, stage, begun=True) for step in range(1000)} == {tuple(shares[-1])}
    alone = [Drawings(world=SMALL_WORLD, scenes="easy").scene(i)[1] for i in range(50)]
    assert all(scene.worn is None and scene.second is None and scene.pose.turn == 0 for scene in alone)
    assert {scene.style.name for scene in alone} > {"plain"}
    company = [Drawings(world=SMALL_WORLD, scenes="joined").scene(i)[1] for i in range(50)]
    assert all((scene.worn is None) != (scene.second is None) and scene.pose.turn == 0 for scene in company)
    assert 0 < sum(scene.worn is None for scene in company) < 50


def test_the_text_encoder_learns_to_read(tmp_path):
    make_tokenizer(tmp_path, samples=200)
    preset = replace(PRESETS["cpu"], text_encoder=Stage(30, 12, 2e-3, 2e-3, warmup=2, decay=0.5, average=0.9))
    train_text_encoder(preset, tmp_path, tmp_path, Accelerator(cpu=True))
    curve = [json.loads(line) for line in (tmp_path / "text_encoder.curve.jsonl").read_text().splitlines()]
    assert next(line for line in reversed(curve) if "loss" in line)["loss"] < 0.9 * np.log(
        25
    )  # a running mean, from chance
    assert len((tmp_path / "sheets" / "text_encoder-000030.txt").read_text().splitlines()) == 2 * train.HELD
    encoder = CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    ids = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")(["a cat", "a cat on the beach"], padding="max_length")
    pooled = encoder(input_ids=torch.tensor(ids.input_ids)).pooler_output
    assert not torch.allclose(pooled[0], pooled[1])


def test_two_processes_that_share_a_stage_end_where_one_does(tmp_path):
    pair.line(tmp_path / "one")
    train.together(2, pair.line, tmp_path / "two")
    one, two = (torch.load(tmp_path / part / "line.pt", weights_only=True) for part in ("one", "two"))
    assert (int(one.pop("processes")), int(two.pop("processes"))) == (1, 2)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=5e-4)  # Muon rounds to bfloat16; a step is 1e-2
    assert (tmp_path / "two" / "line.curve.jsonl").read_text().count("\n") == 1  # of one process
    with pytest.raises(Refusal, match="Training of line diverged at step 1"):
        train.together(2, pair.line, tmp_path / "nan", True)
    with pytest.raises(Refusal, match="ended with status 3; the same command goes on"):
        train.together(1, os._exit, 3)


@pytest.mark.parametrize(("preset", "cores", "shared"), [("cpu", 2, True), ("cpu", 1, False), ("gpu", 2, False)])
def test_two_processes_share_a_stage_on_a_cpu_that_has_two_cores(tmp_path, monkeypatch, preset, cores, shared):
    begun = []
    monkeypatch.setattr(train, "cores", lambda: cores)
    monkeypatch.setattr(train, "_run", lambda name, *_: begun.append((name, 1)))
    monkeypatch.setattr(train, "together", lambda processes, run, name, *_: begun.append((name, processes)))
    train.main(preset, tmp_path / "work", tmp_path / "model")
    assert begun == [(name, 2 if shared and name in train.SHARED else 1) for name in train.STAGES]


def test_the_image_encoder_learns_from_drawings_and_shows_what_it_reads(tmp_path):
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(SHIPPED.parent.parent / "model" / part, tmp_path / part)
    for scenes in ("all", "easy"):
        list(draw_ahead(tmp_path / scenes, 6, world=SMALL_WORLD, scenes=scenes, workers=1))
    preset = replace(PRESETS["cpu"], image_encoder=Stage(2, 4, 2e-3, 1e-3, warmup=1, sheet_every=1))
    train.train_image_encoder(preset, tmp_path, tmp_path, Accelerator(cpu=True))
    lines = [json.loads(line) for line in (tmp_path / "image_encoder.curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held nouns" in line] == [1, 2]
    assert all(0 <= line["held nouns"] <= 1 for line in lines if "held nouns" in line)
    assert len(list((tmp_path / "sheets").glob("image_encoder-*.png"))) == 2
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "image_encoder").iterdir()}
    assert (tmp_path / "feature_extractor" / "preprocessor_config.json").is_file()


def test_a_world_lists_the_words_that_it_uses():
    words = train.world_words(SMALL_WORLD, samples=100)
    assert len(words) == len(set(words))
    assert "turtle" not in words
    assert {"cat", "robot"} <= set(words)
    assert set(words_of(Drawings(world=SMALL_WORLD, seed=2).scene(5)[2].text)) <= set(words)


def test_bad_names_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_quiet", lambda: None)  # it is for the whole process
    with pytest.raises(Refusal, match="no preset 'tpu'"):
        train.main("tpu", tmp_path)
    with pytest.raises(Refusal, match="no stage 'unett'"):
        train.main("cpu", tmp_path, stage="unett")
    for stage in ("tokenizer", "drawings", "judge", ""):
        with pytest.raises(Refusal, match="A number of steps was given"):
            train.main("cpu", tmp_path / "work", tmp_path / "model", stage=stage, steps=5)
    with pytest.raises(Refusal, match="number of steps is -5"):
        train.main("cpu", tmp_path / "work", tmp_path / "model", stage="unet", steps=-5)
    for stage, lacking in (
        ("autoencoder", "not all drawings"),
        ("unet", "not all drawings"),
        ("text_encoder", "no tokenizer"),
    ):
        with pytest.raises(Refusal, match=f"There (is|are) {lacking} in"):
            train.main("cpu", tmp_path / "work", tmp_path / "model", stage=stage)
    assert not list(tmp_path.iterdir())
    assert cli.main(["picturebook", "train", "--stage", "unet", "--work", str(tmp_path / "work")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for scenes in SCENES:
        (tmp_path / "work" / scenes).mkdir(parents=True)
        for number in range(60):
            (tmp_path / "work" / scenes / f"{number:04d}.json").write_text("[]")
    for stage, lacking in (
        ("unet", "tokenizer"),
        ("decoder", "autoencoder"),
        ("image_encoder", "text encoder"),
        ("unet", "autoencoder"),
    ):
        if lacking != "tokenizer":
            (tmp_path / "model" / "tokenizer").mkdir(parents=True, exist_ok=True)
            (tmp_path / "model" / "tokenizer" / "tokenizer.json").write_text("{}")
            (tmp_path / "model" / "vae").mkdir(exist_ok=True)  # without anything in it
        with pytest.raises(Refusal, match=f"There is no {lacking} in"):
            train.main("cpu", tmp_path / "work", tmp_path / "model", stage=stage)
        assert (tmp_path / "model").exists() == (lacking != "tokenizer")
    (tmp_path / "model" / "vae" / "config.json").write_text("{}")
    with pytest.raises(Refusal, match="no text encoder in"):  # a random one would leave things out of pictures
        train.main("cpu", tmp_path / "work", tmp_path / "model", stage="unet")
    for number in range(19, 60):  # 40,000 are 20 shards
        (tmp_path / "work" / "joined" / f"{number:04d}.json").unlink()
    with pytest.raises(Refusal, match=r"not all drawings in .*joined"):
        train.main("cpu", tmp_path / "work", tmp_path / "model", stage="unet")


def test_a_work_folder_keeps_to_one_world_and_a_stage_does_not_go_back(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "make_tokenizer", lambda model: None)
    train.main("cpu", tmp_path / "work", tmp_path / "model", stage="tokenizer")
    assert not (tmp_path / "model" / "world.json").exists()  # the tokenizer says nothing of what the model draws
    with pytest.raises(Refusal, match="of another world"):
        train.main("gpu", tmp_path / "work", tmp_path / "model", stage="tokenizer")
    torch.save({"step": 40}, tmp_path / "work" / "text_encoder.ckpt")
    with pytest.raises(Refusal, match="has gone 40 steps, more than 20"):
        train.main("cpu", tmp_path / "work", tmp_path / "model", stage="text_encoder", steps=20)
    (tmp_path / "model" / "unet").mkdir(parents=True)
    for stage in ("tokenizer", "autoencoder", "text_encoder"):
        with pytest.raises(Refusal, match=f"has learned with the {stage.replace('_', ' ')} beside it"):
            train.main("cpu", tmp_path / "work", tmp_path / "model", stage=stage)


def test_what_later_stages_made_is_not_overwritten(tmp_path, monkeypatch):
    ran = []
    for name in ("train_autoencoder", "train_text_encoder", "train_unet", "train_image_encoder"):
        monkeypatch.setattr(train, name, lambda *_, name=name, **more: ran.append((name, *more.values())))
    stages = [stage for stage in train.STAGES if stage not in ("tokenizer", "drawings", "judge")]
    monkeypatch.setattr(train, "STAGES", stages)
    monkeypatch.setattr(train, "write_index", lambda model, world: ran.append("index"))
    monkeypatch.setattr(train, "together", lambda processes, run, *given: run(*given))
    work, model = tmp_path / "work", tmp_path / "model"
    train.main("cpu", work, model)
    everything = [
        ("train_autoencoder", False), ("train_text_encoder",), ("train_unet",), "index", ("train_image_encoder",),
        ("train_autoencoder", True),
    ]  # fmt: skip
    assert ran == everything
    for stage in stages:
        (model / train.PARTS[stage]).mkdir(parents=True, exist_ok=True)
        torch.save({"step": getattr(PRESETS["cpu"], stage).steps}, work / f"{stage}.ckpt")
    ran.clear()
    train.main("cpu", work, model)
    assert not ran
    for stage in stages:
        (work / f"{stage}.ckpt").unlink()
    train.main("cpu", work, model)  # on from the weights that are there: the U-Net stays with what it has learned with
    assert ran == everything[2:]


def test_latents_of_another_autoencoder_are_not_taken(tmp_path):
    make_tokenizer(tmp_path, samples=50)
    list(draw_ahead(tmp_path / "drawings", 4, workers=1))
    shard, found = tmp_path / "drawings" / "0000.json", []
    for seed in (0, 1):
        torch.manual_seed(seed)
        train.make_autoencoder().save_pretrained(tmp_path / "vae")
        latents, ids = train.encode_ahead(tmp_path / "drawings", tmp_path, Accelerator(cpu=True))
        assert latents.shape == (4, 8, 16, 16)
        assert len(ids) == 4
        kept = list(shard.parent.glob("0000.latents.*.npy"))
        assert len(kept) == 1
        assert torch.equal(train.encode_ahead(tmp_path / "drawings", tmp_path, Accelerator(cpu=True))[0], latents)
        found.append(latents)
    assert not torch.equal(*found)


def test_a_part_is_there_whole_or_as_it_was(tmp_path):
    def broken(folder):
        folder.mkdir()
        (folder / "half").write_text("half")
        raise reason

    def whole(folder):
        folder.mkdir()
        (folder / "weights").write_text("new")

    train.put(tmp_path / "vae", whole)
    for kind in (OSError, SafetensorError):  # safetensors has an error of its own
        reason = kind("No space left on device\nand more")
        with pytest.raises(Refusal, match=r"The model's vae cannot be written .*No space left on device\); choose"):
            train.put(tmp_path / "vae", broken)
        assert [path.name for path in tmp_path.iterdir()] == ["vae"]
    reason = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        train.put(tmp_path / "vae", broken)
    assert [path.name for path in (tmp_path / "vae").iterdir()] == ["weights"]
    train.put(tmp_path / "vae", whole)
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


def test_the_judge_is_kept_beside_the_model_that_was_named(tmp_path, monkeypatch):
    kept, begun = [], []

    class Trained:
        heads = dict.fromkeys(("category", "color", "place"), ("a", "b"))

        def save(self, path):
            kept.append(path)

        def judge(self, pictures):
            return {head: torch.eye(2)[[1] * len(pictures)] for head in self.heads}

    monkeypatch.setattr("namesake.picturebook.judge.draw_judge_data", lambda *_, **__: None)
    monkeypatch.setattr(
        "namesake.picturebook.judge.train_judge", lambda *_, start, **__: begun.append(start) or Trained()
    )
    train.main("cpu", tmp_path, tmp_path / "new" / "model", stage="judge")
    train.main("cpu", tmp_path, stage="judge")
    assert kept == [tmp_path / "new" / "judge" / "judge.safetensors", SHIPPED]
    assert begun == [None, SHIPPED]
    assert (tmp_path / "sheets" / "judge.png").is_file()
    finished = tmp_path / "judge_training" / "judge.safetensors"
    finished.parent.mkdir()
    finished.touch()
    train.main("cpu", tmp_path, stage="judge")
    assert len(begun) == 2  # a finished one stays as it is
    train.main("cpu", tmp_path, tmp_path / "new" / "model", stage="judge")
    assert len(begun) == 3  # the fake one was never saved there


def test_the_others_wait_a_day_while_one_process_trains_the_judge(tmp_path, monkeypatch):
    made, found = train.launched, []
    monkeypatch.setattr(train, "launched", lambda **options: found.append(made(**options)) or found[0])
    monkeypatch.setattr(train, "make_tokenizer", lambda model: None)
    train.main("cpu", tmp_path, tmp_path / "model", stage="tokenizer")
    assert found[0].device.type == "cpu"
    assert found[0].init_handler.timeout >= timedelta(days=1)


def test_a_captions_thing_and_its_looks_are_read_from_its_words():
    nouns = {noun: place for place, name in enumerate(SMALL_WORLD.categories) for noun in nouns_of(name)}
    drawings, seen = Drawings("tuning", SMALL_WORLD, seed=3), {True: 0, False: 0}
    for index in range(400):
        made, scene, caption = drawings.scene(index)
        said = "category" in caption.named and not made.name
        wanted = SMALL_WORLD.categories.index(made.category) if said else -1
        assert subject(caption.text, nouns) == wanted, caption.text
        seen[said] += 1
        style = scene.style.name if "style" in caption.named else "plain"
        assert STYLES[style_said(caption.text)] == style, caption.text
        for what, read, names, truth in (
            ("color", color_said, tuple(COLORS), made.colors[0].name),
            ("pattern", pattern_said, PATTERNS, made.pattern.kind),
        ):
            wanted = names.index(truth) if what in caption.named else -1
            assert read(caption.text, nouns) == wanted, (what, caption.text)
    assert min(seen.values()) > 10
