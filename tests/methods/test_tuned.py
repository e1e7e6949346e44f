"""The tuned methods one by one: their sizes, their formulas against cases worked by hand, their phases, what they refuse."""

import copy
from dataclasses import fields, replace

import pytest
import torch

from namesake.backbone.shapes import true_shape
from namesake.edits import LowRankEdit, TokenEdit, edited
from namesake.errors import Refusal
from namesake.methods import METHODS
from namesake.methods.custom_diffusion import CustomDiffusion
from namesake.methods.dreambooth import DreamBooth, retracted
from namesake.methods.lora import Lora
from namesake.methods.lora_pti import LoraPti, pulled
from namesake.methods.textual_inversion import TextualInversion
from namesake.train.tune import lora_of, personalize, word_norms, word_vectors


@pytest.fixture(scope="module")
def counted():
    """Stable Diffusion 1.5 with no memory for its weights."""
    return true_shape("sd15")


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (TextualInversion(), 768),
        (TextualInversion(copies=3), 3 * 768),
        (Lora(), 797_184),
        (Lora(text=True), 797_184 + 294_912),
        (LoraPti(), 797_184 + 768),
        (DreamBooth(), 859_520_964),
        (DreamBooth(rare_word="toy", word_rate=1e-4), 859_520_964 + 768),
        (CustomDiffusion(modifiers="toy"), 19_169_280 + 768),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_trained_parameters_at_true_sizes_are_the_published_ones(counted, method, count):
    module = method.start(counted, {"<it>": "cat"})
    assert sum(p.numel() for p in module.parameters()) == count
    assert all(p.is_meta for p in module.parameters())


@pytest.mark.parametrize("on_text", [False, True])
def test_lora_has_the_parameters_and_the_outputs_of_peft(backbone, on_text):
    from peft import LoraConfig

    low = lora_of(backbone, 4, seed=0, text=on_text)
    chance = torch.Generator().manual_seed(1)
    factors = {path: (down, torch.randn(up.shape, generator=chance) * 0.1) for path, (down, up) in low.factors.items()}
    low = replace(low, factors=factors)
    unet = copy.deepcopy(backbone.unet)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=targets))
    theirs = {name: p for name, p in unet.named_parameters() if "lora_" in name}
    reader = copy.deepcopy(backbone.text_encoders[0])
    if on_text:
        targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
        reader.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=targets))
        named = {name.removeprefix("text_model."): p for name, p in reader.named_parameters() if "lora_" in name}
        theirs |= {f"text_encoder.{name}": p for name, p in named.items()}
    assert len(theirs) == 2 * len(low.factors)
    with torch.no_grad():
        for path, (down, up) in low.factors.items():
            own = theirs[f"{path}.lora_A.default.weight"]
            if own.numel() > 100:
                assert 0.7 < own.std() * 4 < 1.4
                assert 0.7 < down.std() * 4 < 1.4
            own.copy_(down)
            theirs[f"{path}.lora_B.default.weight"].copy_(up)
        latents, t = torch.randn(2, 4, 8, 8, generator=chance), torch.tensor([300, 700])
        prompts = ["a dog", "a cat on the beach"]  # without the word: LoRA acts on every prompt
        ids = backbone.tokenizers[0](prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        wanted = unet(latents, t, reader(ids).last_hidden_state).sample
        edit = replace(Lora().edit(backbone, {"<it>": "cat"}), parts=(low,))
        with edited(backbone, edit):
            found = backbone.denoise(latents, t, backbone.text(prompts))
        assert (wanted - backbone.denoise(latents, t, backbone.text(prompts))).std() > 0.1 * wanted.std()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * wanted.std().item())


def test_the_pull_and_the_retraction_are_those_worked_by_hand():
    words = torch.tensor([[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]])
    # Lengths 5, 0.5 and 0; a quarter of the way to 1 they are 4 and 0.625, and nothing has no direction.
    wanted = torch.tensor([[2.4, 3.2], [0.0, 0.625], [0.0, 0.0]])
    torch.testing.assert_close(pulled(words, torch.tensor(1.0), 0.25), wanted)
    torch.testing.assert_close(pulled(words[:1], torch.tensor(0.4), 1.0), words[:1] * 0.08)
    spread = torch.tensor([[1.0, 3.0], [1.0, 3.0]])  # a standard deviation of 2 / sqrt(3)
    torch.testing.assert_close(retracted(spread, torch.tensor(2.0 / 3**0.5)), spread)
    torch.testing.assert_close(retracted(spread, torch.tensor(2.0**11 / 3**0.5)), 2 * spread)
    assert torch.equal(retracted(torch.ones(2, 2), torch.tensor(1.0)), torch.ones(2, 2))


def history(backbone, method, pictures, steps, monkeypatch):
    """The edit's tensors after each step, and the timesteps drawn."""
    seen, states = [], []
    add, start = backbone.add_noise, type(method).start

    def spied(self, *args):
        module = start(self, *args)
        after = module.after_step

        def after_step():
            after()
            states.append({name: p.detach().clone() for name, p in module.named_parameters()})

        states.append({name: p.detach().clone() for name, p in module.named_parameters()})
        monkeypatch.setattr(module, "after_step", after_step)
        return module

    with monkeypatch.context() as patch:
        patch.setattr(backbone, "add_noise", lambda z, e, t: seen.append(t) or add(z, e, t))
        patch.setattr(type(method), "start", spied)
        edit = personalize(backbone, method, pictures, class_word="red cat", steps=steps)
    return edit, states, seen


def moved(states, step):
    """Which groups of parameters a step, from 1 on, changed."""
    before, after = states[step - 1 : step + 1]
    return {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}


def test_lora_pti_learns_the_word_at_real_words_length_and_then_the_offsets(backbone, pictures, monkeypatch):
    method = LoraPti(batch=2, word_rate=5e-3, late_word_rate=1e-3, rate=1e-3, rank=1)
    edit, states, seen = history(backbone, method, pictures, 8, monkeypatch)
    assert [moved(states, step) for step in (1, 4)] == [{"words"}] * 2
    assert [moved(states, step) for step in (6, 8)] == [{"words", "down", "up"}] * 2
    assert max(t.max() for t in seen[:4]) >= 800 > max(t.max() for t in seen[4:])
    norm = word_norms(backbone)[0]
    begun, pivot = ((state["words.0"].norm(dim=-1) - norm).abs() for state in (states[0], states[4]))
    assert (pivot < 0.5 * begun + 0.05).all()  # half of the way after each step
    assert edit.of(LowRankEdit)[0].words == ()


def test_dreambooth_learns_the_rare_word_for_its_share_and_never_the_class(backbone, pictures, monkeypatch):
    method = DreamBooth(rare_word="toy", word_rate=1e-3, rate=1e-5, share=0.5)
    edit, states, _ = history(backbone, method, pictures, 4, monkeypatch)
    assert [moved(states, step) for step in (1, 2, 3, 4)] == [{"words", "weights"}] * 2 + [{"weights"}] * 2
    found, (begun,) = edit.of(TokenEdit)[0].vectors[0], word_vectors(backbone, "toy red cat")
    assert torch.equal(found[1:], begun[1:])
    assert not torch.equal(found[0], begun[0])
    table = backbone.text_encoders[0].get_input_embeddings().weight
    assert not any(torch.equal(found[0], row) for row in table)


def test_a_word_of_several_vectors_and_of_a_class_of_two_words(backbone, pictures):
    edit = personalize(backbone, TextualInversion(copies=2), pictures[:1], class_word="red cat", steps=1)
    (found,), (begun,) = edit.of(TokenEdit)[0].vectors, word_vectors(backbone, "red cat red cat")
    assert found.shape == begun.shape == (4, 32)
    assert (found != begun).any(dim=1).all()


@pytest.mark.parametrize("name", list(METHODS))
def test_one_picture_serves_and_bad_input_is_refused_in_a_sentence(backbone, pictures, name):
    method = METHODS[name]
    one = pictures[:1]
    assert personalize(backbone, method, one, class_word="cat", steps=0).placeholders == ("<it>",)
    for options, sentence in (
        ({"word": "it"}, "malformed"),
        ({"class_word": ""}, "1 to 8 ordinary tokens" if method.reads("") == "" else None),
        ({"class_word": "a cat and a dog and a robot and a house"}, "1 to 8 ordinary tokens"),
        ({"class_word": "<|endoftext|>"}, "1 to 8 ordinary tokens"),
        ({"masks": torch.ones(1, 32, 64, dtype=torch.bool)}, "masks are 1 of 64x32 pixels and the pictures 1 of 64x64"),
        ({"masks": torch.zeros(1, 64, 64, dtype=torch.bool)}, "mask is empty"),
        ({"prior": torch.zeros(2, 32, 32, 3, dtype=torch.uint8)}, "pictures of the class are 2 of 32x32 pixels"),
        ({"steps": -1}, "0 or more"),
    ):
        if sentence is not None:
            with pytest.raises(Refusal, match=sentence):
                personalize(backbone, method, one, **{"class_word": "cat", "steps": 0, **options})
    with pytest.raises(Refusal, match="no picture"):
        personalize(backbone, method, pictures[:0], class_word="cat")
    rate = next(field.name for field in fields(method) if field.name.endswith("rate"))
    for settings in ({"batch": 0}, {rate: -1.0}, {rate: float("nan")}, {"prior": -1}):
        with pytest.raises(Refusal, match="is wanted"):
            replace(method, **settings)
