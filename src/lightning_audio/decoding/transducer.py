"""From the frames of a transducer to text: the lattice of its alignments, the best path, and beam search.

Source: Graves 2012, arXiv:1211.3711.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from torchaudio.functional import rnnt_loss

from lightning_audio.data.targets import BLANK
from lightning_audio.decoding.alignment import Rows, TokenSpan, best_path
from lightning_audio.decoding.hypothesis import Decoder, Hypothesis, TokenStream, refuse_nan
from lightning_audio.decoding.search import NEVER
from lightning_audio.decoding.transducer_search import Totals, TransducerSearch
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask
from lightning_audio.text.tokenizers import Tokenizer

PART_NUMBERS = 2**24  # that a tensor of a part of the lattice may hold: 64 MB
Carried = tuple[Tensor, tuple[Tensor, ...]]  # from frame to frame: what the predictor says, and its state
LEAST = -1e4  # in place of -inf, of which no difference can be taken
MOST_CELLS = 2**24  # of the lattice that one alignment may take


class Predictor(Protocol):
    """See tasks/predictors.py."""

    def __call__(self, said: Tensor) -> Tensor: ...

    def step(self, last: Tensor, state: Any) -> tuple[Tensor, tuple[Tensor, ...]]: ...


class Joiner(nn.Module):
    """A frame and a prediction, both of one width, as log-probabilities of the outputs.

    It begins with blanks in 4 of 5 cases, nearer to what is to be learned than equal shares are.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, outputs)
        with torch.no_grad():
            self.output.bias.zero_()
            self.output.bias[BLANK] = math.log(4 * (outputs - 1))

    def forward(self, frames: Tensor, predicted: Tensor) -> Tensor:
        """`(..., width)` each -> `(..., outputs)`."""
        return self.output((frames + predicted).tanh()).float().log_softmax(-1)


@dataclass(frozen=True)
class TransducerModel:
    """What a transducer has behind its network."""

    predictor: Predictor
    joiner: Joiner

    @property
    def device(self) -> torch.device:
        return next(self.joiner.parameters()).device

    def lattice(self, frames: Tensor, said: Tensor, most: int = PART_NUMBERS) -> Tensor:
        """Log-probabilities `(B, T, U + 1, 2)`, at each place of the blank and of the token that is next.

        Of all outputs only these two are kept. Frames are joined in parts, so that memory is bounded however
        long utterances are; for a gradient a part is computed again.

        Args:
            frames: `(B, T, width)`.
            said: `(B, U)`, outputs from 1 on; behind those of an utterance any.
            most: numbers that a part may hold in one tensor.
        """
        predicted, following = self.predictor(said), functional.pad(said, (0, 1))
        of_frame = following.numel() * max(predicted.shape[-1], self.joiner.output.out_features)
        parts = [*frames.split(max(most // of_frame, 1), dim=1)]
        if len(parts) == 1 or not torch.is_grad_enabled():
            found = [self._part(part, predicted, following) for part in parts]
        else:
            found = [
                checkpoint(self._part, part, predicted, following, use_reentrant=False) for part in parts
            ]
        return torch.cat(found, dim=1)

    def _part(self, frames: Tensor, predicted: Tensor, following: Tensor) -> Tensor:
        joined = self.joiner(frames[:, :, None], predicted[:, None])
        index = following[:, None, :, None].expand(-1, frames.shape[1], -1, -1)
        return torch.cat([joined[..., BLANK, None], joined.gather(-1, index)], dim=-1)

    def losses(
        self, frames: Tensor, lengths: Tensor, said: Tensor, counts: Tensor, most: int = PART_NUMBERS
    ) -> Tensor:
        """`-log P` `(B,)` over all alignments; `counts` `(B,)` of each row of `said` are its tokens."""
        frames, said = frames[:, : int(lengths.max())], said[:, : int(counts.max())]
        lattice = self.lattice(frames, said, most)
        # For the loss there are two outputs, the blank and the token that is next.
        ones = torch.ones_like(said, dtype=torch.int32)
        ends = lengths.to(torch.int32), counts.to(torch.int32)
        return rnnt_loss(lattice, ones, *ends, blank=0, reduction="none", fused_log_softmax=False)


class TransducerDecoder(Decoder):
    """What decoders of a transducer share: `rows` are frames as the network gives them, `(T, width)`.

    Args:
        tokenizer: of the outputs.
        transducer: predictor and joiner.
        max_symbols: the most tokens in one frame.
    """

    tokenizer: Tokenizer
    transducer: TransducerModel
    max_symbols: int

    @torch.inference_mode()
    def acoustics(self, rows: Rows, sequences: Sequence[Sequence[int]]) -> list[float]:
        """The log-probability of each token sequence, over all of its alignments."""
        return self.all_acoustics([rows] * len(sequences), sequences)

    @torch.inference_mode()
    def all_acoustics(self, utterances: Sequence[Rows], sequences: Sequence[Sequence[int]]) -> list[float]:
        """The same of one token sequence for each utterance."""
        if not utterances:
            return []
        if not all(map(len, utterances)):
            pairs = zip(utterances, sequences, strict=True)
            return [self.acoustics(rows, [s])[0] if len(rows) else NEVER if s else 0.0 for rows, s in pairs]
        frames, lengths = self._padded(utterances)
        device = frames.device
        said = [torch.tensor(tokens, dtype=torch.int64) + 1 for tokens in sequences]
        counts = torch.tensor([len(tokens) for tokens in sequences], device=device)
        padded = pad_sequence(said, batch_first=True, padding_value=1).to(device)
        if not padded.shape[1]:  # the loss takes no empty axis
            blanks = self.transducer.lattice(frames, padded)[:, :, 0, 0]
            return blanks.masked_fill(~frame_mask(lengths, frames.shape[1]), 0.0).sum(1).tolist()
        return [-loss for loss in self.transducer.losses(frames, lengths, padded, counts).tolist()]

    @torch.inference_mode()
    def token_frames(self, rows: Rows, tokens: Sequence[int], name: str) -> list[TokenSpan]:
        """The frames in which the tokens come out on the best path through the lattice."""
        if not tokens:
            return []
        if len(rows) * self.max_symbols < len(tokens):
            needed = -(-len(tokens) // self.max_symbols)
            raise UserError(
                f"The {len(tokens)} tokens of {name} need {needed} frames and its audio gives {len(rows)}: "
                "check that the text belongs to the audio."
            )
        if len(rows) * len(tokens) > MOST_CELLS:
            raise UserError(
                f"{name} has {len(rows)} frames and {len(tokens)} tokens, too many for a transducer to align "
                "at once: cut it into pieces of some minutes, or align with a run of task=ctc."
            )
        said = torch.tensor([tokens], device=self.transducer.device) + 1
        lattice = self.transducer.lattice(self._padded([rows])[0], said)[0]
        places = best_path(*lattice.cpu().double().clamp(min=LEAST).numpy().transpose(2, 0, 1))
        scores = lattice[..., 1].cpu()
        return [TokenSpan(t, t + 1, float(scores[t, u])) for u, t in enumerate(places)]

    @torch.inference_mode()
    def silence(self, rows: Rows) -> np.ndarray:
        """Of the blank, as if nothing had been said before."""
        start = self.transducer.predictor.step(
            torch.zeros(1, dtype=torch.int64, device=self.transducer.device), None
        )[0]
        return self.transducer.joiner(self._padded([rows])[0][0], start)[:, BLANK].cpu().numpy()

    def _padded(self, utterances: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """Frames `(B, T, width)` and their lengths, where predictor and joiner are."""
        device = self.transducer.device
        frames = pad_sequence([torch.as_tensor(rows) for rows in utterances], batch_first=True).to(device)
        return frames, torch.tensor([len(rows) for rows in utterances], device=device)


class TransducerGreedy(TransducerDecoder):
    """The best output again and again: a token, or the blank, with which the next frame comes."""

    def __init__(self, tokenizer: Tokenizer, transducer: TransducerModel, max_symbols: int) -> None:
        self.tokenizer, self.transducer, self.max_symbols = tokenizer, transducer, max_symbols

    def __call__(self, rows: Rows) -> list[Hypothesis]:
        return self.many([rows])[0]

    def score_of(self, rows: Rows, tokens: Sequence[int]) -> Hypothesis:
        return self._hypothesis(tokens, self.acoustics(rows, [tokens])[0])

    def scores_of(self, utterances: Sequence[Rows], sequences: Sequence[Sequence[int]]) -> list[Hypothesis]:
        scored = zip(sequences, self.all_acoustics(utterances, sequences), strict=True)
        return [self._hypothesis(*pair) for pair in scored]

    def _hypothesis(self, tokens: Sequence[int], acoustic: float) -> Hypothesis:
        return Hypothesis(tuple(tokens), self.tokenizer.decode(tokens), acoustic, acoustic)

    @torch.inference_mode()
    def many(self, utterances: Sequence[Rows]) -> list[list[Hypothesis]]:
        """Of several at once, frame by frame."""
        refuse_nan(utterances)
        said = self._said(utterances) if utterances else []
        scored = zip(said, self.all_acoustics(utterances, said), strict=True)
        return [[self._hypothesis(*pair)] for pair in scored]

    def _said(self, utterances: Sequence[Rows]) -> list[list[int]]:
        said: list[list[int]] = [[] for _ in utterances]
        frames, lengths = self._padded(utterances)
        carried = self.begin(len(utterances))
        for t in range(frames.shape[1]):
            rows = (lengths > t).nonzero()[:, 0]
            carried, found = self.hear(frames[rows, t], rows, carried)
            for row, output, _ in found:
                said[row].append(output - 1)
        return said

    def begin(self, utterances: int) -> Carried:
        """What the predictor says, and its state, before the first token."""
        nothing = torch.zeros(utterances, dtype=torch.int64, device=self.transducer.device)
        return self.transducer.predictor.step(nothing, None)

    def hear(
        self, frames: Tensor, rows: Tensor, carried: Carried
    ) -> tuple[Carried, list[tuple[int, int, float]]]:
        """A frame `(N, width)` of each of these utterances -> what is carried on, and what is said in it:
        utterance, output and log-probability of each token."""
        predicted, state = carried
        said: list[tuple[int, int, float]] = []
        for _ in range(self.max_symbols):
            scores, found = self.transducer.joiner(frames, predicted[rows]).max(-1)
            token = found != BLANK
            frames, rows, scores, found = frames[token], rows[token], scores[token], found[token]
            if not len(rows):
                break
            said += zip(rows.tolist(), found.tolist(), scores.tolist(), strict=True)
            new, after = self.transducer.predictor.step(found, tuple(part[rows] for part in state))
            predicted = predicted.index_copy(0, rows, new)
            state = tuple(old.index_copy(0, rows, part) for old, part in zip(state, after, strict=True))
        return (predicted, state), said

    def stream(self) -> TokenStream:
        return _GreedyStream(self)


class _GreedyStream(TokenStream):
    """What the greedy decoder says of one utterance, frame by frame."""

    def __init__(self, decoder: TransducerGreedy) -> None:
        super().__init__()
        self.decoder = decoder
        with torch.inference_mode():
            self.carried = decoder.begin(1)
        self.only = self.carried[0].new_zeros(1, dtype=torch.int64)

    @torch.inference_mode()
    def push(self, rows: Rows) -> None:
        refuse_nan([rows])
        for frame in torch.as_tensor(rows).to(self.only.device):
            self.carried, said = self.decoder.hear(frame[None], self.only, self.carried)
            for _, output, score in said:
                self.tokens.append(output - 1)
                self.spans.append(TokenSpan(self.frames, self.frames + 1, score))
            self.frames += 1


class TransducerBeam(TransducerDecoder, TransducerSearch):
    """`TransducerSearch` by torch."""

    def __init__(
        self, tokenizer: Tokenizer, transducer: TransducerModel, max_symbols: int, **options: Any
    ) -> None:
        super().__init__(tokenizer, max_symbols, **options)
        self.transducer = transducer

    @torch.inference_mode()
    def search(self, utterances: Sequence[Rows]) -> list[Totals]:
        return super().search(utterances)

    def frames(self, utterances: Sequence[Rows]) -> Iterator[tuple[list[int], Tensor]]:
        frames, lengths = self._padded(utterances)
        for t in range(frames.shape[1]):
            heard = (lengths > t).nonzero()[:, 0]
            yield heard.tolist(), frames[heard, t]

    def joined(self, frames: Tensor, owners: Sequence[int], predicted: Sequence[Tensor]) -> np.ndarray:
        own = frames[torch.tensor(owners, device=frames.device)]
        return self.transducer.joiner(own, torch.stack([*predicted])).cpu().numpy()

    def predict(self, outputs: Sequence[int], states: Sequence[Any]) -> list[tuple[Tensor, Any]]:
        last = torch.tensor(outputs, device=self.transducer.device)
        state = tuple(torch.cat(parts) for parts in zip(*states, strict=True)) if states else None
        predicted, after = self.transducer.predictor.step(last, state)
        own = zip(*(part.split(1) for part in after), strict=True)
        return [*zip(predicted.unbind(), own, strict=True)]
