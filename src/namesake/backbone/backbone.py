"""One frozen text-to-image model, of whichever family, behind one set of calls.

A `Backbone` is a thin wrapper around a diffusers pipeline. What differs between the picture book, SD 1.x, SD 2.x and
SDXL is read from the pipeline's own configuration: what the U-Net predicts, the noise schedule, the scale of the
latents, how many text encoders there are and how wide.

Axes: `B` rows, `N` tokens, `D` width of the text states, `P` width of the pooled text, `C` latent channels, `H W`
pixels, `h w` latent places.
"""

import inspect
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from namesake.backbone.load import choose, open_pipeline, quiet
from namesake.edits import Site
from namesake.errors import Refusal

# Short names of diffusers' schedulers, as people write them.
SHORT_NAMES = {
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++-single": "DPMSolverSinglestepScheduler",
    "dpm++-sde": "DPMSolverSDEScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2-a": "KDPM2AncestralDiscreteScheduler",
}
CLIP = "openai/clip-vit-large-patch14"
# Byte-pair ranks follow how often a word is seen, so the first whole words are the common ones; the 8,000th of CLIP's
# is already rare, and embedding all 30,000 on a CPU takes minutes.
COMMON_WORDS = 8_000


@dataclass(frozen=True)
class RealWord:
    """A word that the model knows as one token: its text, and its id for each text encoder."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TextStates:
    """What the U-Net is told of the prompts: a state for each token, and SDXL's pooled vector (None for the others).

    Inside `edited` the states are wider, because the edit's twin states travel on the feature axis.
    """

    states: Float[Tensor, "B N D"]
    pooled: Float[Tensor, "B P"] | None = None

    def __len__(self) -> int:
        return self.states.shape[0]

    def rows(self, index: Sequence[int] | slice) -> "TextStates":
        """The states of some rows, in the order asked; a row may come more than once."""
        return TextStates(self.states[index], None if self.pooled is None else self.pooled[index])

    @staticmethod
    def joined(*parts: "TextStates") -> "TextStates":
        """All rows of several, one after the other."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return TextStates(torch.cat([part.states for part in parts]), torch.cat(pooled) if pooled else None)


def attention_sites(unet: nn.Module) -> tuple[Site, ...]:
    """The query, key, value and output projections of every attention in a U-Net's transformer blocks, in module order.

    128 for SD 1.x and 2.x, 560 for SDXL.
    """
    from diffusers.models.attention import BasicTransformerBlock

    sites = []
    for path, block in unet.named_modules():
        if not isinstance(block, BasicTransformerBlock):
            continue
        for name in ("attn1", "attn2"):
            attention = getattr(block, name)
            if attention is None:
                continue
            kind = "cross" if attention.is_cross_attention else "self"
            for part, role in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "out")):
                linear = attention.get_submodule(part)
                sites.append(Site(f"{path}.{name}.{part}", f"{kind} {role}", linear.in_features, linear.out_features))
    return tuple(sites)


class Backbone:
    """A frozen model: text, latents, noise, the U-Net, and the sites where an edit can act.

    Make one with `Backbone.load` or `Backbone.from_pipeline`. All modules are in eval mode and need no gradient;
    gradients still flow through them, to the text states and to an edit.

    Attributes:
        hollow: whether there are only shapes (`namesake.backbone.shapes`).
    """

    hollow = False
    _home: torch.device | None = None  # the GPU of a frugal run, also while the U-Net is not there

    def __init__(self, pipeline: Any, name: str, folder: Path | None = None):
        _check(pipeline)
        from diffusers import DDPMScheduler

        self.pipeline = pipeline
        self.name = name
        self._schedule: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.prediction: str = self._schedule.config.prediction_type
        self._card = _card(folder)
        for module in pipeline.components.values():
            if isinstance(module, nn.Module):
                module.eval().requires_grad_(False)
        self.sites: tuple[Site, ...] = attention_sites(self.unet)

    @classmethod
    def load(
        cls,
        model: str | Path = "picturebook",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        config: str | Path | None = None,
    ) -> "Backbone":
        """Load a model: "picturebook", a diffusers folder, a hub id, or one `.safetensors` checkpoint.

        Only safetensors are read, and `HF_HUB_OFFLINE` is honoured. Device and precision are chosen by what the machine
        has (`namesake.backbone.load.choose`); `config` helps a checkpoint file whose configuration cannot be inferred.

        Raises:
            Refusal: no such model, not a family that namesake knows, damaged or pickled files, a device that is
                missing.
        """
        device, dtype = choose(device, dtype)
        pipeline, name, folder = open_pipeline(model, dtype, config)
        _check(pipeline)
        with quiet():
            pipeline.to(device)
        return cls(pipeline, name, folder)

    @classmethod
    def from_pipeline(cls, pipeline: Any) -> "Backbone":
        """Wrap a loaded diffusers pipeline. Its components are shared, not copied: they are put in eval mode and
        frozen.

        Raises:
            Refusal: a pipeline of another family than SD 1.x, SD 2.x or SDXL.
        """
        source = str(getattr(getattr(pipeline, "config", None), "_name_or_path", "") or type(pipeline).__name__)
        folder = Path(source)
        return cls(pipeline, folder.name if folder.is_dir() else source, folder if folder.is_dir() else None)

    # --- the parts, always as the pipeline has them now: an edit puts a private tokenizer there ---

    @property
    def unet(self) -> Any:
        return self.pipeline.unet

    @property
    def vae(self) -> Any:
        return self.pipeline.vae

    @property
    def text_encoders(self) -> tuple[Any, ...]:
        """One for SD and the picture book, two for SDXL."""
        second = getattr(self.pipeline, "text_encoder_2", None)
        return (self.pipeline.text_encoder,) if second is None else (self.pipeline.text_encoder, second)

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        second = getattr(self.pipeline, "tokenizer_2", None)
        return (self.pipeline.tokenizer,) if second is None else (self.pipeline.tokenizer, second)

    @property
    def device(self) -> torch.device:
        """Where the U-Net computes, also when its weights are offloaded by diffusers."""
        if self._home is not None:
            return self._home
        if hasattr(self.unet, "_hf_hook") or hasattr(self.unet, "_diffusers_hook"):
            return torch.device(self.pipeline._execution_device)  # walks through every component: some milliseconds
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def factor(self) -> int:
        """Pixels along one side of a latent place."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def multiple(self) -> int:
        """What height and width in pixels must be a multiple of: the autoencoder's factor times the U-Net's."""
        return self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def size(self) -> int:
        """The side in pixels of the pictures that the model was trained on."""
        sample = self.unet.config.sample_size
        return (sample if isinstance(sample, int) else min(sample)) * self.factor

    @property
    def kind(self) -> str:
        """Whose settings suit the model, as its folder says: "picturebook", or "" for those of Stable Diffusion."""
        return str(self._card.get("kind", ""))

    @property
    def guidance(self) -> float:
        """The guidance that suits the model: what its folder says, else the default of its diffusers pipeline."""
        default = inspect.signature(type(self.pipeline).__call__).parameters["guidance_scale"].default
        return float(self._card.get("guidance", default))

    @property
    def bystanders(self) -> tuple[nn.Module, ...]:
        """The networks without work in a step of tuning: all but the U-Net and the text encoders."""
        at_work = {id(self.unet), *map(id, self.text_encoders)}
        others = [part for part in self.pipeline.components.values() if isinstance(part, nn.Module)]
        clip = self.__dict__.get("_clip")  # where it was needed
        return (*(part for part in others if id(part) not in at_work), *([] if clip is None else [clip[0]]))

    @property
    def frugal(self) -> bool:
        """Whether networks without work wait in main memory (`frugally`)."""
        return self._home is not None

    @contextmanager
    def frugally(self) -> Iterator[None]:
        """On a CUDA GPU the bystanders wait in main memory inside, and come while they work (`at_work`); what is loaded inside
        waits there too. Elsewhere nothing changes."""
        before, device = self._home, self.device
        if device.type != "cuda":
            yield
            return
        self._home = device
        try:
            with _moved(self.bystanders, "cpu"):
                yield
        finally:
            self._home = before

    @contextmanager
    def waiting(self, *modules: nn.Module) -> Iterator[None]:
        """Further networks wait in main memory inside, where the model is `frugal`."""
        with _moved(modules if self.frugal else (), "cpu"):
            yield

    @contextmanager
    def at_work(self, *modules: nn.Module, instead: Sequence[nn.Module] = ()) -> Iterator[None]:
        """Networks that work inside. Where the model is `frugal` they come to the GPU for it and leave it after, and those
        `instead` of which they come leave it meanwhile; elsewhere those that a frugal run has loaded come to stay."""
        if self.frugal:
            with _moved(instead, "cpu"), _moved(modules, self.device):
                yield
            return
        for module in modules:
            if _elsewhere(module, self.device):
                nn.Module.to(module, self.device)
        yield

    # --- pictures and latents ---

    @torch.no_grad()
    def encode(
        self, pictures: UInt8[Tensor, "B H W 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B C h w"]:
        """Scaled latents of pictures, fp32: the posterior's mean, or a sample of it where a generator is given.

        Raises:
            Refusal: height or width is no multiple of the autoencoder's factor.
        """
        height, width = pictures.shape[1:3]
        if height % self.factor or width % self.factor:
            raise Refusal(
                f"A picture of {width}x{height} pixels cannot be encoded; sides that are multiples of "
                f"{self.factor} are wanted."
            )
        with self.at_work(self.vae), self._exact_vae() as vae:
            floats = pictures.to(self.device).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
            posterior = vae.encode(floats).latent_dist
            latents = posterior.mode() if generator is None else posterior.sample(generator)
            return (latents * vae.config.scaling_factor).float()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C h w"]) -> UInt8[Tensor, "B H W 3"]:
        """The pictures of scaled latents, on the CPU, rounded as diffusers rounds them; one by one and while the U-Net waits
        where the model is `frugal`."""
        parts = []
        with self.at_work(self.vae, instead=[self.unet]), self._exact_vae() as vae:
            for part in latents.split(1 if self.frugal else max(1, len(latents))):
                scaled = part.to(self.device, vae.dtype) / vae.config.scaling_factor
                floats = vae.decode(scaled, return_dict=False)[0]
                parts.append((floats * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().float())
        return (torch.cat(parts) * 255).round().to(torch.uint8)

    @contextmanager
    def _exact_vae(self) -> Iterator[Any]:
        """The autoencoder in at least fp32. SDXL's overflows in fp16, and bf16 has fewer steps than a picture's 256.

        Half-precision weights survive the way there and back to the bit.
        """
        vae, dtype = self.vae, self.vae.dtype
        half = dtype in (torch.float16, torch.bfloat16)
        if half:
            nn.Module.to(vae, torch.float32)
        try:
            yield vae
        finally:
            if half:
                nn.Module.to(vae, dtype)

    @torch.no_grad()
    def screened(self, pictures: UInt8[Tensor, "B H W 3"]) -> list[bool]:
        """Which pictures the pipeline's own safety checker objects to; none where it has no checker."""
        checker = getattr(self.pipeline, "safety_checker", None)
        if checker is None:
            return [False] * len(pictures)
        floats = pictures.permute(0, 3, 1, 2).to(self.device, torch.float32) / 127.5 - 1
        with quiet(), self.at_work(checker):
            objections = self.pipeline.run_safety_checker(floats, self.device, checker.dtype)[1]
        return [bool(objection) for objection in objections]

    # --- text ---

    def text(self, prompts: list[str]) -> TextStates:
        """Encode prompts with the pipeline's own tokenizers and encoders, as diffusers does; gradients pass.

        A prompt that is too long is cut off where diffusers cuts it, with a `UserWarning` that names what is lost.
        """
        cut = {prompt: lost for prompt in prompts if (lost := self.truncated(prompt))}
        for prompt, lost in cut.items():
            warnings.warn(f'The prompt "{prompt}" is too long; the model does not see "{lost}".', stacklevel=2)
        with quiet() if cut else nullcontext():  # diffusers logs the same
            encoded = self.pipeline.encode_prompt(
                prompt=prompts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return TextStates(encoded[0], encoded[2] if len(encoded) > 2 else None)

    def against(self, negative: str, states: TextStates) -> TextStates:
        """The unconditional half of guidance for some prompts' states: the empty or negative prompt, once for each row.

        SDXL was trained with zeros in the place of the empty prompt, and its configuration says so.
        """
        if not negative and self.pipeline.config.get("force_zeros_for_empty_prompt", False):
            zeros = None if states.pooled is None else torch.zeros_like(states.pooled)
            return TextStates(torch.zeros_like(states.states), zeros)
        return self.text([negative] * len(states))

    def truncated(self, prompt: str) -> str:
        """The end of a prompt that does not fit into the model's text length, "" where all of it fits."""
        parts = [""]
        for tokenizer in self.tokenizers:
            ids = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
            parts.append(tokenizer.decode(ids[tokenizer.model_max_length - 2 :]).strip())
        return max(parts, key=len)

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that the model never saw, in order; placeholders in angle brackets do not count.

        Only a model that says which words it was trained on (`words.json` in its folder) can tell; for the others [].
        """
        if "words" not in self._card:
            return []
        known = set(self._card["words"])
        words = re.findall(r"[^\W\d_]+", re.sub(r"<[^<>\s]*>", " ", prompt.lower()))
        return list(dict.fromkeys(word for word in words if word not in known))

    @cached_property
    def _real_words(self) -> tuple[RealWord, ...]:
        vocabularies = []
        for tokenizer in self.tokenizers:
            special = set(tokenizer.all_special_tokens)
            vocabulary = {
                token[:-4]: number
                for token, number in tokenizer.get_vocab().items()
                if token.endswith("</w>") and token not in special
            }
            vocabularies.append(vocabulary)
        first = vocabularies[0]
        chosen = self._card.get("words") or [
            word
            for word in sorted(first, key=first.__getitem__)
            if len(word) >= 3 and word.isascii() and word.isalpha()
        ]
        return tuple(
            RealWord(word, tuple(vocabulary[word] for vocabulary in vocabularies))
            for word in chosen
            if all(word in vocabulary for vocabulary in vocabularies)
        )

    def real_words(self) -> list[RealWord]:
        """The words that a new word can start from or be compared with; no search ever looks at another token.

        A model that lists its words (`words.json`) has exactly those of them that are one token; any other model has
        the whole alphabetic words of three letters or more of its vocabulary, the common ones first.
        """
        return list(self._real_words)

    # --- noise and the U-Net ---

    def denoise(
        self, latents: Float[Tensor, "B C h w"], timesteps: Tensor | int | float, text: TextStates
    ) -> Float[Tensor, "B C h w"]:
        """The U-Net's raw output, in the precision of `latents`; `timesteps` is one number or one for each row.

        SDXL is told that the picture is whole and of the size that the latents stand for.
        """
        added = None
        if text.pooled is not None:
            size = (latents.shape[2] * self.factor, latents.shape[3] * self.factor)
            ids = torch.tensor([[*size, 0, 0, *size]], dtype=text.states.dtype, device=self.device)
            added = {"text_embeds": text.pooled, "time_ids": ids.expand(len(text), 6)}
        output = self.unet(
            latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=text.states,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return output.to(latents.dtype)

    @property
    def train_timesteps(self) -> int:
        """How many timesteps the model was trained on; they run from 0, hardly any noise, to this less one."""
        return int(self._schedule.config.num_train_timesteps)

    def add_noise(
        self, latents: Float[Tensor, "B C h w"], noise: Float[Tensor, "B C h w"], timesteps: Int[Tensor, "B"]
    ) -> Float[Tensor, "B C h w"]:
        """`sqrt(a_t) z + sqrt(1 - a_t) e`; pure noise at the last timestep where the terminal SNR is zero."""
        return self._schedule.add_noise(latents, noise, timesteps)

    def target(
        self, latents: Float[Tensor, "B C h w"], noise: Float[Tensor, "B C h w"], timesteps: Int[Tensor, "B"]
    ) -> Float[Tensor, "B C h w"]:
        """What the U-Net should give: the noise `e`, or the velocity `sqrt(a_t) e - sqrt(1 - a_t) z` (Salimans and Ho,
        2022)."""
        return noise if self.prediction == "epsilon" else self._schedule.get_velocity(latents, noise, timesteps)

    def snr(self, timesteps: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """The signal-to-noise ratio `a_t / (1 - a_t)`; 0 at the last timestep where the terminal SNR is zero."""
        share = self._schedule.alphas_cumprod.to(timesteps.device)[timesteps]
        return share / (1 - share)

    @cached_property
    def schedulers(self) -> dict[str, Any]:
        """The schedulers that can sample from the model, by short and by class name.

        Those that diffusers says are compatible, less the ones that would be wrong in silence: without a table of
        betas, or without zero terminal SNR where the model needs it. Those with a missing package are left out as well.
        """
        wanted = {"beta_start", "prediction_type"}
        if self._schedule.config.rescale_betas_zero_snr:
            wanted.add("rescale_betas_zero_snr")
        classes = {
            found.__name__: found
            for found in self.pipeline.scheduler.compatibles
            if not hasattr(found, "_backends") and wanted <= set(inspect.signature(found.__init__).parameters)
        }
        short = {name: classes[long] for name, long in SHORT_NAMES.items() if long in classes}
        return short | dict(sorted(classes.items()))

    def scheduler(self, name: str) -> Any:
        """A new scheduler by short or class name, from the model's own configuration.

        Raises:
            Refusal: no such scheduler, or one that does not fit the model; the sentence lists those that do.
        """
        if name not in self.schedulers:
            short = ", ".join(key for key in self.schedulers if key in SHORT_NAMES)
            raise Refusal(
                f"The scheduler '{name}' is not among those that fit the model '{self.name}'; choose one of {short}."
            )
        chosen = self.schedulers[name]
        # SD 1.x leaves out PNDM's Runge-Kutta steps, which need four steps at least; other configurations forget to.
        plain = {"skip_prk_steps": True} if "skip_prk_steps" in inspect.signature(chosen.__init__).parameters else {}
        with quiet():
            return chosen.from_config(self.pipeline.scheduler.config, **plain)

    # --- seeing ---

    @torch.no_grad()
    def see(self, pictures: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B P"] | None:
        """Image embeddings by the pipeline's own image encoder, fp32, or None where it has none."""
        encoder = getattr(self.pipeline, "image_encoder", None)
        if encoder is None:
            return None
        with self.at_work(encoder):
            return _embed(encoder, pictures, getattr(self.pipeline, "feature_extractor", None))

    def nearest_words(self, pictures: UInt8[Tensor, "B H W 3"], n: int = 1) -> list[tuple[str, float]] | None:
        """The real words whose "a picture of a {word}" is nearest to some pictures of one thing, best first.

        The similarity is that of `similarity`; without an eye for it there is no answer: None.
        """
        words = self.real_words()[: None if "words" in self._card else COMMON_WORDS]
        with self.looking():
            seen = self._mean_seen(pictures)
            if seen is None:
                return None
            similarity = self._word_embeddings @ seen.to(self._word_embeddings.device)
        best = similarity.topk(min(n, len(words)))
        return [
            (words[place].text, value) for place, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.no_grad()
    def similarity(self, pictures: UInt8[Tensor, "B H W 3"], prompts: Sequence[str]) -> Float[Tensor, "N"] | None:
        """How well each of N prompts describes some pictures of one thing, -1..1.

        It is the cosine between the mean of the pictures' unit embeddings and the text embedding. The eye is the
        pipeline's image encoder where it is aligned with the pipeline's text, else CLIP ViT-L/14 with its own text
        tower where that is in the hub's cache; else there is no answer: None.
        """
        with self.looking():
            seen = self._mean_seen(pictures)
            return None if seen is None else (self._text_embeddings(prompts) @ seen).cpu()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """CLIP out of the hub's cache, in fp32 as large as SD 1.x's U-Net in half precision, works in its place inside: for
        `similarity` and `nearest_words`, which call it themselves, or for several of these, so that it comes once."""
        if self._own_eye or self._clip is None:
            yield
            return
        with self.at_work(self._clip[0], instead=[self.unet]):
            yield

    def _mean_seen(self, pictures: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "P"] | None:
        if self._own_eye:
            seen = self.see(pictures)
        elif self._clip is not None:
            seen = _embed(self._clip[0], pictures, None)
        else:
            return None
        assert seen is not None
        return F.normalize(F.normalize(seen, dim=-1).mean(0), dim=-1)

    @property
    def _own_eye(self) -> bool:
        """Whether the image encoder meets the text encoder's pooled output. One that an IP-Adapter brought does not."""
        encoder, config = getattr(self.pipeline, "image_encoder", None), self.text_encoders[-1].config
        pooled = config.projection_dim if len(self.text_encoders) == 2 else config.hidden_size
        adapter = getattr(self.unet, "encoder_hid_proj", None) is not None
        return encoder is not None and not adapter and encoder.config.projection_dim == pooled

    @cached_property
    def _clip(self) -> tuple[Any, Any] | None:
        """CLIP and its tokenizer out of the hub's cache. Never a download: 1.7 GB should not come unasked."""
        with quiet():
            from transformers import CLIPModel, CLIPTokenizer

            try:
                model = CLIPModel.from_pretrained(CLIP, use_safetensors=True, local_files_only=True)
                tokenizer = CLIPTokenizer.from_pretrained(CLIP, local_files_only=True)
            except (OSError, ValueError):
                return None
        if not self.frugal:
            nn.Module.to(model, self.device)
        return model.eval().requires_grad_(False), tokenizer

    @cached_property
    @torch.no_grad()
    def _word_embeddings(self) -> Float[Tensor, "W P"]:
        """Unit text embeddings of the words that `nearest_words` looks at, in their order."""
        words = self.real_words()[: None if "words" in self._card else COMMON_WORDS]
        return self._text_embeddings([f"a picture of a {word.text}" for word in words])

    def _text_embeddings(self, prompts: Sequence[str]) -> Float[Tensor, "N P"]:
        """Unit text embeddings of prompts in the space of the eye."""
        if self._own_eye:
            encoder, tokenizer = self.text_encoders[-1], self.tokenizers[-1]
        else:
            assert self._clip is not None
            encoder, tokenizer = self._clip
        found = []
        for start in range(0, len(prompts), 256):
            ids = tokenizer(list(prompts[start : start + 256]), padding=True, return_tensors="pt").input_ids
            ids = ids.to(encoder.device)
            # The pooled output stands at the first end token, so padding up to the longest is enough.
            if self._own_eye:
                output = encoder(input_ids=ids)
                vectors = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
            else:
                vectors = _features(encoder.get_text_features(input_ids=ids))
            found.append(F.normalize(vectors.float(), dim=-1))
        return torch.cat(found)


def _elsewhere(module: nn.Module, place: torch.device | str) -> bool:
    """Whether a module is at another place, and diffusers does not see to that."""
    hooked = hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook")
    return not hooked and next(module.parameters()).device.type != torch.device(place).type


@contextmanager
def _moved(modules: Iterable[nn.Module], place: torch.device | str) -> Iterator[None]:
    """Modules at another place inside."""
    back: list[tuple[nn.Module, torch.device]] = []
    try:
        for module in modules:
            if _elsewhere(module, place):
                back.append((module, next(module.parameters()).device))
                nn.Module.to(module, place)
        yield
    finally:
        for module, before in back:
            nn.Module.to(module, before)


def _embed(encoder: Any, pictures: UInt8[Tensor, "B H W 3"], extractor: Any) -> Float[Tensor, "B P"]:
    """CLIP's image embedding, fp32."""
    pixels = clip_pixels(encoder, pictures, extractor)
    if hasattr(encoder, "get_image_features"):
        return _features(encoder.get_image_features(pixel_values=pixels)).float()
    return encoder(pixel_values=pixels).image_embeds.float()


def clip_pixels(encoder: Any, pictures: UInt8[Tensor, "B H W 3"], extractor: Any) -> Float[Tensor, "B 3 S S"]:
    """What a CLIP image encoder reads, in its precision. Resized and cropped here: torchvision's and Pillow's
    processors differ slightly, and an embedding must not depend on which one is installed."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    side = getattr(encoder.config, "vision_config", encoder.config).image_size
    mean, std = (torch.tensor(values, device=encoder.device).view(1, 3, 1, 1) for values in (
        getattr(extractor, "image_mean", None) or OPENAI_CLIP_MEAN, getattr(extractor, "image_std", None) or
        OPENAI_CLIP_STD
    ))  # fmt: skip
    floats = pictures.to(encoder.device).permute(0, 3, 1, 2).float()
    height, width = floats.shape[2:]
    ratio = side / min(height, width)
    if ratio != 1:
        sides = (max(side, round(height * ratio)), max(side, round(width * ratio)))
        floats = F.interpolate(floats, sides, mode="bicubic", antialias=True).round().clamp(0, 255)
    top, left = (floats.shape[2] - side) // 2, (floats.shape[3] - side) // 2
    return ((floats[:, :, top : top + side, left : left + side] / 255 - mean) / std).to(encoder.dtype)


def _features(output: Any) -> Tensor:
    """`CLIPModel.get_*_features` gives a tensor in transformers 4 and an output with `pooler_output` in 5."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _card(folder: Path | None) -> dict[str, Any]:
    """What a model's folder says of itself in `words.json`: {"words": [...], "guidance": number, "kind": text}, all optional."""
    path = folder / "words.json" if folder is not None else None
    if path is None or not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict) or not all(
            isinstance(word, str) for word in (card.get("kind", ""), *card.get("words", []))
        ):
            raise ValueError("not an object with a list of words")
        return card
    except (OSError, ValueError) as error:
        raise Refusal(f"'{path}' cannot be read; a JSON object with a list \"words\" is wanted.") from error


def _check(pipeline: Any) -> None:
    """Refuse a pipeline that the rest of the program would misread."""
    name = type(pipeline).__name__
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    lacking = [part for part in parts if getattr(pipeline, part, None) is None]
    if lacking:
        raise Refusal(f"A {name} without {lacking[0]} cannot be used; a pipeline of SD 1.x, SD 2.x or SDXL is wanted.")
    if getattr(pipeline, "controlnet", None) is not None:
        raise Refusal(
            "A pipeline with a ControlNet cannot be used, whose network reads the text for itself; take the plain "
            "pipeline of the same model."
        )
    unet, vae, schedule = pipeline.unet.config, pipeline.vae.config, pipeline.scheduler.config
    if unet.in_channels != vae.latent_channels:
        raise Refusal(
            f"The U-Net takes {unet.in_channels} channels and the autoencoder gives {vae.latent_channels}; a plain "
            "text-to-image model is wanted, no inpainting or editing model."
        )
    if unet.get("time_cond_proj_dim") is not None:
        raise Refusal("The model is distilled with its guidance built in (LCM); a plain text-to-image model is wanted.")
    if vae.get("latents_mean") or vae.get("shift_factor"):
        raise Refusal(
            "The model's autoencoder shifts its latents; one that only scales them (SD 1.x, 2.x, SDXL) is wanted."
        )
    kind = schedule.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction") or "beta_start" not in schedule:
        raise Refusal(
            f"The model's {type(pipeline.scheduler).__name__} predicts '{kind}'; a model that predicts the noise "
            "(epsilon) or the velocity (v_prediction) is wanted."
        )
    if kind == "epsilon" and schedule.get("rescale_betas_zero_snr"):
        raise Refusal(
            "The model predicts the noise, yet its schedule ends in pure noise, where that says nothing; correct "
            "prediction_type or rescale_betas_zero_snr in its scheduler's configuration."
        )
