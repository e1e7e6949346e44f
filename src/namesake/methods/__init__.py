"""The methods that tune one concept from real words, by name. A new one takes its file and one line here."""

from namesake.methods.cold_start import ColdStart
from namesake.methods.custom_diffusion import CustomDiffusion
from namesake.methods.dreambooth import DreamBooth
from namesake.methods.lora import Lora
from namesake.methods.lora_pti import LoraPti
from namesake.methods.textual_inversion import StyleInversion, TextualInversion
from namesake.train.tune import Method

METHODS: dict[str, Method] = {
    "cold-start": ColdStart(),
    "textual-inversion": TextualInversion(),
    "textual-inversion-style": StyleInversion(),
    "lora": Lora(),
    "lora-text": Lora(text=True),
    "lora-pti": LoraPti(),
    "dreambooth": DreamBooth(),
    "dreambooth-text": DreamBooth(text_rate=2e-6),
    "dreambooth-word": DreamBooth(word_rate=3e-4, snr_gamma=5.0),
    "custom-diffusion": CustomDiffusion(),
}
