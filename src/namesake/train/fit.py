"""The one loop that trains whatever makes an edit, from no step to thousands.

An `EditModule` holds exactly the parameters that are trained and makes an edit of them. `fit` puts that edit on the
frozen model, asks the model to undo noise, and follows the gradient. It knows four things beyond the loss: a weight and
a mask for each sample, phases, `EditModule.after_step`, and a stopping rule. It knows no method.
"""

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from namesake.backbone import Backbone
from namesake.edits import Edit, Layout, LowRankEdit, Mount, Part, Site, TokenEdit, WeightEdit, mount
from namesake.edits.base import layer_at, number
from namesake.errors import Refusal
from namesake.machine import bf16_pays

GOLDEN = (math.sqrt(5) - 1) / 2
CLIP = 1.0  # the longest gradient of a step


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step looks at.

    latents: scaled, of clean pictures. prompts: one for each row. weight: of each row in the loss, by default alike.
    mask: where the loss counts, 0..1, by default everywhere. pictures: what an encoder sees of each row. origin: rows
    of one number are views of one picture; by default each row is a picture of its own. features: what the frozen
    networks of an encoder see in each row, where it has been kept. noisy: the noisy latents that are to be cleaned and
    their timesteps, for an encoder that looks at those. frames: what is said around the sentence of each row; by default
    what the module says (`EditModule.frames`).
    """

    latents: Float[Tensor, "B C h w"]
    prompts: list[str]
    weight: Float[Tensor, "B"] | None = None
    mask: Float[Tensor, "B 1 h w"] | None = None
    pictures: UInt8[Tensor, "B H W 3"] | None = None
    origin: Int[Tensor, "B"] | None = None
    features: tuple[Tensor, ...] | None = None
    noisy: tuple[Float[Tensor, "B C h w"], Int[Tensor, "B"]] | None = None
    frames: Sequence[str] = ()


class EditModule(nn.Module):
    """Makes an edit; its parameters are exactly what is trained."""

    def forward(self, batch: Batch) -> Edit:
        """The edit for a batch, with a graph to the parameters."""
        raise NotImplementedError

    def frames(self, batch: Batch) -> Sequence[str]:
        """What is said around the sentence of each row of a batch, such as "{} in the snow"; nothing where it is empty."""
        return ()

    def penalty(self, edit: Edit) -> Float[Tensor, ""]:
        """What is added to the loss."""
        return torch.zeros(())

    def figures(self, edit: Edit) -> Mapping[str, float]:
        """What to watch in an edit that this module made, while it trains."""
        return {}

    def after_step(self) -> None:
        """Called after every step, without gradients: pull norms, retract, average."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a run.

    rates: for the beginning of a parameter's name its first learning rate; all other parameters rest. share: of the
    run, relative to the other phases. timesteps: the range drawn from, as shares of the schedule; 0 is no noise, 1 all
    noise. fall: what the rates end at, as a share of the first; they fall along a cosine.
    """

    rates: Mapping[str, float]
    share: float = 1.0
    timesteps: tuple[float, float] = (0.0, 1.0)
    fall: float = 0.1


class Moment(NamedTuple):
    """Where a run stands after a step.

    done: steps. figures: "loss", "penalty", "norm" of the gradient before clipping. phase: the one under way, and whether it
    is the `last`. load: puts the edit as it is now on the model, which carries what it was before the step.
    """

    done: int
    figures: Mapping[str, float]
    phase: Phase
    last: bool
    load: Callable[[], object]


def idle_offsets(sites: Sequence[Site], rank: int, seed: int = 0, shrink: float | None = None) -> LowRankEdit:
    """Offsets of no effect, to tune from: `up` is zero; alpha equals the rank.

    `down` is normal with standard deviation 1 / shrink; by default that is 1 / sqrt(in), so that its products keep the
    size of what they read.
    """
    chance = torch.Generator().manual_seed(seed)
    factors = {
        site.path: (
            torch.randn(rank, site.in_dim, generator=chance) / (site.in_dim**0.5 if shrink is None else shrink),
            torch.zeros(site.out_dim, rank),
        )
        for site in sites
    }
    return LowRankEdit(factors, float(rank))


class TunedEdit(EditModule):
    """An edit whose words, low-rank offsets and whole weights are tuned, the first two held by L2 anchors to where they
    began.

    Parameters are `words`, `down`, `up`, `weights` of the U-Net and `text` ones of the text encoders; every other part
    stays as it is. The anchors are free of scale, so that they mean the same on every model:

        word_anchor   * mean over vectors  |v - v0|^2 / |v0|^2
        offset_anchor * mean over sites    |D - D0|^2 / |W|^2,   D = (alpha / r) up @ down

    Args:
        start: the edit to begin with.
        backbone: whose weights W the offsets belong to.
        word_anchor, offset_anchor: the strengths.
        rows: how many of each word's first vectors are tuned, 0 or more, of all words alike or word by word; by default
            all of them.
    """

    def __init__(
        self,
        start: Edit,
        backbone: Backbone,
        word_anchor: float = 0.0,
        offset_anchor: float = 0.0,
        rows: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.start, self.word_anchor, self.offset_anchor = start, word_anchor, offset_anchor

        def own(tensors: list[Tensor]) -> nn.ParameterList:
            return nn.ParameterList(nn.Parameter(t.detach().float().clone()) for t in tensors)

        lows = [(low, path) for low in start.of(LowRankEdit) for path in low.factors]
        tuned = start.of(TokenEdit) if rows != 0 else ()
        firsts = [rows] * len(tuned) if rows is None or isinstance(rows, int) else rows
        self.words = own([v[:first] for token, first in zip(tuned, firsts, strict=True) for v in token.vectors])
        self.down = own([low.factors[path][0] for low, path in lows])
        self.up = own([low.factors[path][1] for low, path in lows])
        wholes = [pair for whole in start.of(WeightEdit) for pair in whole.weights.items()]
        self.weights = own([weight for name, weight in wholes if not _of_text(name)])
        self.text = own([weight for name, weight in wholes if _of_text(name)])
        self.to(backbone.device)
        self._begin = [[p.detach().clone() for p in group] for group in (self.words, self.down, self.up)]
        anchored = lows if offset_anchor else []
        sizes = [
            layer_at(backbone, path).get_parameter("weight").detach().float().square().sum() for _, path in anchored
        ]
        self._factors = [
            (low.alpha / low.factors[path][0].shape[-2]) ** 2 / number(size)
            for (low, path), size in zip(anchored, sizes, strict=True)
        ]

    def forward(self, batch: Batch | None = None) -> Edit:
        words, down, up = iter(self.words), iter(self.down), iter(self.up)
        weights, text = iter(self.weights), iter(self.text)
        parts: list[Part] = []
        for part in self.start.parts:
            if isinstance(part, TokenEdit) and len(self.words):
                part = replace(part, vectors=tuple(_continued(next(words), v) for v in part.vectors))
            elif isinstance(part, LowRankEdit):
                part = replace(part, factors={path: (next(down), next(up)) for path in part.factors})
            elif isinstance(part, WeightEdit):
                part = replace(part, weights={name: next(text if _of_text(name) else weights) for name in part.weights})
            parts.append(part)
        return Edit(tuple(parts), self.start.about)

    def penalty(self, edit: Edit) -> Float[Tensor, ""]:
        words, down, up = self._begin
        total = torch.zeros((), device=next(self.parameters()).device)
        if self.word_anchor and len(self.words):
            strayed = [(v - v0).square().sum() / v0.square().sum() for v, v0 in zip(self.words, words, strict=True)]
            total = total + self.word_anchor * torch.stack(strayed).mean()
        if self.offset_anchor and len(self.down):
            strayed = []
            for a, b, a0, b0, factor in zip(self.down, self.up, down, up, self._factors, strict=True):
                # |ba - b0 a0|^2 = tr(P'P QQ') with P = [b, -b0], Q = [a; a0]: the product itself is never built.
                p, q = torch.cat([b, -b0], dim=1), torch.cat([a, a0])
                strayed.append(factor * ((p.T @ p) * (q @ q.T)).sum())
            total = total + self.offset_anchor * torch.stack(strayed).mean()
        return total


def _of_text(name: str) -> bool:
    """Whether a whole weight is a text encoder's."""
    return name.startswith("text_encoder")


def _continued(own: Float[Tensor, "_k E"], start: Float[Tensor, "_n E"]) -> Float[Tensor, "_n E"]:
    """The tuned vectors of a word, and after them those that stay."""
    rest = start[len(own) :]
    return torch.cat([own, rest.to(own)]) if len(rest) else own


def dice(seed: int, step: int) -> torch.Generator:
    """The generator of a step, on the CPU: a function of seed and step, so that a run can be taken up anywhere."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def stratified(seed: int, step: int, rows: int) -> Float[np.ndarray, "B"]:
    """Places in 0..1 for the rows of a step, which cover the range evenly in each batch and over the run.

    Row `b` stays in the `b`-th of `rows` equal ranges and walks through it in steps of the golden ratio from an offset
    of its own. After any number n of steps no gap within a range is wider than 2.7 / n of it (three-distance theorem),
    so a run may end anywhere.
    """
    offsets = np.random.default_rng([seed, 0x57A7]).uniform(size=rows)
    return (np.arange(rows) + (offsets + step * GOLDEN) % 1.0) / rows


def timesteps(places: Float[np.ndarray, "B"], bounds: tuple[float, float], count: int) -> Int[Tensor, "B"]:
    """The timesteps, 0..count - 1, at some places of a range."""
    low, high = bounds
    return torch.from_numpy(np.floor((low + places * (high - low)) * count)).long().clamp(0, count - 1)


def min_snr(snr: Float[Tensor, "B"], gamma: float, prediction: str) -> Float[Tensor, "B"]:
    """The factor on the loss of rows with some signal-to-noise ratios (Hang et al., "Efficient Diffusion Training via
    Min-SNR Weighting Strategy", 2023, section 3.4): min(snr, gamma) / snr where the noise is predicted, min(snr, gamma)
    / (snr + 1) where the velocity is. At an snr of 0 these are 1 and 0.

    Args:
        snr: 0 or more.
        gamma: above 0; the paper's is 5.
        prediction: "epsilon" or "v_prediction".
    """
    return gamma / snr.clamp(min=gamma) if prediction == "epsilon" else snr.clamp(max=gamma) / (snr + 1)


def loss_of(
    output: Float[Tensor, "B C h w"],
    target: Float[Tensor, "B C h w"],
    batch: Batch,
    factor: Float[Tensor, "B"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B"]]:
    """The squared error: of each row the mean over what its mask lets count, and their weighted mean.

    A row whose mask is empty has no error and no share in the mean. A `factor` (`min_snr` of each row's own timestep)
    multiplies the rows' errors and not the weights that the mean is taken with, or in a batch of one row it would cancel.
    So rows of a concept and rows of prior preservation, which differ by their weight, are treated alike.
    """
    error = (output.float() - target.float()).square().mean(dim=1, keepdim=True)
    mask = torch.ones_like(error) if batch.mask is None else batch.mask.to(error)
    weight = error.new_ones(len(error)) if batch.weight is None else batch.weight.to(error)
    area = mask.sum(dim=(1, 2, 3))
    rows = (error * mask).sum(dim=(1, 2, 3)) / area.clamp(min=torch.finfo(area.dtype).tiny)
    weight = weight * (area > 0)
    scaled = rows if factor is None else rows * factor.to(rows)
    return (scaled * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny), rows.detach()


def strip_steps(steps: int) -> list[int]:
    """After which steps a strip shows the edit: 0, 1, 2, 4, 8, ... and the last."""
    return sorted({0, steps, *(2**k for k in range(steps.bit_length()) if 2**k < steps)})


def fit(
    backbone: Backbone,
    module: EditModule,
    batches: Callable[[int, torch.Generator], Batch],
    phases: Sequence[Phase],
    *,
    steps: int,
    seed: int = 0,
    snr_gamma: float = 0.0,
    progress: Callable[[int, int], object] | None = None,
    strip: Callable[[int, Edit], object] | None = None,
    strip_at: Sequence[int] | None = None,
    stop: Callable[[Moment], bool] | None = None,
) -> Edit:
    """Train a module and return its edit: on the CPU, without a graph.

    Everything drawn at random is a function of (seed, step). Timesteps are stratified (`stratified`). AdamW without
    decay; gradients are clipped to a norm of 1. fp32 on the CPU, autocast on CUDA; with a float16 model the loss
    is scaled. Nothing else may be on the model meanwhile.

    Ctrl-C ends the run after the step that is under way, and the edit made so far is returned; a second Ctrl-C raises
    `KeyboardInterrupt` at once. Either way the model is left as it was.

    Args:
        backbone: the frozen model.
        module: what is trained; moved to the backbone's device.
        batches: (step, generator) -> batch; latents are encoded before, once.
        phases: in order; every parameter belongs to at least one.
        steps: 0 to any number; 0 gives the edit that the module begins with.
        snr_gamma: of `min_snr`; 0 leaves all timesteps alike.
        progress: called with (steps done, steps in all).
        strip: called with (steps done, edit) after 0, 1, 2, 4, 8, ... steps and at the end; the model is free then, so
            it may draw with the edit.
        strip_at: steps after which `strip` is called, in the place of these; at the end it is called in any case.
        stop: called after every step, while the model carries an edit; True ends the run.

    Returns:
        The edit. Its `about.settings` say how many `steps` were made, the mean `loss` over the last quarter of them,
        the `seed`, and where it ended early why (`ended`).

    Raises:
        Refusal: a negative number of steps; a loss or a gradient that is not finite, of a float16 model in all steps; a
            text encoder that is moved to the GPU for each call, where its backward pass would find it gone.
    """
    if steps < 0:
        raise Refusal(f"The number of steps is {steps}; 0 or more is wanted.")
    if steps and any(hasattr(encoder, "_hf_hook") for encoder in backbone.text_encoders):
        raise Refusal("Nothing can be tuned on a model that is offloaded; load it without, and ask for low memory.")
    module.to(backbone.device)
    optimizer, names = _optimizer(module, phases)
    ends = _ends(phases, steps)
    half = backbone.dtype if backbone.dtype in (torch.float16, torch.bfloat16) else torch.bfloat16
    casts = backbone.device.type == "cuda" and (backbone.dtype == half or bf16_pays("cuda"))
    # By default it begins at 65,536, and of a short run the steps that find a lower one would be a good part.
    scaler = torch.amp.GradScaler(backbone.device.type, init_scale=1024, enabled=backbone.dtype == torch.float16)
    due = [] if strip is None else strip_steps(steps) if strip_at is None else strip_at
    losses: list[float] = []
    skipped = 0  # steps whose gradients were too large for float16
    mounted: Mount | None = None
    phase, ended, done, fresh = -1, "", 0, True

    @torch.no_grad()
    def load() -> None:
        assert mounted is not None
        mounted.load(module(batch))

    try:
        with patient() as interrupted:
            for step in range(steps):
                if strip is not None and step in due:
                    if mounted is not None:
                        mounted.unmount()
                    strip(step, current(module, batches, seed))
                    fresh = True
                if step in (0, *ends[:-1]):
                    phase = next(number for number, end in enumerate(ends) if step < end)
                    _wake(module, phases[phase])
                    fresh = True
                for group, name in zip(optimizer.param_groups, names, strict=True):
                    begin = ends[phase - 1] if phase else 0
                    group["lr"] = _rate(phases[phase], name, (step - begin) / max(1, ends[phase] - begin))

                chance = dice(seed, step)
                batch = batches(step, chance)
                latents = batch.latents.to(backbone.device)
                places = stratified(seed, step, len(latents))
                t = timesteps(places, phases[phase].timesteps, backbone.train_timesteps).to(backbone.device)
                noise = torch.randn(latents.shape, generator=chance).to(latents)
                edit = module(batch)
                if mounted is None or fresh:
                    if mounted is not None:
                        mounted.unmount()
                    mounted, fresh = mount(backbone, Layout.of(edit)), False
                mounted.load(edit)
                with torch.autocast(backbone.device.type, half, enabled=casts):
                    output = backbone.denoise(backbone.add_noise(latents, noise, t), t, backbone.text(batch.prompts))
                factor = min_snr(backbone.snr(t), snr_gamma, backbone.prediction) if snr_gamma else None
                loss, _ = loss_of(output, backbone.target(latents, noise, t), batch, factor)
                penalty = module.penalty(edit).to(loss)
                scaler.scale(loss + penalty).backward()  # inside the mount: checkpointing recomputes
                scaler.unscale_(optimizer)
                norm = nn.utils.clip_grad_norm_(module.parameters(), CLIP)
                figures = {"loss": loss.item(), "penalty": penalty.item(), "norm": norm.item()}
                finite = math.isfinite(figures["norm"])
                skipped += not finite
                if not math.isfinite(figures["loss"] + figures["penalty"]) or not (finite or scaler.is_enabled()):
                    raise Refusal(
                        f"The loss is not finite at step {step + 1}; use a lower rate, or load the model in float32 "
                        "(NAMESAKE_DTYPE=float32)."
                    )
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                with torch.no_grad():
                    module.after_step()
                done = step + 1
                losses.append(figures["loss"])
                if progress is not None:
                    progress(done, steps)
                if stop is not None and stop(Moment(done, figures, phases[phase], phase == len(phases) - 1, load)):
                    ended = "by its rule"
                elif interrupted():
                    ended = "by the user"
                if ended:
                    break
    finally:
        if mounted is not None:
            mounted.unmount()
        module.requires_grad_(True)
    if skipped and skipped == done:
        raise Refusal(
            f"The gradients of all {done} steps were too large for float16; load the model in float32 "
            "(NAMESAKE_DTYPE=float32)."
        )
    edit = current(module, batches, seed)
    made: dict[str, Any] = {"steps": done, "seed": seed} | ({"skipped": skipped} if skipped else {})
    if losses:
        made["loss"] = round(float(np.mean(losses[-max(1, len(losses) // 4) :])), 5)
    if ended and done < steps:
        made |= {"ended": ended, "planned steps": steps}
    edit = replace(edit, about=replace(edit.about, settings={**edit.about.settings, **made}))
    if strip is not None:  # the last of the strip: where the run ended
        strip(done, edit)
    return edit


@torch.no_grad()
def current(module: EditModule, batches: Callable[[int, torch.Generator], Batch], seed: int = 0) -> Edit:
    """The edit that a module makes now, on the CPU and without a graph."""
    return module(batches(0, dice(seed, 0))).mapped(lambda tensor: tensor.detach().cpu().clone())


def _belongs(parameter: str, group: str) -> bool:
    return parameter == group or parameter.startswith(f"{group}.")


def _optimizer(module: EditModule, phases: Sequence[Phase]) -> tuple[torch.optim.AdamW, list[str]]:
    """One group for each beginning of a name that a phase speaks of."""
    names = list(dict.fromkeys(name for phase in phases for name in phase.rates))
    groups: list[dict[str, Any]] = [{"params": []} for _ in names]
    for parameter, value in module.named_parameters():
        owners = [place for place, name in enumerate(names) if _belongs(parameter, name)]
        if len(owners) != 1:
            raise ValueError(f"{len(owners)} groups of the phases hold the parameter {parameter}; one is wanted")
        groups[owners[0]]["params"].append(value)
    if empty := [name for name, group in zip(names, groups, strict=True) if not group["params"]]:
        raise ValueError(f"no parameter begins with {empty[0]}")
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0), names


def _ends(phases: Sequence[Phase], steps: int) -> list[int]:
    """The step at which each phase ends."""
    shares = np.cumsum([phase.share for phase in phases])
    return [round(steps * float(share / shares[-1])) for share in shares]


def _wake(module: EditModule, phase: Phase) -> None:
    """Only the parameters of the phase want gradients."""
    for name, value in module.named_parameters():
        value.requires_grad_(any(_belongs(name, group) for group in phase.rates))


def _rate(phase: Phase, name: str, progress: float) -> float:
    along = (1 + math.cos(math.pi * progress)) / 2
    return phase.rates.get(name, 0.0) * (phase.fall + (1 - phase.fall) * along)


@contextmanager
def frugal(backbone: Backbone, on: bool = True) -> Iterator[None]:
    """Less memory for more time, where it is on (`namesake plan` counts both): the U-Net computes its activations a second
    time in the backward pass instead of keeping them, and what has no work is not on the GPU (`Backbone.frugally`)."""
    unet = backbone.unet
    twice = on and not unet.is_gradient_checkpointing
    if twice:
        unet.enable_gradient_checkpointing()
    try:
        with backbone.frugally() if on else nullcontext():
            yield
    finally:
        if twice:
            unet.disable_gradient_checkpointing()


def finished(edit: Edit) -> Edit:
    """An edit that more is to be made of at once: pictures, or figures. `fit` keeps what it has when Ctrl-C ends it; here
    the Ctrl-C is raised, or what is half tuned would be taken for the whole.
    """
    if edit.about.settings.get("ended") == "by the user":
        raise KeyboardInterrupt
    return edit


@contextmanager
def patient() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is remembered instead of raised, so that no step is left half done; the second one is raised.

    Only the main thread can receive it; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
