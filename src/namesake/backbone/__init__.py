"""The frozen text-to-image model: loading, text, latents, noise, sites."""

from namesake.backbone.backbone import Backbone, RealWord, TextStates, attention_sites

__all__ = ["Backbone", "RealWord", "TextStates", "attention_sites"]
