"""The loop: what it draws, what it moves, when it ends, and that the base is untouched."""

import os
import signal

import numpy as np
import pytest
import torch

from namesake.backbone import Backbone
from namesake.edits import Edit, LowRankEdit, SecondPath, TokenEdit, about, edited
from namesake.errors import Refusal
from namesake.train.fit import (
    Batch,
    Phase,
    TunedEdit,
    dice,
    fit,
    frugal,
    loss_of,
    stratified,
    strip_steps,
    timesteps,
)

ALL = (Phase({"words": 5e-3, "down": 5e-3, "up": 5e-3}),)


@pytest.fixture(scope="module")
def backbone(sd15):
    return Backbone.load(sd15, device="cpu")


@pytest.fixture
def module(backbone):
    return tuned(backbone)


def tuned(backbone, **anchors):
    table = backbone.text_encoders[0].get_input_embeddings().weight
    ids = backbone.tokenizers[0]("cat", add_special_tokens=False).input_ids
    chance = torch.Generator().manual_seed(0)
    sites = backbone.sites[::16]  # each kind of projection would take the test a minute
    factors = {
        site.path: (torch.randn(2, site.in_dim, generator=chance) * 0.2, torch.zeros(site.out_dim, 2)) for site in sites
    }
    parts = (TokenEdit("<it>", (table[ids].clone(),)), LowRankEdit(factors, 2.0), SecondPath("cat", 0.5))
    return TunedEdit(Edit(parts, about(backbone, "test", "cat")), backbone, **anchors)


def batches(step, chance):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return Batch(latents, ["a picture of <it>", "<it>"])


def tensors(edit):
    return [
        *(v for token in edit.of(TokenEdit) for v in token.vectors),
        *(factor for low in edit.of(LowRankEdit) for pair in low.factors.values() for factor in pair),
    ]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@torch.no_grad()
def denoising(backbone, edit):
    """The loss of an edit on a fixed batch, at fixed noise and timesteps."""
    with edited(backbone, edit):
        return one_step(backbone)


@torch.no_grad()
def one_step(backbone):
    """The same of whatever is on the model."""
    batch, chance = batches(0, dice(0, 0)), dice(7, 7)
    noise = torch.randn(batch.latents.shape, generator=chance)
    t = torch.tensor([300, 700])
    output = backbone.denoise(backbone.add_noise(batch.latents, noise, t), t, backbone.text(batch.prompts))
    return loss_of(output, backbone.target(batch.latents, noise, t), batch)[0].item()


def test_timesteps_cover_the_range_in_each_batch_and_over_the_run():
    rows, steps = 4, 50
    places = np.stack([stratified(3, step, rows) for step in range(steps)])
    assert (np.floor(places * rows) == np.arange(rows)).all()
    for row in range(rows):
        inner = np.sort(places[:, row] * rows - row)
        assert np.diff(inner, prepend=0.0, append=1.0).max() <= 2.7 / steps
    assert not np.array_equal(stratified(3, 0, rows), stratified(4, 0, rows))
    drawn = timesteps(places.ravel(), (0.2, 0.6), 1000)
    assert 200 <= drawn.min() < 220
    assert 580 < drawn.max() < 600
    assert timesteps(np.array([0.0, 1.0]), (0.0, 1.0), 1000).tolist() == [0, 999]


def test_weights_and_masks_count_as_they_say():
    chance = torch.Generator().manual_seed(0)
    output, target = (torch.randn(3, 2, 4, 4, generator=chance) for _ in range(2))
    mask = torch.rand(3, 1, 4, 4, generator=chance)
    mask[2] = 0  # an empty mask takes its row out
    weight = torch.tensor([1.0, 3.0, 5.0])
    loss, rows = loss_of(output, target, Batch(torch.zeros(3, 2, 4, 4), ["a"] * 3, weight, mask))
    by_hand = [((output[i] - target[i]) ** 2 * mask[i]).sum() / (2 * mask[i].sum()) for i in range(2)]
    assert torch.allclose(rows[:2], torch.stack(by_hand))
    assert rows[2] == 0
    assert torch.allclose(loss, (by_hand[0] + 3 * by_hand[1]) / 4)
    plain, _ = loss_of(output, target, Batch(torch.zeros(3, 2, 4, 4), ["a"] * 3))
    assert torch.allclose(plain, torch.nn.functional.mse_loss(output, target))


def test_the_anchors_are_the_literal_formula(backbone):
    module = tuned(backbone, word_anchor=0.3, offset_anchor=0.7)
    begun = tensors(module.start)
    assert module.penalty(module()).item() == 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.1)
    edit = module()
    v, v0 = edit.of(TokenEdit)[0].vectors[0], begun[0]
    low, start = edit.of(LowRankEdit)[0], module.start.of(LowRankEdit)[0]
    strayed = []
    for path, (down, up) in low.factors.items():
        weight = backbone.unet.get_submodule(path).weight
        offset = low.alpha / 2 * (up @ down - start.factors[path][1] @ start.factors[path][0])
        strayed.append(offset.square().sum() / weight.square().sum())
    wanted = 0.3 * (v - v0).square().sum() / v0.square().sum() + 0.7 * torch.stack(strayed).mean()
    assert module.penalty(edit).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_no_step_gives_the_beginning(backbone, module):
    shown = []
    edit = fit(backbone, module, batches, ALL, steps=0, strip=lambda step, edit: shown.append(step))
    assert same(edit, module.start)
    assert edit.about.settings["steps"] == 0
    assert shown == [0]


def test_steps_lower_the_loss_and_move_all_that_is_trained_and_nothing_else(backbone, module):
    before = {name: value.clone() for name, value in backbone.unet.state_dict().items()}
    moved = {name: 0.0 for name, _ in module.named_parameters()}
    for name, parameter in module.named_parameters():
        parameter.register_hook(lambda grad, name=name: moved.__setitem__(name, moved[name] + grad.abs().sum().item()))
    edit = fit(backbone, module, batches, ALL, steps=6)
    assert all(moved.values()), [name for name, amount in moved.items() if not amount]
    assert denoising(backbone, edit) < denoising(backbone, module.start)
    for part in (backbone.unet, *backbone.text_encoders, backbone.vae):
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.unet.state_dict().items())
    assert not any(tensor.requires_grad for tensor in tensors(edit))


def test_the_same_seed_gives_the_same_edit_and_another_seed_another(backbone):
    edits = [fit(backbone, tuned(backbone), batches, ALL, steps=2, seed=seed) for seed in (4, 4, 5)]
    assert same(edits[0], edits[1])
    assert not same(edits[0], edits[2])


def test_phases_move_their_own_parameters_at_their_own_timesteps(backbone, module, monkeypatch):
    seen, states = [], []
    add = backbone.add_noise

    def spy(latents, noise, t):
        seen.append(t)
        return add(latents, noise, t)

    def after_step():
        states.append([p.detach().clone() for p in module.parameters()])

    monkeypatch.setattr(backbone, "add_noise", spy)
    monkeypatch.setattr(module, "after_step", after_step)
    first = Phase({"words": 1e-2}, share=2, timesteps=(0.5, 1.0))
    second = Phase({"down": 1e-2, "up": 1e-2}, timesteps=(0.0, 0.5))
    fit(backbone, module, batches, (first, second), steps=3)
    begun = tensors(module.start)
    names = [name.split(".")[0] for name, _ in module.named_parameters()]
    assert [t.min() >= 500 for t in seen] == [True, True, False]
    assert seen[2].max() < 500
    for name, start, one, two, three in zip(names, _ordered(module, begun), *states, strict=True):
        assert torch.equal(start, two) == (name != "words")
        assert torch.equal(one, two) == (name != "words")
        assert torch.equal(two, three) == (name != "up")  # down moves only once up is no longer zero
    assert all(p.requires_grad for p in module.parameters())
    with pytest.raises(ValueError, match=r"parameter down"):
        fit(backbone, module, batches, (first,), steps=1)


def _ordered(module, begun):
    """`tensors` alternates down and up; the module's parameters do not."""
    return [begun[0], *begun[1::2], *begun[2::2]]


def test_a_rule_ends_the_run_and_the_strip_can_draw(backbone, module):
    shown, losses = [], []

    def strip(step, edit):
        shown.append(step)
        denoising(backbone, edit)

    def rule(moment):
        before = one_step(backbone)
        moment.load()  # the model carried the edit of the step before
        assert before != one_step(backbone)
        losses.append(moment.figures["loss"])
        assert moment.last
        return moment.done == 3

    edit = fit(backbone, module, batches, ALL, steps=9, strip=strip, stop=rule)
    assert shown == [0, 1, 2, 3]
    assert len(losses) == 3
    assert edit.about.settings["steps"] == 3
    assert edit.about.settings["ended"] == "by its rule"
    assert strip_steps(9) == [0, 1, 2, 4, 8, 9]
    assert strip_steps(8) == [0, 1, 2, 4, 8]


def test_ctrl_c_keeps_what_is_done_and_twice_ends_at_once(backbone):
    def once(done, total):
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    kept = fit(backbone, tuned(backbone), batches, ALL, steps=8, progress=once)
    assert kept.about.settings["ended"] == "by the user"
    assert kept.about.settings["steps"] == 2

    snapshot = []
    module = tuned(backbone)
    fit(backbone, module, batches, ALL, steps=8, stop=lambda now: now.done == 2 and not snapshot.append(module()))
    assert same(kept, snapshot[0])

    def twice(done, total):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(backbone, tuned(backbone), batches, ALL, steps=8, progress=twice)
    assert signal.getsignal(signal.SIGINT) is handler
    with edited(backbone, kept):  # the model is free again
        pass


def test_what_cannot_be_trained_is_refused(backbone, module):
    def broken(step, chance):
        return Batch(torch.full((1, 4, 8, 8), torch.nan), ["<it>"])

    with pytest.raises(Refusal, match="not finite at step 1"):
        fit(backbone, module, broken, ALL, steps=2)
    with pytest.raises(Refusal, match="0 or more"):
        fit(backbone, module, batches, ALL, steps=-1)
    backbone.text_encoders[0]._hf_hook = object()
    try:
        with pytest.raises(Refusal, match="offloaded"):
            fit(backbone, module, batches, ALL, steps=1)
    finally:
        del backbone.text_encoders[0]._hf_hook


@pytest.mark.parametrize("half", [True, False])
def test_gradients_that_are_too_large_are_told(sd15, monkeypatch, half):
    backbone = Backbone.load(sd15, device="cpu", dtype=torch.float16 if half else torch.float32)
    large = iter([True, False, True, True])

    def loss(*arguments):
        value, rows = loss_of(*arguments)
        if next(large):
            value.register_hook(lambda gradient: gradient * torch.inf)
        return value, rows

    monkeypatch.setattr("namesake.train.fit.loss_of", loss)
    if not half:
        with pytest.raises(Refusal, match="not finite at step 1"):
            fit(backbone, tuned(backbone), batches, ALL, steps=1)
        return
    made = fit(backbone, tuned(backbone), batches, ALL, steps=2)
    assert made.about.settings["skipped"] == 1
    with pytest.raises(Refusal, match="all 2 steps were too large"):
        fit(backbone, tuned(backbone), batches, ALL, steps=2)


def test_a_frugal_run_computes_twice_and_changes_nothing(backbone, monkeypatch):
    import torch.utils.checkpoint as kept

    called, original = [], kept.checkpoint
    monkeypatch.setattr(kept, "checkpoint", lambda *a, **k: called.append(1) or original(*a, **k))
    edits = []
    for on in (False, True):
        with frugal(backbone, on):
            module = tuned(backbone)
            edits.append(fit(backbone, module, batches, [Phase({"words": 1e-2, "down": 1e-2, "up": 1e-2})], steps=2))
        assert bool(called) == on
        assert not backbone.unet.is_gradient_checkpointing
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*map(tensors, edits), strict=True))
    backbone.unet.enable_gradient_checkpointing()  # as somebody else may have
    with frugal(backbone):
        pass
    assert backbone.unet.is_gradient_checkpointing
    backbone.unet.disable_gradient_checkpointing()
