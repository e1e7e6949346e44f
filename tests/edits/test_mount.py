"""Edits on models: what must be equal to the bit, and what to 1e-10 in float64."""

import copy
import threading
from dataclasses import replace

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from bench import WORD, Bench, random_edit, row_of
from torch import nn

from namesake.edits import (
    About,
    Edit,
    Layout,
    LowRankEdit,
    SecondPath,
    TokenEdit,
    WeightEdit,
    bypassed,
    edited,
    layer_sites,
    mount,
    stack,
    text_sites,
)
from namesake.edits.base import layer_at
from namesake.edits.mount import _Slot
from namesake.errors import Refusal

PLACES = ("attention", "block", "unet")
SOFT, HARD = f"a photo of {WORD} on the beach", "a photo of cat on the beach"


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a - b).abs().max().item() < 1e-10 * max(1.0, b.abs().max().item())


def plain(edit: Edit) -> Edit:
    """The edit without its second path."""
    return Edit(tuple(p for p in edit.parts if not isinstance(p, SecondPath)), edit.about)


def oracle(on: Bench, edit: Edit, factor: float = 1.0) -> Bench:
    """A copy of the model with the edit merged by hand; its word is the vocabulary's own word "hat"."""
    made = copy.copy(on)
    made.pipeline = copy.copy(on.pipeline)
    made.unet = made.pipeline.unet = copy.deepcopy(on.unet)
    for low in edit.of(LowRankEdit):
        for path, (down, up) in low.factors.items():
            made.unet.get_submodule(path).weight += factor * low.alpha / down.shape[0] * up @ down
    for number, name in enumerate(("text_encoder", "text_encoder_2")[: len(on.text_encoders)]):
        encoder = copy.deepcopy(on.text_encoders[number])
        (token,) = on.tokenizers[number]("hat", add_special_tokens=False).input_ids
        for part in edit.of(TokenEdit):
            encoder.get_input_embeddings().weight[token] = part.vectors[number][0]
        setattr(made.pipeline, name, encoder)
    return made


def snapshot(on: Bench) -> dict:
    """Every object and every bit that an edit could leave changed."""
    models = (on.unet, *on.text_encoders)
    modules = [module for model in models for module in model.modules()]
    return {
        "parameters": [(id(p), p.detach().clone(), p.requires_grad) for m in models for p in m.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules],
        "forwards": [m.__dict__.get("forward") for m in modules],
        "tokenizers": [id(on.pipeline.tokenizer), id(getattr(on.pipeline, "tokenizer_2", None))],
        "config": dict(on.pipeline.config),
        "vocabulary": [len(tokenizer) for tokenizer in on.tokenizers],
    }


def same(a: dict, b: dict) -> bool:
    kept = all(
        i == j and torch.equal(p, q) and r == s
        for (i, p, r), (j, q, s) in zip(a["parameters"], b["parameters"], strict=True)
    )
    return kept and all(a[key] == b[key] for key in a if key != "parameters")


# To the bit


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize("rows", ["word", "all"])
@pytest.mark.parametrize("blend", [0.0, 0.3, 1.0])
def test_the_base_is_itself_after_the_context(make_bench, kind, rows, blend):
    on = make_bench(kind, torch.float32)
    edit = random_edit(on)
    whole = WeightEdit({"unet.conv_in.weight": torch.randn_like(on.unet.conv_in.weight)})
    base = on(HARD)  # first, because transformers leaves hooks of its own at the first call
    before = snapshot(on)
    with edited(on, edit, Edit((whole,), About("test")), blend=blend, rows=rows):
        assert not torch.equal(on(SOFT), base)
        assert not same(snapshot(on), before)
    assert same(snapshot(on), before)
    assert torch.equal(on(HARD), base)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_an_offloaded_model_keeps_its_edit_from_call_to_call(make_bench, kind):
    # `enable_model_cpu_offload` takes accelerate's hooks off and puts them on again at the end of each call of a pipeline.
    on = make_bench(kind)
    models = (on.unet, *on.text_encoders)
    edit, base = random_edit(on), on(HARD)
    with edited(on, edit):
        wanted = on(SOFT)

    def again():
        for model in models:
            remove_hook_from_module(model)
            add_hook_to_module(model, ModelHook())

    for model in models:
        add_hook_to_module(model, ModelHook())
    with edited(on, edit):
        for _ in range(3):
            assert torch.equal(on(SOFT), wanted)
            again()
    assert torch.equal(on(HARD), base)
    again()
    with edited(on, edit):  # asked for in the middle, or ended there
        for model in models:
            remove_hook_from_module(model)
        assert torch.equal(on(SOFT), wanted)
    for model in models:
        assert model.forward.__func__ is type(model).forward
    with edited(on, edit):
        again()
    for model in models:
        assert model._old_forward.__func__ is type(model).forward
    assert torch.equal(on(HARD), base)


def test_a_model_whose_weights_are_elsewhere_is_refused(make_bench):
    on = copy.copy(make_bench("sd15"))
    on.unet, edit = copy.deepcopy(on.unet), random_edit(on)
    on.unet.conv_in.to("meta")
    with pytest.raises(Refusal, match="not in memory"), edited(on, edit, any_base=True):
        pass


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize("place", PLACES)
def test_the_base_is_itself_after_an_exception(make_bench, kind, place):
    on = make_bench(kind)
    edit = random_edit(on, where=place)
    base = on(HARD)
    before = snapshot(on)

    def stop(*_):
        raise KeyboardInterrupt

    handle = on.unet.mid_block.attentions[0].transformer_blocks[0].ff.register_forward_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt), edited(on, edit):
            on(SOFT)
    finally:
        handle.remove()
    assert same(snapshot(on), before)
    assert torch.equal(on(HARD), base)


def test_a_refused_mount_leaves_the_base(sd):
    before = snapshot(sd)
    edit = Edit((TokenEdit("cat</w>", random_edit(sd).of(TokenEdit)[0].vectors),), About("test"))
    with pytest.raises(Refusal, match="malformed"), edited(sd, edit):
        pass
    assert same(snapshot(sd), before)
    with edited(sd, random_edit(sd)):  # the lock is free
        pass


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("blend", [None, 0.25])
def test_a_zero_edit_is_nothing(make_bench, kind, blend):
    """The word at the real word's own vector, up factors at zero: the bits of the base on the real word."""
    on = make_bench(kind, torch.float32)
    full = random_edit(on, blend=blend)
    vectors = tuple(
        e.get_input_embeddings().weight[t("cat", add_special_tokens=False).input_ids].clone()
        for e, t in zip(on.text_encoders, on.tokenizers, strict=True)
    )
    low = full.of(LowRankEdit)[0]
    zero = LowRankEdit({path: (down, torch.zeros_like(up)) for path, (down, up) in low.factors.items()}, low.alpha)
    for place in PLACES if blend is not None else PLACES[:1]:
        second = () if blend is None else (SecondPath("cat", blend, place),)
        base = on(HARD, "")
        with edited(on, Edit((TokenEdit(WORD, vectors), zero, *second), full.about)):
            assert torch.equal(on(SOFT, ""), base)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("blend", [0.25, 1.0])
def test_rows_without_the_word_are_the_bases(make_bench, place, blend):
    on = make_bench("sd15", torch.float32)
    base = on("", HARD, "a dog")
    with edited(on, random_edit(on, where=place), blend=blend, rows="word"):
        out = on("", SOFT, "a dog")
    assert torch.equal(out[0], base[0])
    assert torch.equal(out[2], base[2])
    assert (out[1] - base[1]).abs().max() > 1e-2


def test_bypassed_is_the_base(xl):
    edit = random_edit(xl, blend=None)
    whole = Edit((WeightEdit({"text_encoder.embeddings.position_embedding.weight": torch.randn(77, 32).double()}),),
                 About("test"))  # fmt: skip
    base = xl(HARD)
    with edited(xl, edit, whole, rows="all"):
        with bypassed(xl):
            assert torch.equal(xl(HARD), base)
        assert not torch.equal(xl(HARD), base)  # rows="all"
        assert not torch.equal(xl(SOFT), xl("a photo of thing on the beach"))
    with bypassed(xl):
        assert torch.equal(xl(HARD), base)


# In float64 to 1e-10


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize("rows", ["word", "all"])
def test_low_rank_is_merged_weights(make_bench, kind, rows):
    on = make_bench(kind)
    edit = random_edit(on, blend=None)
    wanted = oracle(on, edit, 0.7)("a photo of hat on the beach")
    with edited(on, edit, scale=0.7, rows=rows) as mounted:
        assert close(on(SOFT), wanted)
        hooks = sum(len(on.unet.get_submodule(site.path)._forward_hooks) for site in on.sites)
        assert hooks == (0 if mounted.layout.merged else len(on.sites))
    assert mounted.layout.merged == (rows == "all")


def test_what_rests_is_not_merged_again(make_bench, monkeypatch):
    """As in the phases of a tuning that move the word alone."""
    on, merges, merged = make_bench("sd15"), [], _Slot.merged
    monkeypatch.setattr(_Slot, "merged", lambda slot, weight: merges.append(1) or merged(slot, weight))
    edit = random_edit(on, blend=None)
    (low,), token = edit.of(LowRankEdit), edit.of(TokenEdit)[0]
    other = replace(token, vectors=tuple(-vectors for vectors in token.vectors))
    turned = replace(low, factors={path: (-down, up) for path, (down, up) in low.factors.items()})
    whole = WeightEdit({f"unet.{on.sites[0].path}.weight": 2 * on.unet.get_submodule(on.sites[0].path).weight.detach()})
    steps = (
        (edit, 1.0, len(on.sites)),
        (Edit((other, low), edit.about), 1.0, 0),
        (edit, 0.5, len(on.sites)),
        (Edit((token, low, whole), edit.about), 0.5, 1),
        (Edit((token, low, whole), edit.about), 0.5, 1),  # whole weights may have been trained
        (edit, 0.5, 1),
        (Edit((token, turned), edit.about), 0.5, len(on.sites)),
    )
    layout = replace(Layout.of(edit, rows="all"), weights=frozenset(whole.weights))
    mounted = mount(on, layout)
    try:
        assert layout.merged
        seen = []
        for one, scale, count in steps:
            mounted.load(one, scale=scale)
            assert len(merges) == count
            merges.clear()
            seen.append(on(SOFT))
    finally:
        mounted.unmount()
    for (one, scale, _), found in zip(steps, seen, strict=True):
        with edited(on, one, scale=scale, rows="all"):
            assert close(on(SOFT), found)


def outside(on: Bench, seed: int = 5, rank: int = 2) -> LowRankEdit:
    """Offsets at all sites outside the U-Net's attentions, those of the text encoders included."""
    dice = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=dice, dtype=on.dtype)

    sites = [*layer_sites(on).values(), *text_sites(on).values()]
    return LowRankEdit({s.path: (noise(rank, s.in_dim) / s.in_dim**0.5, noise(s.out_dim, rank)) for s in sites}, 3.0)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_sites_outside_the_attentions_are_every_other_matrix_of_the_unet(make_bench, kind):
    on = make_bench(kind)
    sites = layer_sites(on)
    matrices = {name.removesuffix(".weight") for name, p in on.unet.named_parameters() if p.ndim in (2, 4)}
    assert set(sites) == matrices - {site.path for site in on.sites}
    assert sites["conv_in"].role == "convolution"
    assert (sites["conv_in"].in_dim, sites["conv_in"].out_dim) == (36, 16)
    assert sites["time_embedding.linear_1"].role == "linear"
    spoken = text_sites(on)
    assert len(spoken) == sum(4 * encoder.config.num_hidden_layers for encoder in on.text_encoders)
    assert {path.partition(".")[0] for path in spoken} == {"text_encoder"} | (
        {"text_encoder_2"} if kind == "sdxl" else set()
    )
    assert all(layer_at(on, path).weight.shape == (site.out_dim, site.in_dim) for path, site in spoken.items())


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize("blend", [None, 0.25])
@pytest.mark.parametrize("rows", ["word", "all"])
def test_outside_the_attentions_the_blend_is_in_the_weights(make_bench, kind, blend, rows):
    """What `blend` makes of the attentions is checked elsewhere; here it is put on a model whose other weights moved."""
    on = make_bench(kind)
    edit, more = random_edit(on, blend=blend), outside(on)
    moved = copy.copy(on)
    moved.pipeline, moved.unet = copy.copy(on.pipeline), copy.deepcopy(on.unet)
    moved.pipeline.unet = moved.unet
    moved.text_encoders = tuple(copy.deepcopy(encoder) for encoder in on.text_encoders)
    moved.pipeline.text_encoder, *second = moved.text_encoders
    if second:
        moved.pipeline.text_encoder_2 = second[0]
    for path, (down, up) in more.factors.items():
        weight = layer_at(moved, path).weight
        weight += (0.7 * (1.0 if blend is None else blend) * 3.0 / 2 * up @ down).view_as(weight)
    with edited(moved, edit, scale=0.7, rows=rows):
        wanted = moved(SOFT)
    on(HARD)  # transformers hooks an encoder for good when it is first asked for its hidden states
    before = snapshot(on)
    with edited(on, Edit((*edit.parts, more), edit.about), scale=0.7, rows=rows):
        assert close(on(SOFT), wanted)
    assert same(before, snapshot(on))
    with edited(on, Edit((*edit.parts, more), edit.about), blend=0, rows=rows):
        assert torch.equal(on(SOFT), on(HARD))


def test_gradients_reach_offsets_outside_the_attentions(sd):
    factors = {path: (nn.Parameter(d), nn.Parameter(u)) for path, (d, u) in outside(sd).factors.items()}
    edit = Edit((LowRankEdit(factors, 2.0), *random_edit(sd).parts[:1]), About("test"))
    base = sd.unet.conv_out.weight.clone()

    def step(number: float) -> torch.Tensor:
        with edited(sd, edit):
            out = sd(SOFT).square().mean()
            if number:
                return out.detach()
            out.backward()
        return out.detach()

    before = step(0)
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.any() for pair in factors.values() for p in pair
    )
    _, up = factors["conv_out"]
    with torch.no_grad():  # the gradient is that of a difference
        up[1, 0] += 1e-5
    assert abs((step(1) - before) / 1e-5 - up.grad[1, 0]) < 1e-3 * abs(up.grad[1, 0])
    assert torch.equal(sd.unet.conv_out.weight, base)
    assert sd.unet.conv_out.weight.grad is None


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("blend", [None, 0.25])
def test_each_row_has_its_own_offset_outside_the_attentions(sd, blend, shared):
    """As if each row were drawn alone with its offset in the weights; and gradients are those."""
    chance = torch.Generator().manual_seed(5)
    parts = random_edit(sd, batch=3, blend=blend).parts
    rows = {
        path: tuple(nn.Parameter(f * torch.randn(3, 1, 1, generator=chance, dtype=f.dtype)) for f in factors)
        for path, factors in outside(sd).factors.items()
        if path in layer_sites(sd)
    }
    if shared:  # `down` is one for all rows
        rows = {path: (down.detach()[:1].expand(3, -1, -1), up) for path, (down, up) in rows.items()}
    edit = Edit((*parts, LowRankEdit(rows, 2.0)), About("test"))
    before = snapshot(sd)
    with edited(sd, edit):
        together = sd(SOFT, SOFT, SOFT)
        together[1].square().mean().backward()
        with pytest.raises(Refusal, match="each of 3 rows"):
            sd(SOFT, SOFT)
    assert same(before, snapshot(sd))
    for row in range(3):
        with edited(sd, row_of(edit, row)):
            alone = sd.denoise(*sd.text([SOFT] * 3))[row]
        assert close(together[row], alone)
    for factors in rows.values():
        for factor in factors[shared:]:
            assert factor.grad[1].any()
            assert not factor.grad[[0, 2]].any()
    mounted = mount(sd, Layout.of(edit))  # which takes an edit for all rows too
    try:
        mounted.load(row_of(edit, 2))
        assert close(sd.denoise(*sd.text([SOFT] * 3))[2], alone)
    finally:
        mounted.unmount()


def test_offsets_of_a_text_encoder_serve_all_rows_alike(sd):
    path = next(path for path in text_sites(sd))
    site = text_sites(sd)[path]
    rows = {path: (torch.zeros(2, 1, site.in_dim), torch.zeros(2, site.out_dim, 1))}
    with (
        pytest.raises(Refusal, match="cannot differ from row to row"),
        edited(sd, Edit((LowRankEdit(rows, 1.0),), About("test"))),
    ):
        pass


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize("blend", [None, 0.25])
def test_a_batch_is_its_samples_in_any_order(make_bench, kind, blend):
    """Per-sample offsets equal weights merged for one sample at a time, which `oracle` checks above."""
    on = make_bench(kind)
    edit = random_edit(on, batch=3, blend=blend)
    prompts = [SOFT, f"{WORD} and a dog", f"a red {WORD}"]
    with edited(on, edit):
        together = on(*prompts)
    for row, prompt in enumerate(prompts):
        with edited(on, row_of(edit, row)):
            latents, _ = on.inputs(3)
            states, pooled = on.text([prompt] * 3)
            alone = on.denoise(states, pooled)[row]
        assert latents.shape[0] == 3
        assert close(together[row], alone)
    order = [2, 0, 1]
    shuffled = Edit(tuple(
        TokenEdit(p.placeholder, tuple(v[order] for v in p.vectors)) if isinstance(p, TokenEdit)
        else LowRankEdit({k: (d[order], u[order]) for k, (d, u) in p.factors.items()}, p.alpha)
        if isinstance(p, LowRankEdit) else p for p in edit.parts
    ), edit.about)  # fmt: skip
    with edited(on, shuffled):
        assert close(on.denoise(*on.text([prompts[i] for i in order]), order), together[order])
        with pytest.raises(Refusal, match="each of 3"):
            on(SOFT, SOFT)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize("place", PLACES)
def test_the_ends_of_the_blend(make_bench, kind, place):
    """Blend 1 is plain LoRA on the new word, blend 0 the base on the real one, by the short way and by both paths."""
    on = make_bench(kind)
    edit = random_edit(on, where=place)
    lora, base = oracle(on, edit)("a photo of hat on the beach"), on(HARD)
    with edited(on, edit, blend=1):
        assert close(on(SOFT), lora)
    with edited(on, edit, blend=0):
        assert torch.equal(on(SOFT), base)
    mounted = mount(on, Layout.of(edit))
    try:
        mounted.load(edit, blend=1)
        assert close(on(SOFT), lora)
        mounted.load(edit, blend=0)
        assert close(on(SOFT), base)
    finally:
        mounted.unmount()


@pytest.mark.parametrize(
    ("kind", "place"), [(kind, place) for kind in ("sd15", "sdxl") for place in PLACES] + [("sdxl as released", "unet")]
)
def test_the_dual_path_is_equation_3(make_bench, kind, place, monkeypatch):
    """Against a model whose blocks were rewritten by hand from a base copy and a merged copy."""
    on, share = make_bench(kind.partition(" ")[0]), 0.3
    if kind.endswith("released"):  # whose configurations say 2, and pooling is then at the largest id
        for encoder in on.text_encoders:
            text = getattr(encoder, "text_model", encoder)
            assert text.eos_token_id != 2
            monkeypatch.setattr(encoder.config, "eos_token_id", 2)
            monkeypatch.setattr(text, "eos_token_id", 2)
    edit = random_edit(on, where=place, blend=share)
    merged = oracle(on, edit)
    (soft, soft_pooled), (hard, hard_pooled) = merged.text(["a photo of hat on the beach"]), on.text([HARD])

    def blended(a, b):
        return tuple(map(blended, a, b)) if isinstance(a, tuple) else share * a + (1 - share) * b

    def whole(ours, base):
        run, other = ours.forward, base.forward

        def forward(*args, encoder_hidden_states, **kwargs):
            return blended(run(*args, encoder_hidden_states=soft, **kwargs),
                           other(*args, encoder_hidden_states=hard, **kwargs))  # fmt: skip

        ours.forward = forward

    def each_attention(ours, base):
        def forward(x, **_):
            n = ours.norm1(x)
            x = x + blended(ours.attn1(n), base.attn1(n))
            n = ours.norm2(x)
            x = x + blended(ours.attn2(n, encoder_hidden_states=soft), base.attn2(n, encoder_hidden_states=hard))
            return x + ours.ff(ours.norm3(x))

        ours.forward = forward

    changed = 0
    for path, module in list(merged.unet.named_modules()):
        base = on.unet.get_submodule(path)
        if place == "unet" and getattr(module, "has_cross_attention", False):
            whole(module, base)
        elif place != "unet" and type(module).__name__ == "BasicTransformerBlock":
            (each_attention if place == "attention" else whole)(module, base)
        else:
            continue
        changed += 1
    assert changed > 3
    pooled = None if soft_pooled is None else blended(soft_pooled, hard_pooled)
    wanted = merged.denoise(soft, pooled)
    with edited(on, edit):
        assert close(on(SOFT), wanted)
        assert not close(on(SOFT), on(HARD))


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_hard_prompts_are_read_once_while_a_word_is_trained(make_bench, kind):
    on, read = make_bench(kind), []
    edit = random_edit(on)
    token = edit.of(TokenEdit)[0]
    trained = TokenEdit(token.placeholder, tuple(v.clone().requires_grad_() for v in token.vectors))
    prompts = [SOFT, "a photo", f"a drawing of {WORD}"]
    with edited(on, Edit((trained, *edit.parts[1:]), edit.about)):
        with torch.no_grad():
            wanted = on.text(prompts)  # nothing is remembered, and nothing was
        table = on.text_encoders[-1].get_input_embeddings()
        hook = table.register_forward_hook(lambda module, args, output: read.append(len(output)))
        found = on.text(prompts)
        again = on.text([SOFT, SOFT])
        hook.remove()
        for a, b in zip(found, wanted, strict=True):
            assert (a is None and b is None) or close(a, b)
        assert close(again[0][0], found[0][0])
        assert close(again[0][1], found[0][0])
        assert again[0].requires_grad
    assert read == [3, 1, 1, 2]  # soft; two hard ones, alone; soft


def test_words_of_several_vectors_and_tokens(sd):
    """n vectors take n places, a hard word of several tokens takes as many: as if the prompt had been typed so."""
    edit = random_edit(sd, n=3, hard="red robot", blend=0.5)
    three = copy.deepcopy(sd.pipeline.text_encoder)
    for row, name in enumerate(("hat", "toy", "tree")):
        (token,) = sd.tokenizers[0](name, add_special_tokens=False).input_ids
        three.get_input_embeddings().weight[token] = edit.of(TokenEdit)[0].vectors[0][row]

    def states(encoder, text):
        ids = sd.tokenizers[0](text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        return encoder(ids.input_ids)[0]

    soft = states(three, "a hat toy tree on the beach")
    hard = states(sd.pipeline.text_encoder, "a red robot on the beach")
    with edited(sd, edit):
        got = sd.text([f"a {WORD} on the beach"])[0]
    assert close(got[..., :32], soft)
    assert close(got[..., 32:64], hard)
    assert (got[..., 64:] == 1).all()
    with edited(sd, edit), pytest.warns(UserWarning, match=r"cut off: .*beach"):
        sd.text([f"{WORD} " + "a " * 73 + "beach"])


def test_the_pipelines_own_call(make_bench):
    """Guidance and several pictures for a prompt, by the pipeline itself; at blend 0 it draws the real word."""
    for kind in ("sd15", "sdxl"):
        on = make_bench(kind, torch.float32)
        edit = random_edit(on)

        def draw(prompt, on=on):
            dice = [torch.Generator().manual_seed(seed) for seed in range(4)]
            return torch.from_numpy(on.pipeline(
                [prompt, "a dog"], num_images_per_prompt=2, guidance_scale=5.0, num_inference_steps=2, generator=dice,
                output_type="np", height=64, width=64, negative_prompt=["", "red"],
            ).images)  # fmt: skip

        base = draw(HARD)
        with edited(on, edit, rows="word"):
            ours = draw(SOFT)
        with edited(on, edit, blend=0):
            assert torch.equal(draw(SOFT), base)
        with edited(on, edit):
            assert not torch.equal(draw(SOFT)[2:], base[2:])  # offsets act on every row unless told otherwise
        assert torch.equal(ours[2:], base[2:])  # the dog
        assert not torch.equal(ours[0], base[0])
        assert not torch.equal(ours[1], base[1])


# Training


@pytest.mark.parametrize(
    ("kind", "place"), [("sd15", "attention"), ("sd15", "block"), ("sdxl", "attention"), ("sdxl", "unet")]
)
def test_two_forwards_before_one_backward(make_bench, kind, place):
    """With and without checkpointing the gradients agree, and agree with one forward at a time."""
    on = make_bench(kind)
    edit = random_edit(on, where=place, batch=2)
    leaves = [v.requires_grad_() for v in edit.of(TokenEdit)[0].vectors]
    leaves += [f.requires_grad_() for pair in edit.of(LowRankEdit)[0].factors.values() for f in pair]
    prompts = [[SOFT, f"a red {WORD}"], [f"{WORD} in a hat", "a dog"]]

    def gradients(apart):
        with edited(on, edit):
            loss = torch.zeros((), dtype=torch.float64)
            total = [torch.zeros_like(leaf) for leaf in leaves]
            for pair in prompts:
                one = on(*pair).square().mean()
                if apart:
                    total = [a + b for a, b in zip(total, torch.autograd.grad(one, leaves), strict=True)]
                loss = loss + one
            return total if apart else torch.autograd.grad(loss, leaves)

    wanted = gradients(apart=True)
    assert all(g.abs().max() > 0 for g in wanted)
    plainly = gradients(apart=False)
    on.unet.enable_gradient_checkpointing()
    on.unet.train()  # diffusers' blocks look at is_grad_enabled only; train as a caller would
    try:
        checked = gradients(apart=False)
        with edited(on, edit) as mounted:
            loss = on(*prompts[0]).square().mean()
            mounted.load(edit)
            with pytest.raises(Refusal, match="call backward"):
                loss.backward()
    finally:
        on.unet.disable_gradient_checkpointing()
        on.unet.eval()
    for a, b, c in zip(wanted, plainly, checked, strict=True):
        assert close(a, b)
        assert close(c, b)


def test_gradients_reach_whole_weights(sd):
    weight = nn.Parameter(sd.unet.conv_in.weight + 0.1)
    edit = Edit((WeightEdit({"unet.conv_in.weight": weight}),), About("test"))
    with edited(sd, edit):
        sd(HARD).square().mean().backward()
    assert weight.grad.abs().max() > 0
    assert sd.unet.conv_in.weight.grad is None
    moved = copy.deepcopy(sd.unet)
    moved.conv_in.weight += 0.5 * (weight.detach() - moved.conv_in.weight)
    wanted = Bench(copy.copy(sd.pipeline), "moved")
    wanted.unet = moved
    expected = wanted(HARD)
    with edited(sd, edit, scale=0.5), torch.no_grad():
        assert close(sd(HARD), expected)


# Slots


def test_loading_another_edit_into_a_mount(sd):
    first, second = random_edit(sd, rank=4), random_edit(sd, seed=1, rank=2, word="<other>", hard="dog", n=2)
    with edited(sd, second):
        wanted = sd(f"a {WORD} and <other>", "<other>")
    mounted = mount(sd, Layout.of(first))
    try:
        mounted.load(first)
        buffers = [slot.down.data_ptr() for slot in mounted._slots.values()]
        mounted.load(second)
        assert [slot.down.data_ptr() for slot in mounted._slots.values()] == buffers
        assert torch.equal(sd.text(["<other>"])[0][..., -1], torch.ones(1, 77, dtype=torch.float64))
        assert close(sd(f"a {WORD} and <other>", "<other>"), wanted)
        with pytest.raises(Refusal, match=r"does not fit .*rank"):
            mounted.load(random_edit(sd, rank=5))
    finally:
        mounted.unmount()


def test_stacking(sd):
    """Each concept acts on the rows of its own word; where both stand their offsets add."""
    one = random_edit(sd, seed=1, word="<one>", hard="cat")
    two = random_edit(sd, seed=2, word="<two>", hard="dog", rank=2)
    both = stack(one, two)
    assert both.placeholders == ("<one>", "<two>")
    with edited(sd, one, rows="word"):
        first = sd("a <one>", "", "")[0]
    with edited(sd, two, rows="word"):
        second = sd("", "a <two>", "")[1]
    base = sd("", "", "a <two>")
    with edited(sd, both, rows="word"):
        out = sd("a <one>", "a <two>", "")
        assert close(out[0], first)
        assert close(out[1], second)
        assert torch.equal(out[2], sd("", "", "")[2])
        mixed = sd("", "", "a <one> and <two>")[2]
    assert base.shape == out.shape
    lows = [e.of(LowRankEdit)[0] for e in (one, two)]
    summed = {
        path: (torch.cat([low.factors[path][0] for low in lows]),
               torch.cat([low.factors[path][1] * low.alpha / low.factors[path][0].shape[0] for low in lows], dim=1))
        for path in lows[0].factors
    }  # fmt: skip
    together = Edit((*one.of(TokenEdit), *two.of(TokenEdit), LowRankEdit(summed, 5.0),
                     SecondPath("cat", 0.25, words=("<one>",)), SecondPath("dog", 0.25, words=("<two>",))),
                    About("test"))  # fmt: skip
    with edited(sd, together, rows="word"):
        assert close(sd("", "", "a <one> and <two>")[2], mixed)
    with pytest.raises(Refusal, match="twice"):
        stack(one, one)
    with pytest.raises(Refusal, match="different blends"):
        stack(one, random_edit(sd, word="<three>", blend=0.5))
    whole = Edit((WeightEdit({"unet.conv_in.bias": torch.zeros(16)}),), About("test"))
    with pytest.raises(Refusal, match="merge them"):
        stack(whole, whole)


def test_an_edit_without_a_second_path_joins_by_its_class_word(sd):
    one, two = random_edit(sd, word="<one>", hard="cat"), random_edit(sd, word="<two>", hard="dog", blend=None)
    with edited(sd, one, two):
        got = sd.text(["a <two>"])[0]
    assert close(got[..., 32:64], sd.text(["a dog"])[0])


def test_offsets_without_a_word_serve_every_row(sd):
    low = random_edit(sd).of(LowRankEdit)[0]
    bare = Edit((low,), About("test"))
    wanted = oracle(sd, bare)("", "a dog")
    with edited(sd, bare) as mounted:
        assert mounted.layout.merged
        assert close(sd("", "a dog"), wanted)
    with edited(sd, bare, random_edit(sd, word="<one>", blend=None, seed=3), rows="word"):
        assert close(sd("", "a dog"), wanted)


# Refusals


def test_what_is_refused(sd, xl):
    edit = random_edit(sd)
    outside = sd.text([HARD])
    with edited(sd, edit):
        with pytest.raises(Refusal, match="inside it"):
            sd.denoise(*outside)
        with pytest.raises(Refusal, match="pass both edits"), edited(sd, edit):
            pass
    with pytest.raises(Refusal, match="another architecture"), edited(xl, edit):
        pass
    with pytest.raises(Refusal, match="blend"), edited(sd, edit, blend=1.5):
        pass
    with pytest.raises(Refusal, match="scale"), edited(sd, edit, scale=float("nan")):
        pass
    with pytest.raises(Refusal, match="neither"), edited(sd, Edit(edit.parts[:2], About("test")), blend=0.5):
        pass
    with pytest.raises(Refusal, match="rows"), edited(sd, edit, rows="some"):
        pass
    before = sd.unet.mid_block._compiled_call_impl
    sd.unet.mid_block.compile()
    try:
        with pytest.raises(Refusal, match="compiled"), edited(sd, edit):
            pass
    finally:
        sd.unet.mid_block._compiled_call_impl = before


def test_another_thread_waits(sd):
    edit, order = random_edit(sd), []

    def other():
        with edited(sd, edit):
            order.append("other")

    with edited(sd, edit):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(timeout=0.3)
        assert thread.is_alive()
        order.append("first")
    thread.join(timeout=20)
    assert order == ["first", "other"]


def test_half_precision_and_moving(make_bench):
    """A model in bf16 takes fp32 edits; one that changes its type inside the context comes out whole."""
    on = make_bench("sd21", torch.float32)
    edit = random_edit(on)
    on.unet.to(torch.bfloat16)
    on.text_encoders[0].to(torch.bfloat16)
    on.dtype = torch.bfloat16
    try:
        with edited(on, edit):
            assert on(SOFT).dtype == torch.bfloat16
            assert on(SOFT).isfinite().all()
        with edited(on, edit, blend=1, rows="all"):
            on.unet.to(torch.float32)
    finally:
        on.unet.to(torch.float32)
        on.text_encoders[0].to(torch.float32)
        on.dtype = torch.float32
    assert {p.dtype for p in on.unet.parameters()} == {torch.float32}
    assert on(HARD).isfinite().all()
