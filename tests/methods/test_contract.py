"""What every tuned method must keep, on every shape of model. A new method takes one row in `ROWS`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from namesake.backbone import Backbone
from namesake.edits import Edit, LowRankEdit, SecondPath, TokenEdit, WeightEdit, edited
from namesake.edits.file import save
from namesake.errors import Refusal
from namesake.methods import METHODS
from namesake.train import tune
from namesake.train.tune import personalize

KINDS = ("picturebook", "sd15", "sd21", "sdxl")
PROMPTS = ["a picture of <it>", "<it> on the beach"]
STEPS = 4


@dataclass
class Row:
    """settings: with which four steps tell. starts: what the new word is for "cat" before the first step. trained,
    stored: how many numbers, of a model."""

    settings: dict
    starts: str
    trained: Callable[[Backbone], int]
    stored: Callable[[Backbone], int]


def vectors(backbone, text):
    pairs = zip(backbone.tokenizers, backbone.text_encoders, strict=True)
    return sum(len(t(text, add_special_tokens=False).input_ids) * e.config.hidden_size for t, e in pairs)


def lora(backbone, rank=4):
    return sum(rank * (site.in_dim + site.out_dim) for site in backbone.sites)


def text_lora(backbone, rank=4):
    """Four square projections in each layer; SDXL's first encoder is read before its last one."""
    layers = [e.config.num_hidden_layers for e in backbone.text_encoders]
    layers[0] -= backbone.name == "sdxl"
    return sum(4 * n * rank * 2 * e.config.hidden_size for n, e in zip(layers, backbone.text_encoders, strict=True))


def keys_and_values(backbone):
    names = ("attn2.to_k.weight", "attn2.to_v.weight")
    return sum(p.numel() for name, p in backbone.unet.named_parameters() if name.endswith(names))


def unet(backbone):
    return sum(p.numel() for p in backbone.unet.parameters())


def text(backbone):
    """All of the text encoders but the tables, and of SDXL's first not what comes after its last layer but one."""
    numbers = 0
    for number, encoder in enumerate(backbone.text_encoders):
        left_out = (
            "token_embedding",
            *(("layers.2.", "final_layer_norm") if backbone.name == "sdxl" and not number else ()),
        )
        numbers += sum(
            p.numel() for name, p in encoder.named_parameters() if not any(part in name for part in left_out)
        )
    return numbers


ROWS = {
    "cold-start": Row(
        # Without looks, which only the picture book's eye would add, one color or another to noise.
        {"word_rate": 1e-2, "offset_rate": 1e-2, "looks": False},
        "cat",
        lambda b: lora(b) + vectors(b, "cat"),
        lambda b: lora(b) + vectors(b, "cat"),
    ),
    "textual-inversion": Row({"rate": 1e-2}, "cat", lambda b: vectors(b, "cat"), lambda b: vectors(b, "cat")),
    "textual-inversion-style": Row(
        {"rate": 1e-2, "copies": 3}, "cat cat cat", lambda b: 3 * vectors(b, "cat"), lambda b: 3 * vectors(b, "cat")
    ),
    "lora": Row({"rate": 1e-3}, "sks cat", lora, lambda b: lora(b) + vectors(b, "sks cat")),
    "lora-text": Row(
        {"rate": 1e-3},
        "sks cat",
        lambda b: lora(b) + text_lora(b),
        lambda b: lora(b) + text_lora(b) + vectors(b, "sks cat"),
    ),
    "lora-pti": Row(
        {"word_rate": 5e-3, "late_word_rate": 1e-3, "rate": 1e-3, "latest": 1.0},
        "cat",
        lambda b: lora(b) + vectors(b, "cat"),
        lambda b: lora(b) + vectors(b, "cat"),
    ),
    "dreambooth": Row({"rate": 1e-4}, "sks cat", unet, lambda b: unet(b) + vectors(b, "sks cat")),
    "dreambooth-text": Row(
        {"rate": 1e-4, "text_rate": 1e-4},
        "sks cat",
        lambda b: unet(b) + text(b),
        lambda b: unet(b) + text(b) + vectors(b, "sks cat"),
    ),
    "dreambooth-word": Row(
        {"rate": 1e-4, "word_rate": 1e-3},
        "sks cat",
        lambda b: unet(b) + vectors(b, "sks"),
        lambda b: unet(b) + vectors(b, "sks cat"),
    ),
    "custom-diffusion": Row(
        {"rate": 1e-3, "word_rate": 1e-3},
        "ktn cat",
        lambda b: keys_and_values(b) + vectors(b, "ktn"),
        lambda b: keys_and_values(b) + vectors(b, "ktn cat"),
    ),
}


@dataclass
class Made:
    """A method run on a model: its start, its end, and what was seen on the way."""

    backbone: Backbone
    row: Row
    module: tune.TunedEdit
    start: Edit
    edit: Edit
    losses: list[float]
    gradients: dict[str, float]
    before: list[torch.Tensor]


def frozen(backbone):
    return [p for part in (backbone.unet, backbone.vae, *backbone.text_encoders) for p in part.parameters()]


@pytest.fixture(scope="module")
def models(minis):
    return {
        kind: Backbone.load(kind if kind == "picturebook" else minis[kind], device="cpu", dtype=torch.float32)
        for kind in KINDS
    }


@pytest.fixture(scope="module")
def made(models):
    done: dict[tuple[str, str], Made] = {}

    def make(name, kind):
        if (name, kind) not in done:
            done[name, kind] = run(name, models[kind])
        return done[name, kind]

    return make


def run(name, backbone):
    row = ROWS[name]
    method = replace(METHODS[name], batch=2, **row.settings)
    chance = torch.Generator().manual_seed(0)
    # The colors of a picture, not noise, whose latents of a trained autoencoder are of no picture's size.
    blocks = torch.randint(0, 256, (4, 4, 4, 3), dtype=torch.uint8, generator=chance)
    pictures = blocks.repeat_interleave(backbone.size // 4, 1).repeat_interleave(backbone.size // 4, 2)
    seen, gradients, losses, parts = [], {}, [], {}
    before = [p.detach().clone() for p in frozen(backbone)]

    def spy(backbone, module, batches, phases, **options):
        for key, parameter in module.named_parameters():
            gradients[key] = 0.0
            parameter.register_hook(lambda grad, key=key: note(key, grad))
        seen.append(module)
        parts["start"] = tune.fit.__wrapped__(backbone, module, batches, phases, **{**options, "steps": 0})
        options["stop"] = lambda moment: losses.append(moment.figures["loss"])
        return tune.fit.__wrapped__(backbone, module, batches, phases, **options)

    def note(key, grad):
        gradients[key] += grad.abs().sum().item()

    spy.__wrapped__ = tune.fit
    # The same pictures, noise and timesteps at every step, or chance would drown what is learned.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("namesake.train.tune.fit", spy)
        patch.setattr("namesake.train.fit.dice", lambda seed, step: torch.Generator().manual_seed(0))
        patch.setattr("namesake.train.fit.GOLDEN", 0.0)
        edit = personalize(
            backbone, method, pictures[:2], class_word="cat", prior=pictures[2:] if method.prior else None, steps=STEPS
        )
    return Made(backbone, row, seen[0], parts["start"], edit, losses, gradients, before)


@torch.no_grad()
def denoised(backbone, edit=None, prompts=PROMPTS, first=0):
    size = backbone.size // backbone.factor
    chance = torch.Generator().manual_seed(1)
    latents = torch.randn(len(PROMPTS), backbone.unet.config.in_channels, size, size, generator=chance)
    rows = slice(first, first + len(prompts))
    latents, t = latents[rows], torch.tensor([300, 700])[rows]
    if edit is None:
        return backbone.denoise(latents, t, backbone.text(prompts))
    with edited(backbone, edit):
        return backbone.denoise(latents, t, backbone.text(prompts))


each = pytest.mark.parametrize("kind", KINDS)
every = pytest.mark.parametrize("name", list(METHODS))


def test_every_method_has_its_row():
    assert set(ROWS) == set(METHODS)


@each
@every
def test_the_start_is_the_real_words_on_the_base_to_the_bit(made, name, kind):
    done = made(name, kind)
    old = denoised(done.backbone, None, [prompt.replace("<it>", done.row.starts) for prompt in PROMPTS])
    assert torch.equal(denoised(done.backbone, done.start), old)
    assert not torch.equal(denoised(done.backbone, done.edit), old)


@each
@every
def test_the_base_is_as_before_to_the_bit(made, name, kind):
    done = made(name, kind)
    denoised(done.backbone, done.edit)
    after = frozen(done.backbone)
    assert all(torch.equal(a, b) for a, b in zip(done.before, after, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in after)


@each
@every
def test_a_batch_is_its_rows_and_at_scale_0_the_word_is_alone(made, name, kind):
    done = made(name, kind)
    both = denoised(done.backbone, done.edit)
    for row, prompt in enumerate(PROMPTS):
        alone = denoised(done.backbone, done.edit, [prompt], row)
        assert (alone[0] - both[row]).abs().max() < 1e-4 * both.std()
    words = replace(done.edit, parts=(*done.edit.of(TokenEdit), *done.edit.of(SecondPath)))
    with edited(done.backbone, done.edit, scale=0):
        silent = denoised(done.backbone)
    assert torch.equal(silent, denoised(done.backbone, words))


@each
@every
def test_a_few_steps_lower_the_loss(made, name, kind):
    losses = made(name, kind).losses
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]


@each
@every
def test_gradients_reach_all_that_is_trained_and_that_is_what_is_said(made, name, kind):
    done = made(name, kind)
    assert not [key for key, amount in done.gradients.items() if not amount > 0]
    assert sum(p.numel() for p in done.module.parameters()) == done.row.trained(done.backbone)
    base = {id(p) for p in frozen(done.backbone)}
    assert not base & {id(p) for p in done.module.parameters()}
    assert done.edit.about.settings["steps"] == STEPS
    assert done.edit.about.method == METHODS[name].name


@each
@every
def test_a_file_has_its_size_and_gives_the_same_result(made, name, kind, tmp_path):
    done = made(name, kind)
    tensors = [
        *(v for token in done.edit.of(TokenEdit) for v in token.vectors),
        *(f for low in done.edit.of(LowRankEdit) for pair in low.factors.values() for f in pair),
        *(w for whole in done.edit.of(WeightEdit) for w in whole.weights.values()),
    ]
    assert sum(t.numel() for t in tensors) == done.row.stored(done.backbone)
    done.edit.save(tmp_path / "half.safetensors")
    payload = 2 * done.row.stored(done.backbone) + 4 * 1024
    extra = (tmp_path / "half.safetensors").stat().st_size - payload
    assert 0 < extra < 3000 + 200 * len(tensors)

    new = denoised(done.backbone, done.edit)
    half = denoised(done.backbone, Edit.load(tmp_path / "half.safetensors"))
    assert (half - new).std() < 1e-2 * new.std()
    save(done.edit, tmp_path / "whole.safetensors", torch.float32)
    assert torch.equal(denoised(done.backbone, Edit.load(tmp_path / "whole.safetensors")), new)


@pytest.fixture(scope="module")
def others(minis):
    """The same architectures with other weights."""
    found = {}
    for kind in KINDS:
        backbone = Backbone.load(kind if kind == "picturebook" else minis[kind], device="cpu", dtype=torch.float32)
        for parameter in frozen(backbone):
            parameter.data *= 1.02
        found[kind] = backbone
    return found


@each
@every
def test_another_base_is_refused(made, others, name, kind):
    done = made(name, kind)
    with pytest.raises(Refusal, match=r"weights of .* differ"), edited(others[kind], done.edit):
        pass
    other = "sdxl" if kind != "sdxl" else "picturebook"
    with pytest.raises(Refusal, match="another architecture"), edited(others[other], done.edit):
        pass
