"""How probable it is by CTC that a text begins with a prefix, for many prefixes at once.

Watanabe et al. 2017 (IEEE J-STSP 11(8), Hybrid CTC/Attention Architecture), algorithm 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lightning_audio.frontend.mask import frame_mask

NEVER = -1e30  # in place of -inf, whose differences are no numbers
BEYOND = -1e4  # a token behind the end of an utterance


class PrefixScores:
    """The prefixes of several utterances, each grown token by token.

    A state `(N, T + 1, 2)` holds for each number of frames the log-probability of all alignments of the
    prefix with them, of those that end in its last token and of those that end in a blank. Their recursions
    are linear, so each is a cumulative sum over the frames.

    Args:
        log_probs: `(B, T, C)`, output 0 the blank.
        lengths: `(B,)` in frames.
    """

    def __init__(self, log_probs: Tensor, lengths: Tensor) -> None:
        inside = frame_mask(lengths, log_probs.shape[1])[..., None]
        self.log_probs = log_probs.double().masked_fill(~inside, BEYOND)
        self.log_probs[..., :1].masked_fill_(~inside, 0.0)  # all that may follow: nothing changes any more
        self.blanks = self.log_probs[..., 0].cumsum(1)

    def start(self, utterances: Tensor) -> Tensor:
        """The states of empty prefixes of the utterances of these numbers `(N,)`."""
        blank = functional.pad(self.blanks[utterances], (1, 0))
        return torch.stack([torch.full_like(blank, NEVER), blank], -1)

    def whole(self, state: Tensor) -> Tensor:
        """The log-probability `(N,)` that the text is the prefix."""
        return state[:, -1].logsumexp(-1)

    def extended(
        self, state: Tensor, utterances: Tensor, last: Tensor, outputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Each prefix with each of its outputs `(N, K)` behind it.

        `last` `(N,)` is the last output of each prefix, 0 where it is empty. Returns the log-probability
        `(N, K)` that the text begins with what is then the prefix, and its state `(N, K, T + 1, 2)`.
        """
        frames = self.log_probs.shape[1]
        said = self.log_probs[utterances].gather(2, outputs[:, None].expand(-1, frames, -1)).mT  # (N, K, T)
        before = state[:, None, :-1].expand(-1, outputs.shape[1], -1, -1)
        again = (outputs == last[:, None])[..., None]  # the same token once more only behind a blank
        ready = torch.where(again, before[..., 1], before.logsumexp(-1))
        total = said.cumsum(-1)
        token = total + (ready - (total - said)).logcumsumexp(-1)
        token = functional.pad(token, (1, 0), value=NEVER)
        gone = functional.pad(self.blanks[utterances], (1, 0))[:, None]
        blank = gone[..., 1:] + (token[..., :-1] - gone[..., :-1]).logcumsumexp(-1)
        blank = functional.pad(blank, (1, 0), value=NEVER)
        return (ready + said).logsumexp(-1), torch.stack([token, blank], -1)
