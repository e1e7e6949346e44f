"""What tuned methods share: prior preservation, the stopping rule, masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from namesake.backbone import Backbone
from namesake.data.prompts import DRAWN_TEMPLATES, TEMPLATES
from namesake.edits import TokenEdit
from namesake.errors import Refusal
from namesake.generate import generate
from namesake.methods.textual_inversion import StyleInversion, TextualInversion
from namesake.train.examples import FAR, NEAR, Examples, Mixture, _scaled, encoded, sentences
from namesake.train.fit import Batch, dice, loss_of, min_snr, stratified
from namesake.train.tune import Dvar, Shown, learn, personalize, variance_ratio


@pytest.fixture(scope="module")
def backbone(sd15):
    return Backbone.load(sd15, device="cpu")


@pytest.fixture(scope="module")
def pictures():
    return torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def examples(value, prompt, rows=2, masks=None):
    return Examples(torch.full((2, 4, 8, 8), value), masks, (prompt,), 2, rows)


def test_prior_preservation_is_the_papers_loss_up_to_one_plus_lambda():
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    both = Mixture(((examples(1.0, "a <it>", 2, mask), 1.0), (examples(2.0, "a cat", 3), 0.5)))
    batch = both.batch(0, dice(0, 0))
    own = torch.tensor([prompt == "a <it>" for prompt in batch.prompts])
    assert own.sum() == 2
    assert len(own) == 5
    assert torch.equal(batch.latents[:, 0, 0, 0], torch.where(own, 1.0, 2.0))
    assert torch.equal(batch.weight, torch.where(own, 1.0, 0.5))
    assert torch.equal(batch.mask.mean(dim=(1, 2, 3)), torch.where(own, 0.5, 1.0))
    chance = torch.Generator().manual_seed(0)
    output, target = (torch.randn(5, 4, 8, 8, generator=chance) for _ in range(2))
    loss, rows = loss_of(output, target, batch)
    torch.testing.assert_close(loss, (rows[own].sum() + 0.5 * rows[~own].sum()) / (2 + 0.5 * 3))
    # With equal numbers of rows that is (L + lambda L_prior) / (1 + lambda); at lambda 0 the prior is not there.
    even = Mixture(((examples(1.0, "a <it>"), 1.0), (examples(2.0, "a cat"), 0.5))).batch(0, dice(0, 0))
    own = torch.tensor([prompt == "a <it>" for prompt in even.prompts])
    loss, rows = loss_of(output[:4], target[:4], even)
    torch.testing.assert_close(loss, (rows[own].mean() + 0.5 * rows[~own].mean()) / 1.5)
    none = replace(even, weight=torch.where(own, 1.0, 0.0))
    torch.testing.assert_close(loss_of(output[:4], target[:4], none)[0], rows[own].mean())


def test_min_snr_weights_own_and_prior_rows_by_their_own_timesteps(backbone):
    snr = torch.tensor([0.0, 0.5, 5.0, 20.0])
    torch.testing.assert_close(min_snr(snr, 5.0, "epsilon"), torch.tensor([1.0, 1.0, 1.0, 0.25]))
    torch.testing.assert_close(min_snr(snr, 5.0, "v_prediction"), torch.tensor([0.0, 1 / 3, 5 / 6, 5 / 21]))
    # Either way it is min(snr, gamma) on the clean picture's error: v's is that of the picture times (snr + 1) / snr ...
    torch.testing.assert_close(min_snr(snr, 5.0, "v_prediction") * (snr + 1), snr.clamp(max=5.0))
    torch.testing.assert_close(min_snr(snr, 5.0, "epsilon") * snr, snr.clamp(max=5.0))
    chance = torch.Generator().manual_seed(0)
    output, target = (torch.randn(4, 4, 8, 8, generator=chance) for _ in range(2))
    weight = torch.tensor([1.0, 1.0, 0.5, 0.5])  # two rows of a concept, two of its class at lambda = 1/2
    factor = min_snr(snr, 5.0, "epsilon")
    batch = Batch(torch.zeros(4, 4, 8, 8), [""] * 4, weight)
    loss, rows = loss_of(output, target, batch, factor)
    wanted = ((rows * factor)[:2].mean() + 0.5 * (rows * factor)[2:].mean()) / 1.5
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(loss_of(output, target, batch, torch.ones(4))[0], loss_of(output, target, batch)[0])
    alone = Batch(torch.zeros(1, 4, 8, 8), [""])  # in a batch of one the factor must not cancel
    single, row = loss_of(output[3:], target[3:], alone, factor[3:])
    torch.testing.assert_close(single, 0.25 * row[0])
    t = torch.tensor([0, 500, 999])
    clean, noise = backbone.add_noise(torch.ones(3, 4, 8, 8), torch.zeros(3, 4, 8, 8), t), 1.0
    share = clean[:, 0, 0, 0].square() / noise
    torch.testing.assert_close(backbone.snr(t), share / (1 - share), rtol=1e-3, atol=0)


def test_concept_and_prior_each_see_all_timesteps():
    both, seen = Mixture(((examples(1.0, "a <it>", 1), 1.0), (examples(2.0, "a cat", 1), 1.0))), []
    for step in range(40):
        prompts = both.batch(step, dice(0, step)).prompts
        seen.append(stratified(0, step, 2)[prompts.index("a <it>")])
    assert np.histogram(seen, 4, (0.0, 1.0))[0].min() >= 4


def test_the_variance_ratio_is_that_worked_by_hand():
    assert variance_ratio([1.0, 3.0], 3) == 1.0
    # The last two, 1 and 3, vary by 1 about 2; all four, 5, 3, 1, 3, by 2 about 3.
    assert variance_ratio([5.0, 3.0, 1.0, 3.0], 2) == pytest.approx(0.5)
    assert variance_ratio([2.0, 2.0], 2) == 0.0


def test_a_run_ends_when_its_loss_has_settled_and_the_look_changes_nothing(backbone, pictures):
    method = TextualInversion(batch=2, rate=0.0)
    edit = personalize(backbone, method, pictures, class_word="cat", steps=9, dvar=Dvar(window=2, every=2))
    assert edit.about.settings["ended"] == "by its rule"
    assert edit.about.settings["steps"] == 4
    method = TextualInversion(batch=2, rate=1e-2)
    looked, free = (
        personalize(backbone, method, pictures, class_word="cat", steps=3, dvar=rule)
        for rule in (Dvar(window=2, threshold=1e-9, every=1), None)
    )
    assert looked.about.settings["steps"] == 3
    assert torch.equal(looked.of(TokenEdit)[0].vectors[0], free.of(TokenEdit)[0].vectors[0])
    assert (Dvar.of(3000).every, Dvar.of(50).every) == (30, 1)
    with pytest.raises(Refusal, match="more than 20 steps"):
        Dvar.of(20)
    for wrong in ({"window": 1}, {"every": 0}, {"threshold": 1.0}):
        with pytest.raises(Refusal, match="stopping rule"):
            Dvar(**wrong)


def test_masks_prior_and_weight_reach_the_loss(backbone, pictures):
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[:, :32] = True
    method = TextualInversion(batch=2, rate=1e-2)
    found = [
        personalize(backbone, replace(method, **settings), pictures, class_word="cat", steps=1, **options)
        for settings, options in (
            ({}, {}),
            ({}, {"masks": masks}),
            ({}, {"prior": pictures.flip(1)}),
            ({"prior_weight": 0.0}, {"prior": pictures.flip(1)}),
            ({"snr_gamma": 1e-3}, {}),  # below the ratio of any row
        )
    ]
    plain, masked, held, free, weighted = (edit.about.settings["loss"] for edit in found)
    assert len({plain, masked, held, weighted}) == 4
    assert plain == free


def test_a_style_begins_at_a_style(backbone, pictures, monkeypatch):
    monkeypatch.setattr("namesake.train.tune.COARSE_STYLE", "hat")
    edit = personalize(backbone, StyleInversion(), pictures, steps=0)
    assert edit.about.class_word == "hat"
    assert personalize(backbone, StyleInversion(), pictures, class_word="dog", steps=0).about.class_word == "dog"


def test_each_of_several_concepts_has_the_steps_of_one(backbone, pictures):
    shown = [Shown(picture[None], f"<{name}>", name) for name, picture in zip(("cat", "dog"), pictures, strict=True)]
    assert learn(backbone, TextualInversion(steps=1, batch=2), shown).about.settings["steps"] == 2


def test_only_a_model_of_drawings_is_told_that_it_sees_one(backbone, monkeypatch):
    def said():
        return {
            sentence for sentence in sentences(backbone, "<it>", TEMPLATES) if "draw" in sentence or "illus" in sentence
        }

    monkeypatch.setattr(type(backbone), "unknown_words", lambda *_: [])
    assert not said()
    monkeypatch.setattr(type(backbone), "kind", "picturebook")
    assert len(said()) == len(DRAWN_TEMPLATES) == 3


def test_large_pictures_are_encoded_fewer_at_a_time(backbone, monkeypatch):
    taken = []
    monkeypatch.setattr(backbone, "encode", lambda some: taken.append(len(some)) or torch.zeros(len(some), 4, 1, 1))
    for side, wanted in ((64, [8, 1]), (1024, [2, 2, 2, 2, 1]), (2048, [1] * 9)):
        taken.clear()
        assert len(encoded(backbone, torch.empty(9, side, side, 3, dtype=torch.uint8))) == 9
        assert taken == wanted


def test_pictures_are_seen_at_nine_scales_and_the_sentence_and_the_mask_say_so(backbone, monkeypatch):
    picture = torch.full((1, 64, 64, 3), 200, dtype=torch.uint8)
    picture[:, :, 32:] = 50
    half = _scaled(picture, 0.5, 0.25, 1.0, 127)[0]
    assert (half[:32] == 127).all()  # it stands at the bottom, a quarter of the room of 32 from the left
    assert (half[32:, 8:22] == 200).all()
    assert (half[32:, 26:40] == 50).all()
    assert (half[:, :8] == 127).all()
    assert (half[:, 40:] == 127).all()
    near = _scaled(picture, 1.25, 0.0, 0.0, 127)[0]
    assert (near[:, :38] == 200).all()
    assert (near[:, 42:] == 50).all()
    assert torch.equal(_scaled(picture, 1.0, 0.3, 0.7, 127), picture)

    examples = Examples.of(backbone, picture, "<it>", None, 4, templates=("a {}",), scaled=True)
    assert len(examples.latents) == len(examples.masks) == len(examples.openings) == 9
    shares = examples.masks.mean(dim=(1, 2, 3)).sqrt()
    assert (shares.diff()[:5] > 0).all()
    assert (shares[6:] == 1).all()
    for share, opening in zip(shares[:6], examples.openings, strict=False):
        assert (opening in FAR) == (share < 0.6)
        assert (opening == "") == (share >= 0.6)
    assert all(opening in NEAR for opening in examples.openings[6:])
    for step in range(4):
        batch = examples.batch(step, dice(0, step))
        for latents, mask, prompt in zip(batch.latents, batch.mask, batch.prompts, strict=True):
            place = next(i for i, one in enumerate(examples.latents) if torch.equal(one, latents))
            assert torch.equal(mask, examples.masks[place])
            assert prompt == f"{examples.openings[place]} a <it>".strip()
    monkeypatch.setattr(backbone, "unknown_words", lambda text: ["far"] if "a" in text else [])
    silent = Examples.of(backbone, picture, "<it>", picture[..., 0] > 100, 4, templates=("{}",), scaled=True)
    assert set(silent.openings) <= {"", "tiny", "zoomed in", "close up"}
    assert (silent.masks[6:].mean(dim=(1, 2, 3)) < 0.9).all()


def test_words_learned_together_each_have_a_real_word(backbone, pictures, tmp_path):
    shown = [Shown(pictures, "<my-cat>", "cat"), Shown(pictures, "<my-dog>", "dog")]
    edit = learn(backbone, TextualInversion(batch=2), shown, steps=1)
    (hard,) = generate(backbone, "<my-cat> and <my-dog>", edit, steps=2, blend=0.0)
    (plain,) = generate(backbone, "cat and dog", steps=2)
    assert np.abs(hard.pixels.astype(int) - plain.pixels).max() <= 1
    many = [Shown(pictures, f"<my-cat-{number}>", "cat and a dog and a cat") for number in range(40)]
    learn(backbone, TextualInversion(batch=2), many, steps=0).save(tmp_path / "many.safetensors")
