"""TokenRows: the tokens of many transcripts, a few bytes each and every different text once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from lightning_audio.data.clip_table import CHUNK, NONE, Column
from lightning_audio.text.normalizer import Normalizer
from lightning_audio.text.numbers import UnreadableNumber
from lightning_audio.text.tokenizers import REFUSED, Tokenizer, UnknownCharacter

UNMET = -2  # in the place of the number of a text: it is not encoded yet


class TokenRows(Sequence[Tensor]):
    """The tokens of many clips in few bytes; each is `(U,)` int64 to whoever asks for it.

    Args:
        tokens: of texts, one behind the other.
        ends: `(T + 1,)`, where each text begins and the last one ends.
        texts: `(N,)`, which of the texts each clip has.
    """

    def __init__(self, tokens: np.ndarray, ends: np.ndarray, texts: np.ndarray) -> None:
        self.tokens, self.ends, self.texts = tokens, ends, texts

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, row: int) -> Tensor: ...
    @overload
    def __getitem__(self, row: slice) -> TokenRows: ...
    def __getitem__(self, row: int | slice) -> Tensor | TokenRows:
        if isinstance(row, slice):
            return TokenRows(self.tokens, self.ends, self.texts[row])
        text = self.texts[row]
        return torch.from_numpy(self.tokens[self.ends[text] : self.ends[text + 1]].astype(np.int64))

    def counts(self) -> np.ndarray:
        """How many tokens each clip has, `(N,)`."""
        return self.ends[self.texts + np.int64(1)] - self.ends[self.texts]

    def repeats(self) -> np.ndarray:
        """How many tokens of each clip are like the one before them, `(N,)`."""
        found = np.zeros(len(self.ends) - 1, np.int32)
        for first in range(0, len(found), CHUNK):
            ends = self.ends[first : first + CHUNK + 1]
            part, places = self.tokens[ends[0] : ends[-1]], ends - ends[0]
            until = np.zeros(len(part) + 2, np.int32)  # how many there are before each place
            np.cumsum(part[1:] == part[:-1], out=until[2 : len(part) + 1])
            starts, stops = places[:-1], places[1:]
            found[first : first + CHUNK] = np.where(stops > starts, until[stops] - until[starts + 1], 0)
        return found[self.texts]

    def padded(self, positions: Sequence[int], padding: int) -> tuple[Tensor, Tensor]:
        """Those at the positions, `(B, U)` int64 with padding behind each, and their lengths `(B,)`."""
        texts = self.texts[positions].astype(np.int64)
        starts, counts = self.ends[texts], self.ends[texts + 1] - self.ends[texts]
        places = np.arange(counts.max(initial=0))
        inside = places < counts[:, None]
        rows = np.full(inside.shape, padding, np.int64)
        rows[inside] = self.tokens[(starts[:, None] + places)[inside]]
        return torch.from_numpy(rows), torch.from_numpy(counts)


class EncodedTexts:
    """Different texts of a column of clips as tokens from 1 on; each is encoded once, when it is met.

    Attributes:
        refused: why texts have no tokens.
    """

    def __init__(self, normalizer: Normalizer, tokenizer: Tokenizer) -> None:
        self.normalizer, self.tokenizer = normalizer, tokenizer
        self._begin([])

    def _begin(self, values: Sequence[str]) -> None:
        self.values, self.refused = values, dict[str, str]()
        self.tokens = np.zeros(0, np.min_scalar_type(len(self.tokenizer.vocabulary)))
        self.ends = np.zeros(1, np.int64)
        # Which of those that were encoded each value is; the last place is that of None.
        self.places = np.full(len(values) + 1, UNMET, np.int32)
        self.places[NONE] = REFUSED

    def counts(self, texts: Column) -> np.ndarray:
        """How many tokens each row has, `(N,)`; REFUSED for one that has none."""
        if texts.values is not self.values:
            self._begin(texts.values)
        used = texts.used()
        self._encode(used[self.places[used] == UNMET])
        return np.append(np.diff(self.ends), REFUSED)[self.places[texts.codes]]

    def rows(self, texts: Column) -> TokenRows:
        """The tokens of rows of which `counts` has found that they have some."""
        return TokenRows(self.tokens, self.ends, self.places[texts.codes])

    def _encode(self, codes: np.ndarray) -> None:
        if not len(codes):
            return
        tokens, found = bytearray(self.tokens.data), []
        for start in range(0, len(codes), CHUNK):
            ids, counts = self._ids(Column(self.values, codes[start : start + CHUNK]).at(slice(None)))
            tokens.extend((ids + 1).astype(self.tokens.dtype).data)
            found.append(counts)
        counts = np.concatenate(found)
        fit = counts != REFUSED
        self.places[codes] = REFUSED
        self.places[codes[fit]] = np.arange(fit.sum()) + len(self.ends) - 1
        self.tokens = np.frombuffer(tokens, self.tokens.dtype)
        self.ends = np.append(self.ends, self.ends[-1] + np.cumsum(counts[fit]))

    def _ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_all` of the tokenizer gives them, for texts as they are written."""
        normal, unreadable = [], []
        for row, text in enumerate(texts):
            try:
                normal.append(self.normalizer(text))
            except UnreadableNumber as error:
                self.refused[text] = error.reason
                normal.append("")
                unreadable.append(row)
        ids, counts = self.tokenizer.encode_all(normal)
        for row in np.flatnonzero(counts == REFUSED).tolist():
            try:
                self.tokenizer.encode(normal[row])
            except UnknownCharacter as error:
                self.refused[texts[row]] = f"{error.named} of {normal[row][:60]!r} is in no training text"
        counts[unreadable] = REFUSED
        return ids, counts
