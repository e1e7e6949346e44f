"""Pre-training: the loop that makes an encoder from a stream of pictures, on one processor or on many.

accelerate spreads it (`accelerate launch`, `torchrun`); only the encoder is wrapped, trained and saved. Everything
drawn at random is a function of seed, step and row, and the rate is a function of the step, so that a run that was
killed goes on to the same bytes, and several processes walk the path of one. A step's batch is that of all processes.

Accumulation makes a step of several parts. The parts do not see each other, so it does not enlarge the batch of a
contrastive loss: its negatives are the other pictures of a part, over all processes.
"""

import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from namesake.backbone import Backbone
from namesake.backbone.features import Features
from namesake.edits import Edit, Layout, Mount, mount
from namesake.errors import Refusal
from namesake.files import cut_lines, write, write_state
from namesake.machine import deaf, half, peak_memory, plain_attention
from namesake.train.examples import encoded
from namesake.train.fit import Batch, EditModule, dice, loss_of, patient, stratified, timesteps

ELSEWHERE = 0.15  # what the rest of a picture counts where the thing's place is known: enough for it to stay as it is
AHEAD = 2  # parts that a worker has read before they are asked for
CHUNK = 100  # pictures that the frozen networks look at together when features are kept


@dataclass(frozen=True)
class Plan:
    """The settings of a run.

    The paper has the steps, the rate of 1e-4 and the form of its course. Ours: batch (an image encoder alone has 64 in IP-Adapter's
    training; the contrastive loss wants many words to tell apart), length of the warm-up and clip (the hypernetwork's last layer
    starts at zero, so the first gradients are not those to come), average (ProFusion's) and decay (torch's).

    steps: of the optimizer. batch: rows of a step, over all processes and parts. accumulation: parts of a step.
    rate: AdamW's, reached after `warmup` steps and then falling to 0 along a cosine. decay: AdamW's. clip: largest norm
    of the gradient. average: of the exponential moving average, which is what is kept in the end. checkpointing: the
    U-Net's activations are computed twice and not kept. save_every, preview_every, log_every: in steps.
    """

    steps: int
    batch: int = 64
    accumulation: int = 1
    rate: float = 1e-4
    warmup: int = 1000
    decay: float = 1e-2
    clip: float = 1.0
    average: float = 0.9999
    checkpointing: bool = False
    seed: int = 0
    save_every: int = 500
    preview_every: int = 5000
    log_every: int = 25

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, 100_000_000),
            ("batch", 1, 1_000_000),
            ("accumulation", 1, 10_000),
            ("rate", 0, 1),
            ("warmup", 0, 100_000_000),
            ("decay", 0, 1),
            ("clip", 1e-9, 1e9),
            ("average", 0, 1),
            ("seed", 0, 2**32 - 1),
            ("save_every", 1, 100_000_000),
            ("preview_every", 1, 100_000_000),
            ("log_every", 1, 100_000_000),
        ):
            if not low <= getattr(self, name) <= high:
                raise Refusal(
                    f"The {name} of the run is {getattr(self, name)}; a number from {low} to {high} is wanted."
                )

    def share(self, processes: int) -> int:
        """Rows that one process looks at together."""
        rows, rest = divmod(self.batch, processes * self.accumulation)
        if rest:
            raise Refusal(
                f"A batch of {self.batch} cannot be shared by {processes} processes in {self.accumulation} parts; "
                f"choose a multiple of {processes * self.accumulation}."
            )
        return rows

    def rate_at(self, step: int) -> float:
        """The rate at a step, 0 the first: linear warm-up, then a cosine to 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        along = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (1 + math.cos(math.pi * min(1.0, along))) / 2


def gathered(rows: Tensor) -> Tensor:
    """The rows `[B, ...]` of all processes, one process after the other; gradients go back to where each row is.

    accelerate's own `gather` cuts the graph.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(rows.contiguous())))


# The pictures


@runtime_checkable
class Pictures(Protocol):
    """Where pictures come from, row by row of a run: `namesake.data.sources.Mixture` and what behaves like it."""

    def pick(self, row: int) -> tuple[int, int]:
        """The source of a row and the picture's number in it; a function of the row alone."""
        ...

    def read(self, rows: Sequence[int]) -> tuple[UInt8[np.ndarray, "B S S 3"], list[int], int]:
        """The pictures of some rows, a number for each that no other picture has, and how many rows show another one
        than theirs, since that is broken."""
        ...


class Kept:
    """What the frozen networks see in a fixed set of pictures: computed once, kept on disk in fp16, read as needed.

    When reference and target are one picture and the features are those of a fixed timestep, a step then costs the
    U-Net's and the encoder's passes alone.
    """

    name = "kept features"

    def __init__(self, files: Sequence[Path], shapes: Sequence[tuple[int, ...]]) -> None:
        self._shards = [np.load(file, mmap_mode="r") for file in files]
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        self._shapes, self._cuts = shapes, np.cumsum([math.prod(shape) for shape in shapes])[:-1]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, numbers: Sequence[int]) -> list[Float[Tensor, "B ..."]]:
        """Latents and the features of some pictures, fp32."""
        shards = np.searchsorted(self._ends, numbers, side="right")
        starts = np.concatenate([[0], self._ends])[shards]
        rows = [self._shards[k][n - s] for k, n, s in zip(shards, numbers, starts, strict=True)]
        parts = np.split(np.stack(rows).astype(np.float32), self._cuts, axis=1)
        return [torch.from_numpy(p).unflatten(1, shape) for p, shape in zip(parts, self._shapes, strict=True)]


def keep(
    files: Sequence[Path], backbone: Backbone, features: Features | None, accelerator: Any, title: str = "features"
) -> Kept:
    """Compute and keep what the frozen networks see in the pictures of some files (`.npy`, uint8 `[N, S, S, 3]`); the
    latents alone without `features`.

    The values lie beside each file, under a name that tells the frozen networks apart; what is there is not computed
    again. Processes share the work.
    """
    from rich.progress import track

    mark = _mark(backbone, features)
    kept = [file.with_name(f"{file.stem}.{mark}.npy") for file in files]
    # Shared by place and not by what is lacking, which changes while other processes work.
    own = list(zip(files, kept, strict=True))[accelerator.process_index :: accelerator.num_processes]
    mine = [pair for pair in own if not pair[1].exists()]
    quiet = not accelerator.is_main_process or not sys.stderr.isatty()
    for file, place in track(mine, title, disable=quiet):
        parts = []
        for chunk in torch.from_numpy(np.load(file)).split(CHUNK):
            with half(backbone.device.type):
                seen = _seen(backbone, features, chunk)
            parts.append(torch.cat([map.flatten(1) for map in seen], dim=1).cpu())
        data = io.BytesIO()
        np.save(data, torch.cat(parts).half().numpy())
        write(data.getvalue(), place, "features")
    accelerator.wait_for_everyone()
    with half(backbone.device.type):
        one = torch.from_numpy(np.load(files[0], mmap_mode="r")[:1].copy())
        shapes = [tuple(map.shape[1:]) for map in _seen(backbone, features, one)]
    return Kept(kept, shapes)


def _seen(backbone: Backbone, features: Features | None, pictures: UInt8[Tensor, "B H W 3"]) -> list[Tensor]:
    latents = backbone.encode(pictures)
    return [latents, *(features(pictures, latents) if features is not None else ())]


def _mark(backbone: Backbone, features: Features | None) -> str:
    """A short name of the frozen networks that features come from."""
    found, modules = sha256(), [backbone.vae]
    if features is not None:
        found.update(f"{features.timestep} {features.image_encoder} {features.names} {features.ends}".encode())
        modules = [backbone.unet, backbone.vae, *backbone.text_encoders, features.eye]
    for module in modules:
        for parameter in module.parameters():
            found.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


class Stream:
    """Batches without prompts, one for each part of a step.

    Args:
        backbone: encodes the pictures where nothing is kept.
        pictures: see `Pictures`.
        kept: of the pictures of one source, in the place of reading them.
        targets: latents of what each kept picture's word is to draw, by default the picture itself; frames: what is then
            said of it, see `Batch`; masks: where the thing is in it, 0..1. The rest then counts `ELSEWHERE` as much: most of
            a picture, and most of its error, is not the thing, and nothing about it can be learned from another picture.
        workers: processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self,
        backbone: Backbone,
        pictures: Pictures,
        kept: Kept | None = None,
        workers: int = 0,
        targets: Kept | None = None,
        frames: Sequence[str] = (),
        masks: Float[Tensor, "N 1 h w"] | None = None,
    ) -> None:
        self.backbone, self.pictures, self.kept, self.workers = backbone, pictures, kept, workers
        self.targets, self.frames, self.masks = targets, frames, masks
        self.skipped = 0

    def __call__(self, parts: Sequence[range]) -> Iterator[Batch]:
        """The batches of some parts, each given as its rows; `skipped` is how many of them show another picture than
        theirs so far, since that is broken."""
        self.skipped = 0
        if self.kept is not None:
            for rows in parts:
                numbers = [self.pictures.pick(row)[1] for row in rows]
                latents, *features = self.kept[numbers]
                if self.targets is not None:
                    latents = self.targets[numbers][0]
                said = [self.frames[number] for number in numbers] if self.frames else []
                mask = None if self.masks is None else ELSEWHERE + (1 - ELSEWHERE) * self.masks[numbers].float()
                yield Batch(latents, [], mask=mask, origin=torch.tensor(numbers), features=tuple(features), frames=said)
            return
        _check_shared(self.workers, self.workers * AHEAD * len(parts[0]) * 3 * self.backbone.size**2)
        loader = torch.utils.data.DataLoader(
            _Parts(self.pictures, parts),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=AHEAD if self.workers else None,
            worker_init_fn=deaf,
            pin_memory=self.backbone.device.type == "cuda",
        )
        for read in loader:
            if isinstance(read, str):
                raise Refusal(read)
            pixels, origin, skipped = read
            self.skipped += skipped
            with half(self.backbone.device.type):
                latents = encoded(self.backbone, pixels)
            yield Batch(latents, [], pictures=pixels, origin=origin)


def _check_shared(workers: int, bytes: int) -> None:
    """Refuse where the pictures that are read ahead do not fit into shared memory: a worker would die of it without a word
    (SIGBUS), and a container of Docker has 64 MB by default."""
    shared = Path("/dev/shm")
    if not bytes or not shared.is_dir():
        return
    wanted = bytes * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun and accelerate say
    free = shutil.disk_usage(shared).free
    if free < wanted:
        raise Refusal(
            f"Pictures that {workers} processes read ahead need {wanted / 1e6:,.0f} MB of shared memory, and {shared} has "
            f"{free / 1e6:,.0f}; give the container more (--shm-size), or read with fewer (--workers)."
        )


class _Parts(torch.utils.data.Dataset):
    """The pictures of parts, by the part's number, for a loader's workers."""

    def __init__(self, pictures: Pictures, parts: Sequence[range]) -> None:
        self.pictures, self.parts = pictures, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, int] | str:
        try:
            pixels, origin, skipped = self.pictures.read(self.parts[number])
        except Refusal as refusal:  # as a value, since out of a worker it would come with that one's traceback
            return str(refusal)
        return torch.from_numpy(pixels), torch.tensor(origin), skipped


class _Shares(Sequence[range]):
    """The rows of one process, part by part, from a step on to the end."""

    def __init__(self, plan: Plan, first: int, process: int, processes: int) -> None:
        self.share = plan.share(processes)
        self.start = first * plan.batch + process * self.share
        self.stride = processes * self.share
        self.total = (plan.steps - first) * plan.accumulation

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, part: Any) -> Any:
        if not 0 <= part < self.total:
            raise IndexError
        start = self.start + part * self.stride
        return range(start, start + self.share)


# The loop


def launched(tracker: str | None = None, folder: Path | None = None, cpu: bool = False) -> Any:
    """The accelerator of this process; `tracker` is one that accelerate knows (tensorboard, wandb, trackio, ...); `cpu` leaves
    a GPU that is there alone."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    here = torch.cuda.is_available() or torch.backends.mps.is_available()
    try:
        accelerator = Accelerator(
            cpu=cpu or not here,
            dynamo_backend="no",  # nor that: compiled gradients were wrong in silence (LOG.md)
            mixed_precision="no",  # `half` says where; what an accelerate config says would reach the encoder too
            log_with=tracker,
            project_dir=folder,
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timedelta(days=1)),  # one may draw ahead, or train a judge, meanwhile
            ],
        )
        if tracker and not accelerator.log_with:
            raise ImportError("its package is not here")  # accelerate only warns
    except (ValueError, ImportError) as error:
        if tracker:
            raise Refusal(f"The tracker '{tracker}' cannot be used ({error}); install it, or name another.") from None
        raise Refusal(f"accelerate cannot start ({error}); see its configuration (accelerate env).") from None
    if (kind := str(accelerator.distributed_type.value)) in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise Refusal(
            f"accelerate is configured for {kind}, which splits models; an encoder is small: use plain processes."
        )
    return accelerator


def pretrain(
    backbone: Backbone,
    module: EditModule,
    stream: Stream,
    prompts: Sequence[str],
    plan: Plan,
    folder: Path,
    *,
    accelerator: Any = None,
    resume: bool = False,
    preview: Callable[[int, EditModule], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
    say: Callable[[str], object] | None = None,
    told: Mapping[str, Any] | None = None,
) -> int:
    """Train an encoder; it holds the averaged weights when this returns.

    Ctrl-C ends the run after the step that is under way, with a checkpoint; `resume` goes on from the last one, to the
    bytes of a run that nothing stopped, or at another rate, as one that diverged must. Into `folder` go
    `checkpoint-<step>.pt` (written beside and renamed; only then the one before it goes), `curve.jsonl`, and what
    `preview` writes.

    Args:
        backbone: the frozen model.
        module: what is trained.
        stream: its pictures.
        prompts: sentences that hold the word of the module's edits.
        plan: see `Plan`.
        folder: of the run.
        accelerator: see `launched`; who made it ends it (`end_training`).
        resume: from the last checkpoint in the folder, or from the beginning where there is none.
        preview: called by the main process with (step, module with the averaged weights); it may draw.
        progress: called by the main process with (steps done, steps in all).
        say: called by the main process with sentences for people.
        told: what a checkpoint must be of, beside the plan (values that JSON can hold).

    Returns:
        The number of steps that were made in all.

    Raises:
        Refusal: a folder with a run in it that is not to be resumed, or of other settings; a batch that cannot be
            shared; a loss that is not finite.
    """
    from diffusers.training_utils import EMAModel

    accelerator = accelerator or launched()
    main, processes, process = accelerator.is_main_process, accelerator.num_processes, accelerator.process_index
    aloud = say if say is not None and main else lambda sentence: None
    progress = progress if progress is not None and main else lambda done, total: None
    settings = {**asdict(plan), **(told or {})}
    share = plan.share(processes)
    folder.mkdir(parents=True, exist_ok=True)
    module.to(backbone.device).requires_grad_(True)
    parameters = list(module.parameters())
    average = EMAModel(parameters, decay=plan.average, foreach=True)
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=plan.decay)
    step, before, sums = _restored(folder, resume, settings, module, optimizer, average)
    if plan.checkpointing:
        backbone.unet.enable_gradient_checkpointing()
    wrapped = accelerator.prepare_model(module)
    curve = _Curve(folder / "curve.jsonl", step, sums, accelerator, settings) if main else None
    parts = iter(stream(_Shares(plan, step, process, processes)))
    mounted: Mount | None = None

    def passed(batch: Batch, step: int, part: int, last: bool) -> tuple[Edit, Tensor, Tensor]:
        """Forward and backward of one part."""
        nonlocal mounted
        chance = dice(plan.seed, step)
        start = part * share * processes + process * share
        rows = slice(start, start + share)
        sentences = torch.randint(len(prompts), (plan.batch,), generator=chance)[rows]
        latents = batch.latents.to(backbone.device)
        noise = torch.randn((plan.batch, *latents.shape[1:]), generator=chance)[rows].to(latents)
        places = stratified(plan.seed, step, plan.batch)[rows]
        t = timesteps(places, (0.0, 1.0), backbone.train_timesteps).to(backbone.device)
        noisy = backbone.add_noise(latents, noise, t)
        said = [prompts[number] for number in sentences.tolist()]
        if frames := batch.frames or module.frames(batch):
            said = [frame.format(sentence) for frame, sentence in zip(frames, said, strict=True)]
        batch = replace(batch, prompts=said, noisy=(noisy, t))
        with nullcontext() if last else accelerator.no_sync(wrapped):
            edit = wrapped(batch)
            if mounted is None:
                mounted = mount(backbone, Layout.of(edit))
            mounted.load(edit)
            with half(backbone.device.type):
                output = backbone.denoise(noisy, t, backbone.text(batch.prompts))
            loss, _ = loss_of(output, backbone.target(latents, noise, t), batch)
            penalty = module.penalty(edit).to(loss)
            with plain_attention(backbone.device.type):
                ((loss + penalty) / plan.accumulation).backward()  # inside the mount: checkpointing recomputes
        return edit, loss.detach(), penalty.detach()

    def shown(at: int) -> None:
        nonlocal mounted
        if preview is None or not main:
            return
        if mounted is not None:
            mounted.unmount()
            mounted = None
        average.store(parameters)
        average.copy_to(parameters)
        with torch.no_grad():
            preview(at, module)
        average.restore(parameters)

    def save() -> None:
        if curve is not None:
            states = {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.state_dict(),
            }
            note = {"step": step, "skipped": skipped, "settings": json.dumps(settings, sort_keys=True)}
            _save(folder, {**note, "curve": curve.sums.tolist(), **states})

    def once() -> None:
        """What a part takes beside the reading of its pictures, which goes on meanwhile."""
        if first.pictures is not None:
            with half(backbone.device.type):
                encoded(backbone, first.pictures)
        passed(first, step, 0, True)

    skipped, ended = before, False
    try:
        with patient() as interrupted:
            progress(step, plan.steps)
            if step == 0:
                shown(0)
            if step < plan.steps and say is not None:  # in every process, since a part is theirs together
                first = next(stream([_Shares(plan, step, process, processes)[0]]))
                _estimate(backbone, module, plan, plan.steps - step, once, aloud)
                optimizer.zero_grad(set_to_none=True)
            if curve is not None:
                curve.since = time.perf_counter()
            while step < plan.steps and not ended:
                for group in optimizer.param_groups:
                    group["lr"] = plan.rate_at(step)
                figures = torch.zeros(4, device=backbone.device)
                for part in range(plan.accumulation):
                    edit, loss, penalty = passed(next(parts), step, part, part == plan.accumulation - 1)
                    figures[:2] += torch.stack([loss, penalty]) / plan.accumulation
                norm = nn.utils.clip_grad_norm_(parameters, plan.clip)
                figures[2] = float(interrupted())
                figures[3] = stream.skipped
                means = accelerator.reduce(figures, "mean").tolist()
                if not math.isfinite(sum(means) + norm.item()):
                    raise Refusal(
                        f"The loss is not finite at step {step + 1}, at a rate of {plan.rate:g}; go on from the last "
                        "checkpoint (--resume) at a lower one (--rate)."
                    )
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                with torch.no_grad():
                    module.after_step()
                average.step(parameters)
                step += 1
                ended, skipped = means[2] > 0, before + round(means[3] * processes)
                progress(step, plan.steps)
                if curve is not None:
                    curve.add(plan, step, means, norm.item(), skipped)
                    if step % plan.log_every == 0 or step == plan.steps:
                        curve.write(step, plan.rate_at(step - 1), module.figures(edit))
                stood = time.perf_counter()
                if step % plan.save_every == 0 or step == plan.steps or ended:
                    save()
                    accelerator.wait_for_everyone()
                if step % plan.preview_every == 0 or step == plan.steps:
                    shown(step)
                if curve is not None:  # neither is a step's
                    curve.since += time.perf_counter() - stood
    finally:
        if mounted is not None:
            mounted.unmount()
        if plan.checkpointing:
            backbone.unet.disable_gradient_checkpointing()
    average.copy_to(parameters)
    return step


def _estimate(
    backbone: Backbone,
    module: nn.Module,
    plan: Plan,
    steps: int,
    part: Callable[[], object],
    say: Callable[[str], object],
) -> None:
    """Say what the run will take, by what one of its parts took; nothing of it is kept."""
    cuda = backbone.device.type == "cuda"
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        part()
        if cuda:
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - start) * plan.accumulation
    count = sum(parameter.numel() for parameter in module.parameters())
    memory = torch.cuda.max_memory_allocated() if cuda else peak_memory()
    memory += 8 * count  # AdamW's moments, which are made by its first step
    say(
        f"{count / 1e6:.2f} million trained parameters, about {memory / 2**30:.1f} GiB of memory; {seconds:.2f} s a step, "
        f"{plan.batch / seconds:,.1f} pictures a second: {steps:,} steps take about {_duration(steps * seconds)}."
    )


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} seconds"


class _Curve:
    """The curve as JSON lines, one for every so many steps, and accelerate's trackers."""

    def __init__(
        self, path: Path, step: int, sums: Sequence[float], accelerator: Any, settings: Mapping[str, Any]
    ) -> None:
        self.path, self.accelerator = path, accelerator
        cut_lines(path, step)
        if accelerator.log_with:
            flat = {name: value for name, value in settings.items() if isinstance(value, int | float | str | bool)}
            accelerator.init_trackers("namesake", flat)
        self._clear()
        self.sums += sums

    def _clear(self) -> None:
        """`sums`, of loss, penalty, norm and 1, outlive a break of the run; what is timed does not."""
        self.sums, self.rows, self.since = np.zeros(4), 0, time.perf_counter()
        self.skipped = self.left = 0

    def add(self, plan: Plan, step: int, means: Sequence[float], norm: float, skipped: int) -> None:
        self.sums += (means[0], means[1], norm, 1)
        self.rows += plan.batch
        self.skipped, self.left = skipped, (plan.steps - step) * plan.batch

    def write(self, step: int, rate: float, watched: Mapping[str, float]) -> None:
        """A line of means since the last one, with the projected rest of the run."""
        speed = self.rows / (time.perf_counter() - self.since)
        means = dict(zip(("loss", "penalty", "norm"), (self.sums[:3] / self.sums[3]).tolist(), strict=True))
        line = {"step": step, **means, "rate": rate, **watched, "skipped pictures": self.skipped}
        line |= {"pictures a second": speed, "hours left": self.left / speed / 3600}
        with open(self.path, "a") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}) + "\n")
        if self.accelerator.log_with:
            self.accelerator.log({name: value for name, value in line.items() if name != "step"}, step=step)
        self._clear()


def _save(folder: Path, state: Mapping[str, Any]) -> None:
    """A checkpoint, beside and renamed; only then those before it go."""
    place = folder / f"checkpoint-{state['step']:08d}.pt"
    write_state(state, place)
    for old in folder.glob("checkpoint-*.pt"):
        if old.name < place.name:
            old.unlink(missing_ok=True)
    for cut in folder.glob(".checkpoint-*.part"):  # by a kill while it was written
        cut.unlink(missing_ok=True)


def begun(folder: Path, resume: bool) -> Path | None:
    """The last checkpoint in the folder of a run, None where there is none; Refusal where it is not to be resumed."""
    found = sorted(folder.glob("checkpoint-*.pt"))
    if found and not resume:
        raise Refusal(f'The folder "{folder}" holds a run already; go on with it (--resume), or name another folder.')
    return found[-1] if found else None


def rate_of(checkpoint: Path) -> float | None:
    """The rate that a run went on at, which may be another than its recipe's; None where the file cannot be read."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return float(json.loads(state["settings"])["rate"])
    except Exception:  # what is no checkpoint raises what it likes, and is refused when it is restored
        return None


def _restored(
    folder: Path, resume: bool, settings: Mapping[str, Any], module: nn.Module, optimizer: Any, average: Any
) -> tuple[int, int, list[float]]:
    """The step of the last checkpoint in a folder, whose states are loaded, how many pictures were skipped until then,
    and the sums of the curve since its last line; all 0 where there is none."""
    last = begun(folder, resume)
    if last is None:
        return 0, 0, [0.0] * 4
    try:
        state = torch.load(last, map_location="cpu", weights_only=True)
        before = json.loads(state["settings"])
    except Exception as reason:  # what is no checkpoint raises what it likes
        told = str(reason).strip().partition("\n")[0] or type(reason).__name__
        raise Refusal(f'The checkpoint "{last}" cannot be read ({told}); delete it and resume again.') from None
    other = {**json.loads(json.dumps(settings))}
    different = sorted(name for name in {*before, *other} if before.get(name) != other.get(name) and name not in FREE)
    if different:
        was = ", ".join(f"{name} {before.get(name)} and now {other.get(name)}" for name in different)
        raise Refusal(
            f'The run in "{folder}" has other settings ({was}); resume it with its own, or name another folder.'
        )
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    average.load_state_dict(state["average"])
    average.to(next(module.parameters()).device)
    return int(state["step"]), int(state["skipped"]), state.get("curve", [0.0] * 4)  # older ones have no sums


# What may differ between a run and its going on: the rate, since a run that diverged would do so again at its own; where
# the data lies, whose numbers of pictures must be the same.
FREE = ("rate", "data", "save_every", "preview_every", "log_every", "checkpointing")
