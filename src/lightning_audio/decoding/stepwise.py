"""Decoders of transducers and of attention that ask for one step after another, without torch.

What they ask are functions of arrays, such as the parts of an exported file are; what they find is what
`TransducerGreedy`, `TransducerBeam` and `AttentionBeam` find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_audio.decoding.alignment import Rows, TokenSpan, best_path
from lightning_audio.decoding.attention_search import END, START, AttentionSearch, log_softmax
from lightning_audio.decoding.hypothesis import Decoder, Hypothesis, TokenStream, refuse_nan
from lightning_audio.decoding.transducer_search import TransducerSearch
from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import Tokenizer

BLANK = 0
AHEAD = 64  # frames that are joined with one prediction at once

Arrays = list[np.ndarray]
Step = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class StepTransducer(Decoder):
    """A transducer; rows are frames `(T, width)`.

    Args:
        predictor: the last outputs `(1,)` and its state, which at the start are the `start` -> `(1, width)`,
            state.
        joiner: frames `(N, width)`, a prediction `(1, width)` -> log-probabilities `(N, C)`.
        max_symbols: the most tokens in one frame.
    """

    tokenizer: Tokenizer
    predictor: Step
    joiner: Step
    start: tuple[np.ndarray, ...]
    max_symbols: int

    def __call__(self, rows: Rows) -> list[Hypothesis]:
        said = self.stream()
        said.push(rows)
        return [self.score_of(rows, said.tokens)]

    def score_of(self, rows: Rows, tokens: Sequence[int]) -> Hypothesis:
        acoustic = self.acoustic(np.asarray(rows), tokens)
        return Hypothesis(tuple(tokens), self.tokenizer.decode(tokens), acoustic, acoustic)

    def predicted(self, output: int, state: Sequence[np.ndarray]) -> tuple[np.ndarray, Arrays]:
        """The prediction `(1, width)` behind an output, and the state."""
        predicted, *after = self.predictor([np.array([output]), *state])
        return predicted, after

    def stream(self) -> TokenStream:
        return _StepStream(self)

    def _lattice(self, rows: np.ndarray, tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities `(T, U + 1)` of the blank and of the token that is next."""
        blank, token = np.zeros((2, len(rows), len(tokens) + 1))
        predicted, state = self.predicted(BLANK, self.start)
        for u, following in enumerate([*tokens, None]):
            joined = self.joiner([rows, predicted])[0]
            blank[:, u] = joined[:, BLANK]
            if following is not None:
                token[:, u] = joined[:, following + 1]
                predicted, state = self.predicted(following + 1, state)
        return blank, token

    def acoustic(self, rows: np.ndarray, tokens: Sequence[int]) -> float:
        """Over all alignments, a token at a time: its sums over the frames in which it may come out."""
        if not len(rows):
            return -np.inf if tokens else 0.0
        blank, token = self._lattice(rows, tokens)
        waits = np.concatenate([np.zeros((1, blank.shape[1])), blank[:-1].cumsum(0)])
        reached = waits[:, 0]  # by all paths that say so many tokens up to a frame, its blank left out
        for u in range(len(tokens)):
            entered = reached + token[:, u] - waits[:, u + 1]
            reached = np.logaddexp.accumulate(entered) + waits[:, u + 1]
        return float(reached[-1] + blank[-1, -1])

    def token_frames(self, rows: Rows, tokens: Sequence[int], name: str) -> list[TokenSpan]:
        """The frames in which the tokens come out on the best path through the lattice."""
        if not tokens:
            return []
        if len(rows) * self.max_symbols < len(tokens):
            raise UserError(f"{name} has {len(rows)} frames, too few for {len(tokens)} tokens.")
        blank, token = self._lattice(np.asarray(rows), tokens)
        places = best_path(blank, token)
        return [TokenSpan(t, t + 1, float(token[t, u])) for u, t in enumerate(places)]

    def silence(self, rows: Rows) -> np.ndarray:
        predicted, _ = self.predicted(BLANK, self.start)
        return self.joiner([np.asarray(rows), predicted])[0][:, BLANK]


class _StepStream(TokenStream):
    """What a transducer says greedily: frames are joined several at a time, up to the first with a token."""

    def __init__(self, decoder: StepTransducer) -> None:
        super().__init__()
        self.decoder = decoder
        self.predicted, self.state = decoder.predicted(BLANK, decoder.start)

    def push(self, rows: Rows) -> None:
        refuse_nan([rows])
        rows = np.asarray(rows)
        t = symbols = 0
        while t < len(rows):
            joined = self.decoder.joiner([rows[t : t + AHEAD], self.predicted])[0]
            outputs = joined.argmax(1)
            blanks = int((outputs != BLANK).argmax()) if outputs.any() else len(outputs)
            if blanks:
                t, symbols = t + blanks, 0
            if blanks == len(outputs):
                continue
            output, frame = int(outputs[blanks]), self.frames + t
            self.tokens.append(output - 1)
            self.spans.append(TokenSpan(frame, frame + 1, float(joined[blanks, output])))
            self.predicted, self.state = self.decoder.predicted(output, self.state)
            symbols += 1
            if symbols == self.decoder.max_symbols:
                t, symbols = t + 1, 0
        self.frames += len(rows)


class StepTransducerBeam(TransducerSearch):
    """`TransducerSearch` by what a `StepTransducer` asks."""

    def __init__(self, steps: StepTransducer, **options: Any) -> None:
        super().__init__(steps.tokenizer, steps.max_symbols, **options)
        self.steps = steps

    def frames(self, utterances: Sequence[Rows]) -> Iterator[tuple[list[int], np.ndarray]]:
        frames = [np.asarray(rows) for rows in utterances]
        for t in range(max(map(len, frames))):
            heard = [i for i, own in enumerate(frames) if len(own) > t]
            yield heard, np.stack([frames[i][t] for i in heard])

    def joined(
        self, frames: np.ndarray, owners: Sequence[int], predicted: Sequence[np.ndarray]
    ) -> np.ndarray:
        # A joiner adds the two up: predictions, many for a frame, take the place of frames.
        of_frame = np.bincount(owners, minlength=len(frames)).cumsum()[:-1]
        parts = zip(np.split(np.concatenate(predicted), of_frame), frames, strict=True)
        return np.concatenate([self.steps.joiner([own, frame[None]])[0] for own, frame in parts if len(own)])

    def predict(self, outputs: Sequence[int], states: Sequence[Any]) -> list[tuple[np.ndarray, Arrays]]:
        before = states or [self.steps.start] * len(outputs)
        return [self.steps.predicted(*pair) for pair in zip(outputs, before, strict=True)]

    def acoustics(self, rows: Rows, sequences: Sequence[Sequence[int]]) -> list[float]:
        return [self.steps.acoustic(np.asarray(rows), tokens) for tokens in sequences]

    def token_frames(self, rows: Rows, tokens: Sequence[int], name: str) -> list[TokenSpan]:
        return self.steps.token_frames(rows, tokens, name)

    def silence(self, rows: Rows) -> np.ndarray:
        return self.steps.silence(rows)


class StepAttention(AttentionSearch):
    """`AttentionSearch` by functions of arrays, an utterance at a time.

    Args:
        begin: states `(1, T, D)` -> what is remembered of the utterance, then what of the tokens before.
        step: the last outputs `(N,)` and both -> logits `(N, C)`, what was attended to `(N, T)`, what is
            remembered now.
        fixed: how many arrays are remembered of the utterance.
        options: those of `AttentionSearch`.
    """

    together = 1

    def __init__(self, *args: Any, begin: Step, step: Step, fixed: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._begin, self._step, self.fixed = begin, step, fixed

    def begin(self, utterances: Sequence[Rows], of: np.ndarray) -> tuple[Arrays, Arrays]:
        (rows,) = utterances
        states = np.asarray(rows, np.float32)[None, :, self.outputs * self.with_ctc :]
        known = self._begin([states])
        return known[: self.fixed], [part.repeat(len(of), 0) for part in known[self.fixed :]]

    def step(self, last: np.ndarray, known: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        memory, state = known
        logits, attended, *state = self._step([last, *memory, *state])
        return logits, attended, (memory, state)

    def taken(self, known: Any, rows: np.ndarray) -> Any:
        memory, state = known
        return memory, [part[rows] for part in state]

    def attended(
        self, utterances: Sequence[Rows], owners: Sequence[int], sequences: Sequence[Sequence[int]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        refuse_nan(utterances)
        return [self._follow(utterances[i], one) for i, one in zip(owners, sequences, strict=True)]

    def _follow(self, rows: Rows, tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        known = self.begin([rows], np.zeros(1, np.int64))
        outputs, scores, attended = [*(token + 1 for token in tokens), END], [], []
        for last, output in zip([START, *outputs[:-1]], outputs, strict=True):
            logits, weights, known = self.step(np.array([last]), known)
            scores.append(log_softmax(logits)[0, output])
            attended.append(weights[0])
        return np.array(scores), np.stack(attended)
