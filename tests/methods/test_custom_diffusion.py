"""Concepts of Custom Diffusion afterwards: the merge in closed form, and the compression."""

from dataclasses import replace

import pytest
import torch

from namesake.backbone import Backbone
from namesake.edits import Edit, LowRankEdit, SecondPath, TokenEdit, WeightEdit, edited, stack
from namesake.errors import Refusal
from namesake.methods.custom_diffusion import (
    CustomDiffusion,
    _told,
    compress,
    merge,
    merged_weight,
    merging_directions,
)
from namesake.methods.lora import Lora
from namesake.methods.textual_inversion import TextualInversion
from namesake.train.tune import Shown, learn, word_vectors


def learned(backbone, word, seed):
    """A concept as if it had been learned: words and weights moved at random, the weights in two directions each."""
    chance = torch.Generator().manual_seed(seed)
    start = CustomDiffusion(modifiers="toy").start(backbone, {word: "cat"}).start
    token, whole = start.parts
    vectors = tuple(v + 0.1 * torch.randn(v.shape, generator=chance) for v in token.vectors)
    weights = {
        name: w.detach() + 0.2 * torch.randn(len(w), 2, generator=chance) @ torch.randn(2, w.shape[1], generator=chance)
        for name, w in whole.weights.items()
    }
    return Edit((replace(token, vectors=vectors), WeightEdit(weights)), start.about)


@torch.no_grad()
def denoised(backbone, edit, prompts):
    latents = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with edited(backbone, edit):
        return backbone.denoise(latents, torch.full((len(prompts),), 500), backbone.text(prompts))


def test_the_merged_weight_keeps_the_constraint_and_is_the_nearest():
    chance = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=chance, dtype=torch.float64)

    base, targets, values, regular = noise(7, 12), noise(4, 12), noise(4, 7), noise(60, 12)
    merged = merged_weight(base, targets, values, merging_directions(targets, regular))
    assert (targets @ merged.T - values).abs().max() < 1e-8

    def strayed(weight):
        return (regular @ (weight - base).T).square().sum()

    # Whatever else keeps the constraint, a little way off or far, strays further on the captions.
    free = torch.eye(12, dtype=torch.float64) - torch.linalg.pinv(targets) @ targets
    for size in (1e-2, 1.0):
        other = merged + size * noise(7, 12) @ free
        assert (targets @ other.T - values).abs().max() < 1e-8
        assert strayed(other) > strayed(merged)
    torch.testing.assert_close(
        merged_weight(base, targets, targets @ base.T, merging_directions(targets, regular)), base, rtol=0, atol=1e-10
    )
    both = targets.repeat(2, 1), values.repeat(2, 1)  # a token that two prompts share
    twice = merged_weight(base, *both, merging_directions(both[0], regular))
    torch.testing.assert_close(twice, merged, rtol=0, atol=1e-8)


def test_a_merged_edit_gives_each_word_its_own_keys_and_values(backbone):
    one, two = learned(backbone, "<one>", 1), learned(backbone, "<two>", 2)
    both = merge(backbone, one, two)
    assert both.placeholders == ("<one>", "<two>")
    assert [one.words for one in both.of(SecondPath)] == [("<one>",), ("<two>",)]
    sentences = ["a dog on the beach", "a red house"]
    captions, kept = _told(backbone, sentences, None).float(), merge(backbone, one, two, captions=sentences)
    for edit, word in ((one, "<one>"), (two, "<two>")):
        rows = _told(backbone, [f"photo of a {word}"], edit)
        assert rows.shape == (3, 32)  # the modifier, the class, the end
        for name, weight in edit.of(WeightEdit)[0].weights.items():
            merged = both.of(WeightEdit)[0].weights[name]
            wanted = rows.float() @ weight.T
            torch.testing.assert_close(rows.float() @ merged.T, wanted, rtol=0, atol=1e-4 * wanted.std().item())
            base = backbone.unet.get_parameter(name[5:]).detach()
            strayed = [(captions @ (made.of(WeightEdit)[0].weights[name] - base).T).norm() for made in (kept, both)]
            assert strayed[0] < strayed[1]  # the captions that are asked for stay nearer to the base
    together = denoised(backbone, both, ["<one> and <two>", "a dog"])
    assert together.isfinite().all()
    # What the word's tokens are told of is what the model tells: the same rows as a prompt of real words has.
    plain = CustomDiffusion(modifiers="toy").start(backbone, {"<it>": "cat"}).start
    torch.testing.assert_close(
        _told(backbone, ["photo of a <it>"], plain), _told(backbone, ["photo of a toy cat"], None)[-3:]
    )


def test_what_cannot_be_merged_is_refused(backbone, minis):
    one, two = learned(backbone, "<one>", 1), learned(backbone, "<two>", 2)
    with pytest.raises(Refusal, match="merge them"):
        stack(one, two)
    for edits in ((one,), (one, one)):
        with pytest.raises(Refusal, match="two different concepts"):
            merge(backbone, *edits)
    word = TextualInversion().edit(backbone, {"<it>": "cat"})
    with pytest.raises(Refusal, match="<it> was made by Textual Inversion"):
        merge(backbone, one, word)
    with pytest.raises(Refusal, match="another architecture"):
        merge(Backbone.load(minis["sdxl"], device="cpu"), one, two)
    foreign = replace(two, about=replace(two.about, sketch=two.about.sketch * 1.1))
    with pytest.raises(Refusal, match="differ"):
        merge(backbone, one, foreign)


def test_two_concepts_learn_in_one_run_each_its_own_modifier(backbone):
    chance = torch.Generator().manual_seed(0)
    one, two, prior = torch.randint(0, 256, (3, 1, 64, 64, 3), dtype=torch.uint8, generator=chance)
    method = CustomDiffusion(modifiers="toy thing", batch=2, rate=1e-3, word_rate=1e-2, scaled=False)
    shown = [Shown(one, "<one>", "cat", prior=prior), Shown(two, "<two>", "red dog", prior=prior)]
    begun, edit = (learn(backbone, method, shown, steps=steps) for steps in (0, 3))
    assert edit.placeholders == ("<one>", "<two>")
    assert [(one.words, one.hard_word) for one in edit.of(SecondPath)] == [(("<one>",), "cat"), (("<two>",), "red dog")]
    for word, start, reads in zip(edit.of(TokenEdit), begun.of(TokenEdit), ("toy cat", "thing red dog"), strict=True):
        assert torch.equal(start.vectors[0], word_vectors(backbone, reads)[0])
        assert not torch.equal(word.vectors[0][0], start.vectors[0][0])  # both modifiers receive gradient
        assert torch.equal(word.vectors[0][1:], start.vectors[0][1:])
    assert len(edit.of(WeightEdit)) == 1
    assert denoised(backbone, edit, ["<one> and <two>"]).isfinite().all()
    for other, concepts, sentence in (
        (method, [shown[0], replace(shown[1], word="<one>")], "share the words <one>"),
        (method, [*shown, replace(shown[1], word="<three>")], "2 modifiers"),
        (Lora(), shown, "LoRA learns one concept in a run, and 2 were given"),
        (method, [], "0 were given"),
    ):
        with pytest.raises(Refusal, match=sentence):
            learn(backbone, other, concepts, steps=0)


def test_compression_keeps_the_largest_directions_and_says_what_it_loses(backbone, tmp_path):
    edit, prompts = learned(backbone, "<one>", 1), ["a picture of <one>", "a dog"]
    wanted = denoised(backbone, edit, prompts)
    exact, error = compress(backbone, edit, 1.0 - 1e-5)  # each change has two directions
    assert error < 1e-4
    assert {down.shape[0] for down, _ in exact.of(LowRankEdit)[0].factors.values()} == {2}
    torch.testing.assert_close(denoised(backbone, exact, prompts), wanted, rtol=0, atol=1e-3 * wanted.std().item())

    small, error = compress(backbone, edit, 0.3)
    low = small.of(LowRankEdit)[0]
    lost = whole = 0.0
    for name, weight in edit.of(WeightEdit)[0].weights.items():
        change = weight - backbone.unet.get_parameter(name[5:]).detach()
        down, up = low.factors[name[5:-7]]
        assert down.shape[0] == 1
        lost += (change - up @ down * low.alpha / down.shape[0]).square().sum().item()
        whole += change.square().sum().item()
    assert error == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    assert 0.1 < error < 0.9
    assert torch.equal(small.of(TokenEdit)[0].vectors[0], edit.of(TokenEdit)[0].vectors[0])
    for name, one in (("whole", edit), ("small", small)):
        one.save(tmp_path / name)
    assert (tmp_path / "small").stat().st_size < (tmp_path / "whole").stat().st_size
    for wrong, mass, sentence in (
        (edit, 0.0, "above 0"),
        (edit, 1.1, "up to 1"),
        (TextualInversion().edit(backbone, {"<it>": "cat"}), 0.6, "nothing to compress"),
    ):
        with pytest.raises(Refusal, match=sentence):
            compress(backbone, wrong, mass)
