"""From log-probabilities to text: the best path, beam search, and n-gram language models."""

from lightning_audio.decoding.beam import Beam
from lightning_audio.decoding.hypothesis import Decoder, Greedy, Hypothesis, ctc_log_probs
from lightning_audio.decoding.lm import LMDecoder
from lightning_audio.decoding.tuning import tune

__all__ = ["Beam", "Decoder", "Greedy", "Hypothesis", "LMDecoder", "ctc_log_probs", "tune"]
