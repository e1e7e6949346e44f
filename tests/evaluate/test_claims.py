"""The claims: what is compared with what, the statistics that decide, and the whole of it once, small."""

import importlib.util
import json
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from minis import Pool, image_encoder
from PIL import Image

from namesake.backbone import Backbone
from namesake.edits import Edit, LowRankEdit, SecondPath, TokenEdit, about
from namesake.errors import Refusal
from namesake.evaluate import claims, cold_start
from namesake.evaluate.claims import (
    BASE,
    TRUTH,
    Comparison,
    Ledger,
    Taught,
    apart,
    arms_of,
    attention_share,
    difference,
    gap,
    group_of,
    joined,
    note,
    pick,
    share,
    spread,
    verdict,
)
from namesake.evaluate.cold_start import FIGURES, WORD, by_concept, chosen, condensed, interval
from namesake.picturebook import dataset
from namesake.picturebook.judge import Judge, _network
from namesake.picturebook.scene import SMALL_WORLD
from namesake.train.pretrain import Plan
from namesake.train.tune import word_vectors

A, B, C, D = (Taught("encoder", 12), Taught("cold start", 12), Taught("encoder", 4), Taught("cold start", 4))


def rows(values, categories=None):
    """Results with a likeness for each picture of some arms: {arm: [concepts, pictures]}."""
    count = len(next(iter(values.values())))
    categories = categories or ["cat"] * count
    return [
        {
            "concept": place,
            "category": categories[place],
            "arms": {name: {"likeness": list(own[place]), "agrees": {}, "copied": {}} for name, own in values.items()},
            "seconds": {name: 2.0 for name in values if name not in (BASE, TRUTH)},
            "notes": {},
        }
        for place in range(count)
    ]


def compared(**options):
    return Comparison(1, "a above b", (A,), (B,), **{"measure": "likeness", "more": True, **options})


# What is claimed


def test_every_claim_has_comparisons_and_every_arm_is_measured_once():
    made = claims.claims(best=200)
    assert {one.claim for one in made} == {1, 2, 3, 4, 5, 6, 7}
    arms = arms_of(made)
    assert len(arms) == len(set(arms)) == len({arm.name for arm in arms})
    assert {arm.what for arm in arms} == {
        *("encoder", "cold start", "LoRA", "full", "no-hypernetwork", "nearest", "norm", "none", "four", "sixteen")
    }
    assert {(arm.steps, arm.blend) for arm in arms if arm.what == "encoder"} == {
        *((steps, blend) for steps in (0, 4, 8, 12, 25) for blend in (0.25, 1.0)),
        (12, 0.5),
    }
    assert [arm.name for arm in arms if arm.drawn is not None] == ["encoder, 12 steps, drawn at 0.25"]
    assert Taught("encoder", 12).told() == {"what": "encoder", "steps": 12, "blend": 1.0}
    assert {arm.steps for arm in arms if arm.what == "LoRA"} == {50, 100, 200, 300}  # no longer than is compared
    assert Taught("LoRA", 500) in arms_of(claims.claims(best=500))
    assert not any(arm.what == "LoRA" for arm in arms_of([one for one in made if one.claim != 7]))
    slow = [one for one in made if one.claim == 7 and one.b[-1].steps == 300]
    assert [(a.steps, b.steps) for a, b in zip(slow[0].a, slow[0].b, strict=True)] == [(4, 100), (8, 200), (12, 300)]
    assert Taught("LoRA", 200) in made[-1].b
    with pytest.raises(Refusal, match="pair them"):
        replace(compared(), b=(B, D))


def test_half_of_the_concepts_are_of_held_out_categories():
    made = pick(SMALL_WORLD, "reporting", 32)
    groups = [group_of(one.category) for one in made]
    assert [groups.count(group) for group in ("seen", "near", "far")] == [16, 8, 8]
    assert len({one.number for one in made}) == 32
    assert {one.category for one in made if group_of(one.category) == "near"} == {"dog", "boat", "castle", "boot"}


def test_a_smaller_world_holds_seen_categories_of_several_families():
    assert [group_of(name) for name in spread(SMALL_WORLD, 16).categories] == ["seen"] * 16
    four = spread(SMALL_WORLD, 4).categories
    assert len(set(four)) == 4
    assert len({chosen("tuning", replace(SMALL_WORLD, categories=(n,)), 1)[0].kind.family for n in four}) == 4
    assert spread(SMALL_WORLD, 0) == dataset.seen(SMALL_WORLD)


# The statistics


def test_the_interval_of_a_worked_case():
    """Four concepts of which one differs, by 4. Drawn four times, it comes k times with the binomial chances 32, 42, 21,
    4.7 and 0.4 %, and the mean is then k: so 2.5 % of the draws lie at 0 and 97.5 % up to 3."""
    results = rows({A.name: [[1.0, 1.0]] * 3 + [[4.0, 6.0]], B.name: [[1.0, 1.0]] * 4})
    assert difference(results, compared()) == (1.0, 0.0, 3.0)
    assert difference(results, compared(times=10))[0] == pytest.approx(19)  # (3 * 10 + 50) / 4 - 1


def test_a_claim_holds_only_in_the_direction_written_down():
    better = rows({A.name: [[0.6], [0.7], [0.8]], B.name: [[0.5], [0.5], [0.5]]})
    mixed = rows({A.name: [[0.6], [0.4], [0.5]], B.name: [[0.5], [0.5], [0.5]]})
    for results, more, expected in (
        (better, True, "holds"),
        (better, False, "the opposite"),
        (mixed, True, "open"),
        (mixed, False, "open"),
    ):
        assert verdict(*difference(results, compared())[1:], more) == expected
    assert verdict(0.0, 0.4, True) == "open"  # an interval that touches zero does not exclude it
    assert verdict(-0.4, -0.1, False) == "holds"
    assert verdict(float("nan"), float("nan"), True) == "not measured"


def test_pictures_of_one_concept_are_no_independent_witnesses():
    """Sixteen pictures of a concept that agree with each other weigh as one."""
    own = np.array([-0.2, -0.1, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3])[:, None]
    pictures = own + np.random.default_rng(0).normal(0, 0.01, (8, 16))
    results = rows({A.name: pictures, B.name: np.zeros((8, 16))})
    mean, low, high = difference(results, compared())
    alone = interval(pictures.ravel())
    assert mean == pytest.approx(alone[0])
    assert high - low > 3 * (alone[2] - alone[1])  # the root of 16 is 4
    assert (verdict(*alone[1:], True), verdict(low, high, True)) == ("holds", "open")


def test_pairing_takes_what_both_arms_share_out_of_the_interval():
    chance = np.random.default_rng(1)
    level = chance.normal(0, 1, (12, 1))
    results = rows({A.name: level + 0.1 + chance.normal(0, 0.02, (12, 4)), B.name: level})
    mean, low, high = difference(results, compared())
    assert high - low < 0.05
    assert 0 < low < mean < high


def test_a_curve_is_the_mean_of_its_paired_points():
    values = {
        A.name: np.array([1.0, 2.0, np.nan]),
        B.name: np.array([0.0, np.nan, np.nan]),
        C.name: np.array([5.0, 5.0, 1.0]),
        D.name: np.array([2.0, 4.0, np.nan]),
    }
    found = gap(values, (A, C), (B, D))
    assert found[:2].tolist() == [2.0, 1.0]  # (1 + 3) / 2; the pair that lacks a point leaves 5 - 4
    assert np.isnan(found[2])
    assert gap(values, (A, C), (D, B))[0] == 2.0  # the mean of the differences is that of the means
    assert gap(values, (A, C), (D, B))[1] == -2.0  # but a lacking point takes its partner with it
    assert gap(values, (A,), (D,), times=10).tolist()[:2] == [8.0, 16.0]


def test_groups_of_concepts_are_compared_by_their_gain_over_the_class_word():
    categories = ["cat", "bird", "dog", "boat", "apple"]
    results = rows({A.name: [[0.9], [0.9], [0.5], [0.5], [0.0]], BASE: [[0.1], [0.1], [0.4], [0.4], [0.0]]}, categories)
    one = Comparison(6, "seen above near", (A,), (A,), "likeness", True, "seen", "near")
    assert difference(results, one) == pytest.approx((0.7, 0.7, 0.7))
    assert difference(results, replace(one, other="far"))[0] == pytest.approx(0.8)
    assert difference(results, replace(one, a=(A,), b=(A,), among="held out", other="")) == (0.0, 0.0, 0.0)
    told = claims.claims_table({"given": results}, [one])
    assert told.splitlines()[-1] == "| 6 | seen above near | likeness, more | +0.700 (+0.700 to +0.700): holds |"
    told = claims.claims_table({"given": results[:2]}, [one])  # no concept is near
    assert told.endswith("| likeness, more | not measured |")
    mean, low, high = apart(np.array([1.0, 3.0]), np.array([0.0, 0.0]))
    assert (mean, low, high) == (2.0, 1.0, 3.0)
    assert np.isnan(apart(np.array([1.0]), np.array([]))[0])


def test_the_way_from_the_base_to_the_truth():
    values = {A.name: np.array([0.3, 0.5]), BASE: np.array([0.1, 0.3]), TRUTH: np.array([0.9, 0.7])}
    assert share(values, A.name)[0] == pytest.approx(0.2 / 0.6)  # of means: 0.4 / 1.2
    assert share(values, BASE) == (0.0, 0.0, 0.0)
    assert share(values, TRUTH) == (1.0, 1.0, 1.0)
    assert share(values, A.name)[1:] == pytest.approx((0.25, 0.5))  # all draws of the one concept, or of the other
    values[TRUTH] = np.array([0.9, 0.1])  # a truth that is not clearly above the base tells nothing
    assert np.isnan(share(values, A.name)[0])


def test_arms_are_joined_concept_by_concept():
    one, other = rows({A.name: [[0.1], [0.2]]}), rows({B.name: [[0.3], [0.4]]})
    one[0]["notes"] = {A.name: {"seconds": 5.0}}
    whole = joined([one, other])
    assert [list(row["arms"]) for row in whole] == [[A.name, B.name]] * 2
    assert whole[0]["seconds"] == {A.name: 5.0, B.name: 2.0}  # what the edit says of itself is believed
    whole[1]["timed"] = {A.name: 3.0, B.name: 4.0}
    np.testing.assert_equal(claims.figures(whole, "seconds"), {A.name: [np.nan, 3.0], B.name: [np.nan, 4.0]})
    assert claims.difference(whole, compared(measure="seconds", times=2.0))[0] == 2.0  # where arms were timed together
    with pytest.raises(Refusal, match="different concepts"):
        joined([one, other[::-1]])


# The words


@pytest.fixture(scope="module")
def backbone(sd15):
    backbone = Backbone.load(sd15, device="cpu")
    backbone.pipeline.register_modules(image_encoder=image_encoder(32, 50).eval().requires_grad_(False))
    backbone.unet.register_to_config(sample_size=8)  # 64 pixels, as the drawings have
    return backbone


def test_the_share_of_attention_is_that_of_the_words_tokens(backbone):
    """With keys of nothing every token gets as much; a word of two vectors gets two shares."""
    picture = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def edit(count, *parts):
        token = TokenEdit(WORD, (word_vectors(backbone, "cat")[0].expand(count, -1),))
        return Edit((token, *parts), about(backbone, "test", "cat"))

    silent = {
        site.path: (torch.eye(site.in_dim), -backbone.unet.get_submodule(site.path).weight.detach())
        for site in backbone.sites
        if site.role == "cross key"
    }
    rank = max(down.shape[0] for down, _ in silent.values())
    assert all(down.shape[0] == rank for down, _ in silent.values())
    low = LowRankEdit(silent, float(rank))
    assert attention_share(backbone, edit(1, low), picture) == pytest.approx(1 / 77, rel=1e-4)
    assert attention_share(backbone, edit(2, low, SecondPath("dog")), picture) == pytest.approx(2 / 77, rel=1e-4)
    plain = attention_share(backbone, edit(1), picture)
    assert 0 < plain < 1
    assert plain != pytest.approx(1 / 77, rel=1e-3)
    made = chosen("tuning", SMALL_WORLD, 1)[0]
    told = note(backbone, edit(1, SecondPath("cat")), picture, made)
    assert made.category == told["hard word"] == told["nearest"][0] == "cat"
    assert told["right"] is True
    assert note(backbone, Edit(edit(1).parts, about(backbone, "test", "dog")), picture, made)["right"] is False


# The whole


@pytest.fixture(scope="module")
def run():
    path = Path(__file__).parents[2] / "runs" / "date.py"
    spec = importlib.util.spec_from_file_location("runs_date", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_from_training_over_the_choice_to_the_page(run, backbone, tmp_path, monkeypatch):
    """On a model, a judge and encoders of random weights: two ablations are trained, LoRA's settings chosen, one concept
    measured, and the same command again only reads."""
    recipe = run.pretrain_recipes()["picturebook"]
    small = replace(recipe.encoder, width=32, blocks=0, layers=1, rank=1)
    small = replace(recipe, encoder=small, plan=Plan(9, batch=2, warmup=1, average=0.9))
    monkeypatch.setattr(run, "pretrain_recipes", lambda: {"picturebook": small})
    monkeypatch.setattr(dataset, "ProcessPoolExecutor", Pool)
    torch.manual_seed(0)
    judge = Judge(_network(SMALL_WORLD), SMALL_WORLD)
    monkeypatch.setattr(run.Judge, "load", lambda *_: judge)
    monkeypatch.setattr(run.Backbone, "load", lambda model, dtype: backbone)
    monkeypatch.setattr(cold_start, "GALLERY", 3)
    monkeypatch.setattr(run, "DRAWINGS", 4)
    monkeypatch.setattr(run, "RATES", (1e-3, 2e-3))
    monkeypatch.setattr(run, "LORA_STEPS", (2,))
    monkeypatch.setattr(claims, "LORA_STEPS", (2,))
    monkeypatch.setattr(claims, "STEPS", (0, 1))
    monkeypatch.setattr(claims, "PACE", 2)
    monkeypatch.setattr(claims, "TUNED", 1)
    (tmp_path / "world.json").write_text(
        json.dumps({"categories": ["cat", "house", "dog", "apple"], "places": SMALL_WORLD.places})
    )
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- bars -->\n<!-- /bars -->\nAfter.\n")

    def main(**options):
        usual = {
            "encoder": None,
            "claim": "4,7",
            "part": "0/1",
            "cost_only": False,
            "choice_only": False,
            "trained": "",
            "samples": 4,
            "keep": None,
        }
        fixed = {"out": tmp_path / "out", "model": str(tmp_path), "seeds": 1, "draw_steps": 1, "concepts": 1}
        run.main(**{**usual, **fixed, **options})

    with pytest.raises(Refusal, match="not chosen yet"):
        main()
    main(choice_only=True)
    choice = json.loads((tmp_path / "out" / "choice.json").read_text())
    assert choice["rate"] in (1e-3, 2e-3)
    assert choice["likeness"][f"rate {choice['rate']:g}, {choice['steps']} steps"] == max(choice["likeness"].values())
    with pytest.raises(Refusal, match="no encoder 'all'"):
        main(trained="all")
    main(trained="full,no-hypernetwork")
    with pytest.raises(Refusal, match="trained with another plan"):
        run.train("full", backbone, run.world_of(tmp_path), tmp_path / "out")
    path = run.train("full", backbone, run.world_of(tmp_path), tmp_path / "out", 4)  # there already
    told = run.date.read_note(path)
    assert told["trained"] == run.trained_as("full", run.world_of(tmp_path), 4)
    assert told["trained"]["plan"]["steps"] == 2
    assert told["trained"]["categories"] == ["cat", "house"]
    assert told["settings"]["rank"] == 1
    with pytest.raises(Refusal, match="No encoder was named"):
        main(claim="1")
    monkeypatch.setattr(
        run.tune, "looks", lambda backbone, pictures, thing, masks: thing
    )  # the mini has no word for an apple
    main(encoder=path, docs=page, sheet=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 7 * 64 > sheet.height > 64  # one concept: its picture, five arms, the truth
    text = page.read_text()
    assert "| claim | compared | expected | class word given | class word read |" in text
    assert "| 4 | the hypernetwork against none, 1 steps | norm, less |" in text
    assert "| 4 | the hypernetwork against none, the predictions | likeness, more |" in text
    assert "| LoRA, 2 steps |" in text
    assert "| no-hypernetwork |" in text
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    figures = tmp_path / "out" / "figures.jsonl"
    known = figures.read_text()
    sheets = {file.parent.name for file in (tmp_path / "out" / "reporting").rglob("*.png")}
    ablations = {f"{name}, {steps} steps" for name in ("full", "no-hypernetwork") for steps in (0, 1)}
    assert sheets == {"bounds", "encoder, 1 steps", *ablations, "LoRA, 2 steps"}
    # On a machine that has the figures and the encoder, and nothing else.
    page.write_text("<!-- bars -->\n<!-- /bars -->\n")
    kept, tested = tmp_path / "kept.jsonl", tmp_path / "tested.safetensors"
    kept.write_text(known)
    path.rename(tested)
    shutil.rmtree(tmp_path / "out")
    main(choice_only=True, keep=kept)
    chosen = (tmp_path / "out" / "choice.json").read_text()
    (tmp_path / "out" / "choice.json").write_text(chosen.replace(json.loads(chosen)["models"], "others"))
    with pytest.raises(Refusal, match="chosen with other models"):
        main(encoder=tested, keep=kept)
    (tmp_path / "out" / "choice.json").write_text(chosen)
    main(encoder=tested, docs=page, keep=kept)
    assert kept.read_text() == known
    assert not (tmp_path / "out" / "reporting").exists()
    assert page.read_text().strip().splitlines()[1:-1] == text.strip().splitlines()[2:-2]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {one["claim"] for one in summary["claims"]} == {4, 7}
    # What was measured to choose LoRA's settings serves a look at the claims on the same concept; an encoder that was
    # not trained is left out: the shipped one of the paper's form is of another make.
    main(encoder=tested, docs=page, keep=kept, claim="4,7", split="tuning")
    new = [json.loads(line) for line in kept.read_text().splitlines()[len(known.splitlines()) :]]
    counts = Counter(arm for line in new for one in line.values() for arm in one.get("arms", ()))
    assert counts["LoRA, 2 steps"] == 1  # the class word read; with the one given it was measured before
    assert counts["encoder, 1 steps"] == 2
    assert not any(arm.startswith(("full,", "no-hypernetwork")) for arm in counts)
    rows = [line for line in page.read_text().splitlines() if line.startswith("| 4 |")]
    assert len(rows) == 6
    assert all(row.endswith("| not measured | not measured |") for row in rows)
    # Where it is of the same make it serves as the full one.
    monkeypatch.setattr(run, "shipped_encoder", lambda recipe: tested)
    world = run.world_of(tmp_path)
    for samples, place in ((4, tested), (8, None)):
        bench = run.Bench(backbone, judge, world, tmp_path / "out", tested, 1, 1, {}, Ledger(kept), samples)
        assert bench.place("full") == place
        assert bench.place("norm") is None
    with pytest.raises(Refusal, match="'full' was not trained yet; do so with --train full"):
        bench.path("full")


def test_one_run_of_lora_serves_all_its_lengths(run, backbone, tmp_path):
    """Its edit after two of three steps is that of a run of two."""
    judge, ledger = Judge(_network(SMALL_WORLD), SMALL_WORLD), Ledger(tmp_path / "figures.jsonl")
    bench = run.Bench(backbone, judge, SMALL_WORLD, tmp_path, None, 1, 1, {"rate": 1e-2}, ledger, needed=(2, 3))
    picture = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    arm = bench.arm(Taught("LoRA", 2))
    edit = arm(backbone, picture, "cat")
    longer = bench.arm(Taught("LoRA", 3))(backbone, picture, "cat")
    alone = run.tune.personalize(backbone, run._lora(1e-2), picture, word=WORD, class_word="cat", steps=2)
    for path, (down, up) in alone.of(LowRankEdit)[0].factors.items():
        ours = edit.of(LowRankEdit)[0].factors[path]
        assert torch.equal(ours[0], down)
        assert torch.equal(ours[1], up)
        # The mini's middle has one place, and queries and keys of one token have no gradient.
        alike = torch.equal(longer.of(LowRankEdit)[0].factors[path][1], up)
        assert alike == (path.startswith("mid_block") and path.endswith(("attn1.to_q", "attn1.to_k")) and not up.any())
    assert 0 < edit.about.settings["seconds"] <= longer.about.settings["seconds"]
    assert arm(backbone, picture, "cat") is edit
    assert arm(backbone, picture, "dog").about.class_word == "dog"


def test_an_arm_may_be_drawn_at_another_blend(run, backbone, tmp_path):
    judge, ledger = Judge(_network(SMALL_WORLD), SMALL_WORLD), Ledger(tmp_path / "figures.jsonl")
    path = tmp_path / "it.safetensors"
    run.Date(base_word="thing", width=32, blocks=0, layers=1, rank=1).network(backbone).save(path)
    bench = run.Bench(backbone, judge, SMALL_WORLD, tmp_path, path, 1, 1, {}, ledger)
    picture = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for taught, blend in (
        (Taught("encoder", 0), None),
        (Taught("encoder", 0, 0.5), 0.5),
        (Taught("encoder", 0, 0.5, 0.25), 0.25),
    ):
        paths = bench.arm(taught)(backbone, picture, "cat").of(SecondPath)
        assert [(one.hard_word, one.blend) for one in paths] == ([] if blend is None else [("cat", blend)])


def test_what_ctrl_c_ended_is_not_measured(run, backbone, tmp_path, monkeypatch):
    judge, ledger = Judge(_network(SMALL_WORLD), SMALL_WORLD), Ledger(tmp_path / "figures.jsonl")
    monkeypatch.setattr(cold_start, "GALLERY", 2)
    bench = run.Bench(backbone, judge, SMALL_WORLD, tmp_path, None, 1, 1, {"rate": 1e-2}, ledger, needed=(3,))
    made, original = pick(SMALL_WORLD, "tuning", 4)[0], run.tune.personalize

    def stopped(*args, **options):
        """Ctrl-C after the first step."""
        told = {"progress": lambda done, total: done == 1 and signal.raise_signal(signal.SIGINT)}
        return original(*args, **options, **told)

    monkeypatch.setattr(run.tune, "personalize", stopped)
    for taught in (Taught("cold start", 3), Taught("LoRA", 3)):
        with pytest.raises(KeyboardInterrupt):
            bench.measured("tuning", made, taught.name, {taught.name: bench.arm(taught)}, taught.name)
    assert not ledger.path.exists()


def test_the_cost_counts_what_is_missing(run, backbone, tmp_path):
    ledger = Ledger(tmp_path / "figures.jsonl")
    judge = Judge(_network(SMALL_WORLD), SMALL_WORLD)
    bench = run.Bench(backbone, judge, SMALL_WORLD, tmp_path, None, 1, 1, {}, ledger)
    arms, concepts = arms_of([compared()]), pick(SMALL_WORLD, "tuning", 4)
    lacking = bench.lacking("tuning", concepts, arms)
    # Bounds of four concepts; two arms, where the word is given and where it is read.
    assert Counter(None if one is None else one.what for one in lacking) == {None: 4, "encoder": 8, "cold start": 8}
    ledger.get(bench.key("tuning", concepts[0], run.BOUNDS), dict)
    cold = next(one for one in arms if one.what == "cold start")
    ledger.get(bench.key("tuning", concepts[0], bench.made_with(cold, concepts[0].category, False)), dict)
    left = bench.lacking("tuning", concepts, arms)
    assert Counter(lacking) - Counter(left) == {None: 1, cold: 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cold_start, "GALLERY", 2)
        lora = [Taught("LoRA", steps) for steps in (50, 100) for _ in range(3)]
        told = run.cost(bench, [*left, *lora], concepts[0], "tuning", ["full", "none"])
    lines = told.splitlines()
    assert "2 encoders x 40,000 samples" in lines[0]
    assert (
        f"{12 * 15 + 3 * 100:,} steps" in lines[1]
    )  # 12 of each other arm; LoRA's shorter runs are in its longer ones
    assert "21 arms" in lines[2]
    assert "3 bounds" in lines[2]
    assert lines[3].split()[1] == "8"  # at least so many as an arm has concepts and ways
    hours = [float(line.split()[-2]) for line in lines]
    assert hours[-1] == pytest.approx(sum(hours[:-1]), abs=0.03)


def test_what_was_measured_is_told_from_the_ledger(tmp_path):
    path = tmp_path / "kept" / "figures.jsonl"
    ledger, found = Ledger(path), []

    def measured():
        found.append(1)
        return {"likeness": 0.1 + 0.2, "none": None}

    assert ledger.get("a", measured) == ledger.get("a", measured)
    other = Ledger(path)  # of another process
    other.get("b", measured)
    with path.open("a") as file:
        file.write('{"c": {"like')  # a kill
    again = Ledger(path)
    assert ("a" in again, "b" in again, "c" in again) == (True, True, False)
    again.get("c", measured)
    assert len(found) == 3
    assert Ledger(path).get("c", measured) == again.get("c", measured) == {"likeness": 0.1 + 0.2, "none": None}
    assert len(found) == 3
    with pytest.raises(ValueError, match="JSON"):
        again.get("d", lambda: {"likeness": float("nan")})


def test_condensed_figures_are_the_means_of_the_pictures():
    one = {"likeness": [0.25, 0.75], "rank": [1, 7], "agrees": {"category": [1, 1], "place": [0, None], "worn": [1, None]},
           "copied": {"place": [1, None], "pose": [None, None]}}  # fmt: skip
    whole = [
        {"concept": 3, "category": "cat", "seconds": {"x": 1.0}, "notes": {"x": {}}, "arms": {"x": one}, "seeds": 2}
    ]
    short = [condensed(result) for result in whole]
    json.dumps(short, allow_nan=False)
    for figure in FIGURES:
        mean, other = by_concept(whole, figure)["x"], by_concept(short, figure)["x"]
        assert np.array_equal(mean, other, equal_nan=True)
    assert np.isnan(by_concept(short, "pose copied")["x"]).all()
    assert by_concept(short, "prompt")["x"] == 0.5
