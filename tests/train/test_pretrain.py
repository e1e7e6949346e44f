"""Pre-training: the same bytes after a kill, one path for one process and for two, and nothing trained but the encoder."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import tracking
from minis import image_encoder
from torch.optim.optimizer import register_optimizer_step_post_hook

from namesake.backbone import Backbone
from namesake.errors import Refusal
from namesake.methods.date import Date, DateEncoder
from namesake.train import pretrain as room
from namesake.train.examples import sentences
from namesake.train.pretrain import ELSEWHERE, Kept, Plan, Stream, gathered, keep, launched, pretrain

SMALL = Date(base_word="thing", width=32, blocks=0, layers=1, rank=1, word_weight=5.0)
PLAN = Plan(4, batch=4, rate=1e-2, warmup=1, save_every=2, log_every=1, preview_every=100)
PROMPTS = ("a picture of <it>", "<it>", "a drawing of <it>")


class Ready:
    """Eight random pictures, and a place to interfere at."""

    def __init__(self, stop_at=None, how=None):
        chance = np.random.default_rng(0)
        self.pictures = chance.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
        self.stop_at, self.how, self.rows = stop_at, how, []

    def pick(self, row):
        return 0, row % 8

    def read(self, rows):
        if self.stop_at is not None and self.stop_at in rows:
            self.how()
        self.rows.append(list(rows))
        return self.pictures[[row % 8 for row in rows]], [row % 8 for row in rows], 0


def opened(folder):
    backbone = Backbone.load(folder, device="cpu")
    backbone.pipeline.register_modules(image_encoder=image_encoder(32, 50).eval().requires_grad_(False))
    return backbone


def stirred(backbone, settings=SMALL):
    """An encoder with no layer idle, so that its words differ."""
    encoder = settings.network(backbone)
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.1)
    return encoder


@pytest.fixture(scope="module")
def backbone(sd15):
    return opened(sd15)


def run(backbone, folder, plan=PLAN, pictures=None, settings=SMALL, **options):
    encoder = stirred(backbone, settings)
    done = pretrain(backbone, encoder, Stream(backbone, pictures or Ready()), PROMPTS, plan, folder, **options)
    return done, encoder


def state(folder):
    return torch.load(max(folder.glob("checkpoint-*.pt")), weights_only=True)


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for key in sorted(value, key=str) for t in tensors(value[key])]
    return [t for one in value for t in tensors(one)] if isinstance(value, list | tuple) else []


def lines(folder):
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def first_moments(folder):
    """AdamW's first moments after one step: a tenth of the gradients, clipped."""
    return torch.cat([one["exp_avg"].flatten() for one in state(folder)["optimizer"]["state"].values()])


def killed():
    raise RuntimeError("killed")


def test_a_killed_run_resumes_to_the_same_bytes_and_trains_the_encoder_alone(backbone, tmp_path):
    frozen = (backbone.unet, backbone.vae, *backbone.text_encoders, backbone.pipeline.image_encoder)
    before = [p.detach().clone() for part in frozen for p in part.parameters()]
    done, encoder = run(backbone, tmp_path / "whole")
    assert done == 4
    after = [p for part in frozen for p in part.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(encoder.parameters(), stirred(backbone).parameters(), strict=True))

    with pytest.raises(RuntimeError, match="killed"):
        run(backbone, tmp_path / "parts", pictures=Ready(3 * 4, killed))
    assert [path.name for path in (tmp_path / "parts").glob("checkpoint*")] == ["checkpoint-00000002.pt"]
    assert len(lines(tmp_path / "parts")) == 3  # the third step was made, and is lost
    with pytest.raises(Refusal, match="--resume"):
        run(backbone, tmp_path / "parts")
    with pytest.raises(Refusal, match=r"decay 0\.01 and now 0\.02"):
        run(backbone, tmp_path / "parts", replace(PLAN, decay=0.02), resume=True)
    pictures = Ready()
    done, again = run(backbone, tmp_path / "parts", pictures=pictures, resume=True)
    assert done == 4
    assert min(row for rows in pictures.rows for row in rows) == 8
    one, other = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert len(tensors(one)) > 4 * len(list(encoder.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    for a, b, kept in zip(encoder.parameters(), again.parameters(), one["average"]["shadow_params"], strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, kept)  # what is left is the average
    curves = [
        [{**line, "pictures a second": 0, "hours left": 0} for line in lines(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert curves[0] == curves[1]
    assert [line["step"] for line in curves[0]] == [1, 2, 3, 4]
    assert {"loss", "penalty", "norm", "rate", "word cosine", "word entropy", "word norm", "offset size"} <= set(
        curves[0][0]
    )


def test_previews_and_checkpoints_are_not_timed(backbone, tmp_path, monkeypatch):
    now = [0.0]

    def clock():
        now[0] += 1
        return now[0]

    def preview(step, module):
        now[0] += 1e6

    monkeypatch.setattr("namesake.train.pretrain.time", SimpleNamespace(perf_counter=clock))
    run(backbone, tmp_path, replace(PLAN, preview_every=1, save_every=1), preview=preview, say=lambda sentence: None)
    assert now[0] > 5e6
    assert len(lines(tmp_path)) == 4
    assert min(line["pictures a second"] for line in lines(tmp_path)) > 0.1


def test_sentences_are_framed_by_what_the_encoder_sees_beside_the_thing(backbone, tmp_path, monkeypatch):
    asked, text = [], Backbone.text
    monkeypatch.setattr(
        Backbone, "text", lambda self, prompts, *rest: asked.append(prompts) or text(self, prompts, *rest)
    )
    run(backbone, tmp_path / "bare", replace(PLAN, steps=1))
    bare, asked[:] = [said for said in asked if len(said) == 4], []
    settings = replace(SMALL, context=True)
    monkeypatch.setattr(type(stirred(backbone, settings)), "frames", lambda self, batch: ["{} in the snow", "{}"] * 2)
    run(backbone, tmp_path / "framed", replace(PLAN, steps=1), settings=settings)
    framed = [said for said in asked if len(said) == 4]
    assert bare
    assert framed == [[one + " in the snow" * (n % 2 == 0) for n, one in enumerate(said)] for said in bare]


def test_what_is_seen_and_what_is_drawn_may_be_two_pictures(backbone, tmp_path):
    pictures, others = Ready().pictures, Ready().pictures[::-1].copy()
    for name, some in (("0000", pictures), ("0000.target", others)):
        np.save(tmp_path / f"{name}.npy", some)
    kept = keep([tmp_path / "0000.npy"], backbone, stirred(backbone).features, launched())
    targets = keep([tmp_path / "0000.target.npy"], backbone, None, launched())
    said = [f"{{}} number {number}" for number in range(8)]
    masks = torch.zeros(8, 1, *targets[[0]][0].shape[2:])
    masks[3, 0, 0, 0], masks[3, 0, 0, 1] = 1, 0.5
    batch = next(Stream(backbone, Ready(), kept, targets=targets, frames=said, masks=masks)([range(2, 4)]))
    assert batch.mask is not None
    assert (batch.mask[0] == ELSEWHERE).all()
    assert batch.mask[1].flatten()[:3].tolist() == pytest.approx([1, (1 + ELSEWHERE) / 2, ELSEWHERE])
    assert next(Stream(backbone, Ready(), kept)([range(2, 4)])).mask is None
    assert batch.frames == said[2:4]
    assert torch.equal(batch.latents, targets[[2, 3]][0])
    for mine, own in zip(batch.features, kept[[2, 3]][1:], strict=True):
        assert torch.equal(mine, own)
    latents = backbone.encode(torch.from_numpy(others[2:4]))
    # Kept in fp16, of bf16, whose largest rounding depends on the machine's kernels (0.058 of a deviation on one, mean 0.01).
    assert (batch.latents - latents).abs().mean() < 0.03 * latents.std()
    seen = backbone.encode(torch.from_numpy(pictures[2:4]))
    assert (batch.latents - seen).abs().mean() > 0.3 * latents.std()


def test_ctrl_c_ends_after_the_step_with_a_checkpoint(backbone, tmp_path):
    stop = Ready(4, lambda: os.kill(os.getpid(), signal.SIGINT))
    done, _ = run(backbone, tmp_path, pictures=stop)
    assert done == 2
    assert state(tmp_path)["step"] == 2
    shown = []
    done, _ = run(backbone, tmp_path, resume=True, preview=lambda step, module: shown.append(step))
    assert (done, shown) == (4, [4])


def test_the_curve_of_a_broken_run_is_that_of_a_whole_one(backbone, tmp_path):
    plan = replace(PLAN, log_every=4)
    run(backbone, tmp_path / "whole", plan)
    stop = Ready(8, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert run(backbone, tmp_path / "parts", plan, stop)[0] == 3
    run(backbone, tmp_path / "parts", plan, resume=True)
    ((whole,), (parts,)) = (lines(tmp_path / name) for name in ("whole", "parts"))
    for name in ("step", "loss", "penalty", "norm"):  # speed is not that of a whole one
        assert parts[name] == whole[name]


def test_accumulation_gives_the_same_step_but_for_the_negatives(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "half", lambda backbone: nullcontext())
    for weight in (0.0, 5.0):
        settings, found = replace(SMALL, word_weight=weight), []
        for accumulation in (1, 2):
            place = tmp_path / f"{weight}-{accumulation}"
            run(backbone, place, replace(PLAN, steps=1, accumulation=accumulation), settings=settings)
            found.append(first_moments(place))
        apart = ((found[0] - found[1]).norm() / found[0].norm()).item()
        assert (apart < 1e-4) == (weight == 0.0), apart


def test_checkpointing_changes_nothing(backbone, tmp_path):
    found = []
    for flag in (False, True):
        run(backbone, tmp_path / str(flag), replace(PLAN, steps=1, checkpointing=flag))
        found.append(first_moments(tmp_path / str(flag)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-7)
    assert not backbone.unet.is_gradient_checkpointing


TWO = """
import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
sys.path[:0] = {paths}
import torch
torch.set_num_threads(1)
from train_pretrain import PLAN, opened, room, run
room.half = lambda backbone: nullcontext()
for steps in (1, 3):
    folder = Path({folder!r}) / str(steps)
    run(opened(Path({mini!r})), folder, replace(PLAN, steps=steps), accelerator=room.launched())
"""


def test_two_processes_walk_the_path_of_one_contrastive_negatives_included(backbone, sd15, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "half", lambda backbone: nullcontext())
    for steps in (1, 3):
        run(backbone, tmp_path / "one" / str(steps), replace(PLAN, steps=steps))
    here = Path(__file__)
    (tmp_path / "train_pretrain.py").write_text(here.read_text())
    script = tmp_path / "two.py"
    paths = [str(tmp_path), str(here.parents[1]), str(Path(room.__file__).parents[2])]
    script.write_text(TWO.format(paths=paths, mini=str(sd15), folder=str(tmp_path / "two")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr[-3000:]
    one, two = first_moments(tmp_path / "one" / "1"), first_moments(tmp_path / "two" / "1")
    assert ((one - two).norm() / one.norm()).item() < 1e-4
    # AdamW's first step is of one size for all gradients, so those of rounding alone part the paths a little.
    for steps, close in ((1, 1e-4), (3, 1e-3)):
        curves = [lines(tmp_path / folder / str(steps)) for folder in ("one", "two")]
        for name in ("loss", "penalty", "norm"):
            values = [[line[name] for line in curve] for curve in curves]
            assert values[0] == pytest.approx(values[1], rel=close)
    losses = [line["loss"] for line in lines(tmp_path / "two" / "3")]
    assert len(set(losses)) == 3


def test_previews_come_at_intervals_with_the_averaged_weights_and_leave_the_run_alone(backbone, tmp_path):
    plan, seen = replace(PLAN, preview_every=2, average=0.2), {}

    def preview(step, module):
        seen[step] = [parameter.detach().clone() for parameter in module.parameters()]

    _, encoder = run(backbone, tmp_path / "shown", plan, preview=preview)
    assert list(seen) == [0, 2, 4]
    first, last = stirred(backbone).parameters(), encoder.parameters()  # what is kept is the average
    assert all(torch.equal(a, b) for a, b in zip(seen[0], first, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen[4], last, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen[2], seen[4], strict=True))
    run(backbone, tmp_path / "blind", plan)
    states = [tensors(state(tmp_path / name)) for name in ("shown", "blind")]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_a_tracker_is_told_the_settings_and_the_curve(backbone, tmp_path, monkeypatch):
    told = {}

    class Memory(tracking.GeneralTracker):
        name, requires_logging_directory, tracker = "memory", True, None

        def __init__(self, run_name, logging_dir, **_):
            super().__init__()
            told["where"] = (run_name, Path(logging_dir))

        def store_init_configuration(self, values):
            told["settings"] = values

        def log(self, values, step=None, **_):
            told[step] = values

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "memory", Memory)
    run(backbone, tmp_path, accelerator=launched("memory", tmp_path), told={"recipe": "small", "data": ["folder:x"]})
    assert told.pop("where") == ("namesake", tmp_path)
    settings = told.pop("settings")
    assert (settings["steps"], settings["batch"], settings["recipe"]) == (4, 4, "small")
    assert list(told) == [1, 2, 3, 4]
    for line in lines(tmp_path):
        assert told[line["step"]]["loss"] == pytest.approx(line["loss"], abs=1e-6)
        assert set(told[line["step"]]) == set(line) - {"step"}


def test_one_process_gathers_nothing():
    words = torch.ones(2, 3)
    assert gathered(words) is words


def test_the_rate_is_a_function_of_the_step():
    plan = Plan(110, rate=2.0e-3, warmup=10)
    assert plan.rate_at(0) == pytest.approx(2e-4)
    assert plan.rate_at(9) == plan.rate_at(10) == pytest.approx(2e-3)
    assert plan.rate_at(60) == pytest.approx(1e-3)
    assert plan.rate_at(110) == pytest.approx(0)


def test_a_loss_that_is_not_finite_ends_the_run(backbone, tmp_path):
    encoder = stirred(backbone)
    with torch.no_grad():
        encoder.trunk.enter.bias[0] = torch.nan
    with pytest.raises(Refusal, match="not finite at step 1"):
        pretrain(backbone, encoder, Stream(backbone, Ready()), PROMPTS, PLAN, tmp_path)
    assert not list(tmp_path.glob("checkpoint*"))


def test_a_run_that_diverged_goes_on_at_a_lower_rate(backbone, tmp_path):
    """And the optimizer's rate at each step is the plan's."""
    rates, slow = [], replace(PLAN, rate=1e-4)

    def diverges(optimizer, *_):
        (group,) = optimizer.param_groups
        rates.append(group["lr"])
        if group["lr"] > slow.rate and optimizer.state[group["params"][0]]["step"] == 3:
            group["params"][0].data.fill_(torch.nan)

    hook = register_optimizer_step_post_hook(diverges)
    try:
        with pytest.raises(Refusal, match=r"not finite at step 4, at a rate of 0\.01; .*--rate"):
            run(backbone, tmp_path)
        done, encoder = run(backbone, tmp_path, slow, resume=True)
    finally:
        hook.remove()
    assert done == 4
    assert room.rate_of(tmp_path / "checkpoint-00000004.pt") == 1e-4
    assert all(parameter.isfinite().all() for parameter in encoder.parameters())
    fast = [PLAN.rate_at(step) for step in range(3)]
    assert rates == pytest.approx([*fast, slow.rate_at(2), slow.rate_at(3)], rel=1e-9)


def test_a_checkpoint_goes_only_when_the_next_one_is_there(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def there():
        return [path.name for path in tmp_path.iterdir()]

    room._save(tmp_path, {"step": 2})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Refusal, match="No space left"):
            room._save(tmp_path, {"step": 4})
    assert there() == ["checkpoint-00000002.pt"]
    (tmp_path / ".checkpoint-00000004.pt.0a1b2c3d.part").touch()  # a kill came while it was written
    room._save(tmp_path, {"step": 4})
    assert there() == ["checkpoint-00000004.pt"]
    assert room.rate_of(tmp_path / "checkpoint-00000004.pt") is None  # it says nothing of its settings


def test_what_is_kept_is_the_moving_average(backbone, tmp_path, monkeypatch):
    biases = []
    monkeypatch.setattr(DateEncoder, "after_step", lambda self: biases.append(self.trunk.enter.bias.detach().clone()))
    _, encoder = run(backbone, tmp_path, replace(PLAN, steps=3, average=0.2))
    one, two, three = biases
    # It begins as the first step's, and forgets faster at first: what it keeps is 2/11, then 3/12, at most `average`.
    by_hand = 0.2 * (2 / 11 * one + 9 / 11 * two) + 0.8 * three
    torch.testing.assert_close(encoder.trunk.enter.bias.detach(), by_hand, rtol=1e-5, atol=1e-7)
    assert (by_hand - three).abs().max() > 1e-4


def test_what_cannot_be_run_is_refused(tmp_path):
    for wrong in ({"steps": 0}, {"batch": 0}, {"rate": 2.0}, {"average": -1.0}):
        with pytest.raises(Refusal, match=next(iter(wrong))):
            replace(PLAN, **wrong)
    with pytest.raises(Refusal, match="multiple of 3"):
        PLAN.share(3)
    with pytest.raises(Refusal, match="tracker 'nothing'"):
        launched("nothing", tmp_path)
    absent = next(name for name in ("wandb", "aim", "clearml", "comet_ml") if find_spec(name) is None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # accelerate's, which is all that it would do
        with pytest.raises(Refusal, match=f"tracker '{absent}'"):
            launched(absent, tmp_path)
    for content in (b"<html>no such file</html>", b"", b"PK" * 99):
        (tmp_path / "checkpoint-00000001.pt").write_bytes(content)
        with pytest.raises(Refusal, match=r"checkpoint-00000001\.pt\" cannot be read"):
            room._restored(tmp_path, True, {}, torch.nn.Identity(), None, None)


def test_what_it_will_take_is_said_before_it_starts(backbone, tmp_path):
    said = []
    run(backbone, tmp_path, replace(PLAN, steps=1), say=said.append)
    count = sum(p.numel() for p in stirred(backbone).parameters())
    assert said[0].startswith(f"{count / 1e6:.2f} million trained parameters, about ")
    assert "GiB" in said[0]
    assert "1 steps take about" in said[0]


def test_an_encoder_may_look_at_the_current_noisy_latent(backbone, tmp_path):
    seen = []
    encoder = stirred(backbone, replace(SMALL, denoiser="current"))
    inner = encoder.features.denoiser
    encoder.features.denoiser = lambda noisy, t: seen.append(t) or inner(noisy, t)
    pretrain(backbone, encoder, Stream(backbone, Ready()), PROMPTS, replace(PLAN, steps=1), tmp_path)
    assert len(set(seen[0].tolist())) == 4  # one timestep for each row, those of the step


def test_what_is_kept_is_what_the_frozen_networks_see(backbone, tmp_path):
    pictures, files = Ready().pictures, []
    for number, part in enumerate((pictures[:5], pictures[5:])):
        files.append(tmp_path / f"{number:04d}.npy")
        np.save(files[-1], part)
    encoder = stirred(backbone)
    kept = keep(files, backbone, encoder.features, launched())
    assert len(kept) == 8
    numbers = [6, 0, 4, 5]
    rows = torch.from_numpy(pictures[numbers])
    latents = backbone.encode(rows)
    for found, wanted in zip(kept[numbers], (latents, *encoder.features(rows, latents)), strict=True):
        assert found.shape == wanted.shape
        assert (found - wanted).norm() < 0.02 * wanted.norm()  # bf16, and fp16 on disk
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    keep(files, backbone, encoder.features, launched())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    encoder.features.timestep += 1
    keep(files, backbone, encoder.features, launched())
    assert len(list(tmp_path.iterdir())) == len(times) + 2
    stream = Stream(backbone, Ready(), kept)
    batch = next(stream([range(6, 10)]))
    assert batch.origin.tolist() == [6, 7, 0, 1]
    assert batch.pictures is None
    assert torch.equal(batch.latents, kept[[6, 7, 0, 1]][0])
    assert isinstance(stream.kept, Kept)


def test_workers_read_ahead_in_order(backbone):
    parts = [range(4 * k, 4 * k + 4) for k in range(3)]
    alone = list(Stream(backbone, Ready())(parts))
    ahead = list(Stream(backbone, Ready(), workers=2)(parts))
    for a, b in zip(alone, ahead, strict=True):
        assert torch.equal(a.pictures, b.pictures)
        assert torch.equal(a.origin, b.origin)


def test_too_little_shared_memory_is_refused(backbone, monkeypatch):
    stream = Stream(backbone, Ready(), workers=2)
    need = 2 * 2 * 4 * 3 * backbone.size**2
    free = need
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(Path, "is_dir", lambda _: True)  # a Mac has none
    next(stream([range(4)]))
    free = need - 1
    with pytest.raises(Refusal, match=r"2 processes read ahead need .* \(--shm-size\), or read with fewer"):
        next(stream([range(4)]))
    next(Stream(backbone, Ready())([range(4)]))  # no other process, and nothing is shared
    free = need
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(Refusal, match="--shm-size"):
        next(stream([range(4)]))


def test_ctrl_c_leaves_the_workers_alone(backbone):
    """It reaches them too, and the one that they read for ends after its step."""
    parts = [range(4 * k, 4 * k + 4) for k in range(8)]
    seen = 0
    for _ in Stream(backbone, Ready(), workers=2)(parts):
        seen += 1
        for worker in multiprocessing.active_children() if seen > 1 else []:  # both have begun: they come in turn
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGINT)
    assert seen == 8


def refuse():
    raise Refusal("All is broken.")


def test_what_a_worker_refuses_is_one_sentence(backbone):
    with pytest.raises(Refusal) as told:
        list(Stream(backbone, Ready(0, refuse), workers=1)([range(4)]))
    assert str(told.value) == "All is broken."


class Skipping(Ready):
    """Picture 5 is broken: 4 stands in."""

    def read(self, rows):
        pictures, origin, _ = super().read(rows)
        return pictures, origin, sum(row % 8 == 5 for row in rows)


def test_skipped_pictures_are_counted_once_and_over_a_break(backbone, tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        run(backbone, tmp_path, pictures=Skipping(stop_at=12, how=killed))
    with open(tmp_path / "curve.jsonl", "a") as file:
        file.write('{"step": 3, "lo')  # the kill cut a line
    run(backbone, tmp_path, pictures=Skipping(), resume=True)
    assert [line["skipped pictures"] for line in lines(tmp_path)] == [0, 1, 1, 2]
    ahead = Stream(backbone, Skipping(), workers=2)
    for _ in range(2):
        assert len(list(ahead([range(4 * k, 4 * k + 4) for k in range(4)]))) == 4
        assert ahead.skipped == 2


class Late:
    """The second of two processes, which begins when the first has kept a file already."""

    process_index, num_processes, is_main_process = 1, 2, False

    def wait_for_everyone(self):
        """The first one keeps what is its own."""
        keep(self.files, self.backbone, None, self.first)


def test_processes_keep_every_file_whenever_they_begin(backbone, tmp_path):
    files = [tmp_path / f"{number:04d}.npy" for number in range(4)]
    for file in files:
        np.save(file, Ready().pictures[:1])
    late, first = Late(), Late()
    late.files, late.backbone, late.first = files, backbone, first
    first.process_index, first.wait_for_everyone = 0, lambda: None
    keep(files[:1], backbone, None, first)
    assert len(keep(files, backbone, None, late)) == 4


def test_sentences_that_the_model_cannot_read_are_left_out():
    book = Backbone.load(device="cpu")
    assert list(sentences(book, "<it>", ("a picture of {}", "an oxymoron of {}"))) == ["a picture of <it>"]
    assert list(sentences(book, "<it>", ("an oxymoron of {}",))) == ["<it>"]
