"""What is counted ahead, against what real runs on the picture book take."""

import math
import re
import subprocess
import sys
from contextlib import nullcontext

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from namesake import cli, recipes
from namesake.backbone import Backbone
from namesake.backbone.shapes import Hollow, true_shape
from namesake.methods.date import personalize, prepared
from namesake.train.examples import encoded
from namesake.train.fit import Batch
from namesake.train.plan import Counter, Imitated, counting, file_size, pretraining_step, tuning, weight
from namesake.train.pretrain import Kept, Plan, Stream, pretrain

CLOSE = 0.1  # relative; seen: 0.020 for the memory of tuning, 0.011 for all else.
SETTINGS = recipes.pretrain_recipes()["picturebook"].encoder
TUNING = recipes.tuning_of("picturebook")
ROWS = 4
aten = torch.ops.aten
# torch has no formulas for these: two products forward, five backward, where the first is computed again.
ON_CPU = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, *_, **__: 4 * k[2] * math.prod(q),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda _, q, k, *__, **___: 10 * k[2] * math.prod(q),
}


class Untold(nullcontext):
    """In the place of the counter's tracker, which stops at a module that gives parameters of its own, as bases are."""

    parents = frozenset({"Global"})


def peak(prof):
    """The most bytes that torch's CPU allocator had given out at a time beyond those at the start."""
    events = [event for event in prof.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def measured(function):
    """FLOPs and peak bytes of what really runs; one after the other, as the counter keeps tensors from being freed."""
    flops = FlopCounterMode(display=False, custom_mapping=ON_CPU)
    flops.mod_tracker = Untold()
    with flops:
        function()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        function()
    return flops.get_total_flops(), peak(prof)


def modules(backbone):
    return [part for part in backbone.pipeline.components.values() if isinstance(part, nn.Module)]


class Few(Kept):
    """Four pictures, and what is kept of them."""

    def __init__(self, pictures, *seen):
        self.pictures, self.seen = pictures, seen

    def pick(self, row):
        return 0, row % ROWS

    def read(self, rows):
        return self.pictures.numpy(), [row % ROWS for row in rows], 0

    def __getitem__(self, numbers):
        return [values[numbers] for values in self.seen]


@pytest.fixture(scope="module")
def book():
    """The picture book as its recipe trains on it, its encoder, pictures and what the frozen networks see in them."""
    backbone = Backbone.load(device="cpu")
    backbone.unet.to(memory_format=torch.channels_last)
    encoder = SETTINGS.network(backbone)
    chance = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (ROWS, 64, 64, 3), dtype=torch.uint8, generator=chance)
    latents = backbone.encode(pictures)
    return backbone, encoder, pictures, latents, encoder.features(pictures, latents)


@pytest.fixture(scope="module")
def hollow(book):
    backbone = Hollow.of(Backbone.load(device="cpu"))
    encoder = SETTINGS.network(backbone)
    one = (tensor[:1].to("meta") for tensor in book[2:4])
    encoder.features(*one)  # the empty prompt is read once, and was in `book`
    return backbone, encoder


@pytest.fixture
def unchecked(monkeypatch):
    """Signatures are not checked: it would take four times as long as the counting."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(("ahead", "checkpointing"), [(True, False), (False, True)])
def test_a_pretraining_step_takes_what_was_counted(ahead, checkpointing, book, hollow, unchecked, tmp_path):
    """With what the frozen networks see computed ahead, as the picture book's recipe has it, and in the step."""
    backbone, encoder, pictures, latents, features = book
    plan = Plan(2, batch=ROWS, warmup=1, checkpointing=checkpointing)
    prompt = f"a picture of {encoder.word}"
    passes = []
    hook = encoder.register_forward_hook(lambda *_: passes.append(0))
    runs, few = iter("ab"), Few(pictures, latents, *features)

    def run():
        stream = Stream(backbone, few, few if ahead else None)
        pretrain(backbone, encoder, stream, [prompt], plan, tmp_path / next(runs))

    flops, memory = measured(run)
    hook.remove()

    shown, first, *rest = (tensor.to("meta") for tensor in (pictures, latents, *features))

    def batch(imitated):
        if ahead:
            return Batch(first, [prompt] * ROWS, features=tuple(rest))
        with imitated.half():
            return Batch(encoded(hollow[0], shown), [prompt] * ROWS, pictures=shown)

    cost = pretraining_step(*hollow, batch, plan, "cpu")
    assert cost.flops == pytest.approx(2 * flops / len(passes), rel=CLOSE)  # of two runs
    assert cost.memory - weight(*modules(backbone), encoder) == pytest.approx(memory, rel=CLOSE)


def test_tuning_takes_what_was_counted(book, hollow, unchecked, tmp_path):
    backbone, encoder, pictures, _, _ = book
    made = {}

    def run():
        made["edit"] = personalize(
            backbone, encoder, pictures[:1], word="<my-it>", class_word="thing", steps=2, settings=TUNING
        )

    flops, memory = measured(run)
    concept = []

    def start():
        module, examples = prepared(hollow[0], hollow[1], pictures[:1].to("meta"), "<my-it>", "thing", TUNING)
        concept.append(module)
        return module, examples.batch(0, torch.Generator())

    cost = tuning(hollow[0], start, 2, "cpu", hollow[1])
    assert cost.flops == pytest.approx(flops, rel=CLOSE)
    assert cost.memory - weight(*modules(backbone), encoder) == pytest.approx(memory, rel=CLOSE)
    made["edit"].save(tmp_path / "concept.safetensors")
    assert file_size(concept[0]) == pytest.approx((tmp_path / "concept.safetensors").stat().st_size, rel=0.01)


# The parts


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_attention_is_counted_forward_and_backward(device):
    b, h, n, d = 2, 8, 256, 40
    q, k, v = (torch.empty(b, h, n, d, device="meta", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    product = 2 * b * h * n * n * d
    for masked in (False, True):
        with Imitated(device), Counter() as counter:
            mask = torch.ones(b, 1, n, n, device="meta", dtype=torch.bool) if masked else None
            output = F.scaled_dot_product_attention(q, k, v, mask)
            assert counter.flops == 2 * product
            output.sum().backward()
        # Fused kernels compute the first product again on the way back.
        assert counter.flops == (2 + 5) * product
    with Imitated("cuda"), Counter() as counter:
        output = F.scaled_dot_product_attention(q, k, v)
    assert counter.peak < b * h * n * n * 2  # no matrix is written
    with Imitated("cpu") as imitated, imitated.half(), Counter() as counter:
        output = F.scaled_dot_product_attention(q, k, v)
    assert counter.peak >= b * h * n * n * 2  # plain products


def test_flops_are_those_of_torch():
    def work():
        layers = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Flatten(2), nn.Linear(64, 32)).to("meta")
        layers(torch.empty(2, 4, 8, 8, device="meta")).sum().backward()

    with FlopCounterMode(display=False) as known:
        work()
    with Counter() as counter:
        work()
    assert counter.flops == known.get_total_flops() > 0


def test_memory_is_that_of_what_lives():
    layer = nn.Linear(256, 256, bias=False, device="meta")
    with Counter(layer) as counter:
        assert counter.now == 4 * 256 * 256
        x = torch.empty(1000, 256, device="meta", requires_grad=True)
        y = layer(x)
        z = y.view(500, 512)  # shares y's bytes
        assert counter.now == 4 * (256 * 256 + 2 * 1000 * 256)
        w = z.exp()  # kept for the way back, as are x and the weight
        total = w.sum()
        del y, z, w
        assert counter.now == 4 * (256 * 256 + 2 * 1000 * 256 + 1)
        total.backward()
        assert counter.now == 4 * (2 * 256 * 256 + 2 * 1000 * 256 + 1)  # gradients in the place of activations
        del x, total
        layer.weight.grad = None
    assert counter.now == 4 * 256 * 256
    assert counter.peak > 4 * (256 * 256 + 3 * 1000 * 256)


def test_the_imitated_autocast_gives_the_types_of_the_real_one(monkeypatch):
    monkeypatch.setattr("namesake.train.plan.bf16_pays", lambda kind: True)  # wherever it pays

    def types(device):
        single = {"device": device, "dtype": torch.float32}
        x, image = torch.ones(2, 8, 8, **single), torch.ones(2, 8, 4, 4, **single)
        conv, linear, norm, group = (
            module.to(device) for module in (nn.Conv2d(8, 8, 3), nn.Linear(8, 8), nn.LayerNorm(8), nn.GroupNorm(2, 8))
        )
        low = linear(x)
        made = [low, conv(image), norm(x), norm(low), group(image), group(conv(image)), x @ x.mT, torch.bmm(x, x)]
        made += [torch.matmul(x, low), F.softmax(low, -1), F.silu(low), F.gelu(x), low + x, torch.cat([low, x])]
        made += [F.interpolate(conv(image), scale_factor=2.0), F.mse_loss(low, x), low.sum(), low.float() @ x]
        return [one.dtype for one in made]

    with torch.autocast("cpu", torch.bfloat16):
        real = types("cpu")
    with Imitated("cpu") as imitated:
        assert types("meta") == [torch.float32] * len(real)
        with imitated.half():
            assert types("meta") == real


def test_the_unet_of_stable_diffusion_has_its_known_flops():
    backbone = true_shape("sd15")
    latents = torch.empty(1, 4, 64, 64, device="meta")
    with counting(backbone, "cuda") as (counter, _), torch.no_grad():
        states = backbone.text(["a cat"])
        before = counter.flops
        backbone.denoise(latents, torch.zeros(1, device="meta"), states)
    assert counter.flops - before == pytest.approx(0.8e12, rel=0.1)  # 401 billion multiplications and additions
    assert counter.peak == pytest.approx(weight(*modules(backbone)), rel=0.1)  # bf16 weights and little else


def test_the_command_prints_a_table(capsys):
    assert cli.main(["plan", "--recipe", "sd3"]) == 2
    assert "no recipe 'sd3'" in capsys.readouterr().err
    assert cli.main(["plan", "--batch", "0"]) == 2
    assert "batch is 0" in capsys.readouterr().err
    # In a process of its own: checking every signature would take five times as long as the counting.
    command = [sys.executable, "-m", "namesake.cli", "plan", "--recipe", "picturebook", "--batch", "16"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name.strip(): value.strip() for name, value in re.findall(r"\| (.+?) \| (.+?) \|", table)}
    assert found["attention projections"] == "56"
    assert found["encoder, trained parameters"] == "2.07 million"
    number = {name: float(value.split()[0]) for name, value in found.items() if re.match(r"[\d.]+ ", value)}
    for stage, less in (("a step", "checkpointing"), ("a look and 12 steps", "--low-memory")):
        assert number[f"{stage}, FLOPs"] < number[f"{stage}, FLOPs with {less}"]
        assert number[f"{stage}, memory"] > number[f"{stage}, memory with {less}"] > number["frozen weights"]
    whole = "the whole U-Net tuned, "
    # Offsets of rank 8 and 4 on every layer of a narrow U-Net; of Stable Diffusion it is a thousandth.
    assert number[whole + "trained parameters"] > 10 * number["concept, trained parameters"]
    assert number[whole + "memory with --low-memory"] > number["a look and 12 steps, memory with --low-memory"]
