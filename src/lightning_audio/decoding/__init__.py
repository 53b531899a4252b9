"""From what a network says of frames to text: the best path, beam search, and n-gram language models."""

from lightning_audio.decoding.beam import Beam
from lightning_audio.decoding.hotwords import Hotwords
from lightning_audio.decoding.hypothesis import Decoder, Greedy, Hypothesis, ctc_log_probs
from lightning_audio.decoding.lm import LanguageModel, LMDecoder
from lightning_audio.decoding.search import BeamSearch

__all__ = [
    "Beam",
    "BeamSearch",
    "Decoder",
    "Greedy",
    "Hotwords",
    "Hypothesis",
    "LMDecoder",
    "LanguageModel",
    "ctc_log_probs",
]
