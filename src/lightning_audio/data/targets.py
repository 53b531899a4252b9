"""What a network is to answer for a clip, as numbers. A task names the encoding that its loss needs."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_audio.data.clip import SPLITS, Clip
from lightning_audio.data.clip_table import ClipTable, Column
from lightning_audio.data.token_rows import EncodedTexts, TokenRows
from lightning_audio.errors import UserError, listed
from lightning_audio.text.normalizer import Normalizer
from lightning_audio.text.numbers import UnreadableNumber
from lightning_audio.text.tokenizers import REFUSED, fit_tokenizer, tokenizer_of

PAD = -1  # behind the tokens of the shorter transcripts of a batch
BLANK = 0  # the output that stands for no token
MEND_TEXT = "mend or leave out their rows, or widen task.text.tokenizer.alphabet"


class Targets(ABC):
    """An encoding of what is known of clips.

    Args:
        labels: those of the corpus, in the order of the outputs.
        clips: all of them; a vocabulary is learned from those of the training split.
    """

    def __init__(self, labels: Sequence[str], clips: Sequence[Clip] = ()) -> None:
        self.labels = tuple(labels)
        self.index = {label: number for number, label in enumerate(self.labels)}

    @classmethod
    def options(cls, task: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
        """What it takes beside, of the options of the task and of the facts that a checkpoint holds."""
        return {}

    @classmethod
    def outputs_for(cls, labels: Sequence[str]) -> int:
        """How many outputs a network needs for these labels."""
        return len(labels)

    @property
    def num_outputs(self) -> int:
        return self.outputs_for(self.labels)

    def unfit(self, clips: Iterable[Clip]) -> dict[str, str]:
        """Why clips can't be learned or scored, as clauses by their ids; `encode` refuses them."""
        return {}

    @abstractmethod
    def encode(self, clips: Sequence[Clip]) -> Any:
        """Targets of the clips, as `gather` takes them; raises UserError for a clip that they do not fit."""

    def gather(self, encoded: Any, positions: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Those at the positions as a batch, and where they differ in length, their lengths `(B,)`."""
        return encoded[positions], None

    def facts(self) -> dict[str, Any]:
        """What a checkpoint has to hold of it."""
        return {"labels": list(self.labels)}

    def describe(self) -> str:
        return f"{len(self.labels)} labels"


class ClassIndex(Targets):
    """One label of N as its index: a batch has `(B,)` int64.

    Raises:
        UserError: there is one label alone, or one is asked for that no training clip has.
    """

    def __init__(self, labels: Sequence[str], clips: Sequence[Clip] = ()) -> None:
        super().__init__(labels, clips)
        if clips and len(self.labels) == 1:
            raise UserError(
                f"All clips have one label, {self.labels[0]!r}: a choice takes two, so add clips of another "
                "one, or learn whether it is there with task=multilabel, from clips with and without it."
            )
        refuse_untaught(clips)

    def encode(self, clips: Sequence[Clip]) -> Tensor:
        """In few bytes each; raises UserError for a clip without exactly one known label."""
        index: dict[tuple[str, ...], int] = {(label,): number for label, number in self.index.items()}
        column, kind = ClipTable.of(clips).column("labels"), np.int16 if len(index) < 2**15 else np.int64
        numbers = column.mapped(lambda labels: index.get(labels, -1), kind)
        if len(unknown := np.flatnonzero(numbers < 0)):
            clip = clips[int(unknown[0])]
            several = ", or set task=multilabel" if len(clip.labels) > 1 else ""
            raise UserError(
                f"Clip {clip.id!r} has the labels {list(clip.labels)}, but this task takes exactly one "
                f"of the {len(self.labels)} labels of the corpus: mend its row{several}."
            )
        return torch.from_numpy(numbers)

    def gather(self, encoded: Tensor, positions: Sequence[int]) -> tuple[Tensor, None]:
        return encoded[positions].long(), None


class MultiHot(Targets):
    """Any number of labels, also none: `encode` gives `(B, C)` float32, 1 where a clip has the label.

    Raises:
        UserError: a label is asked for that no training clip has.
    """

    def __init__(self, labels: Sequence[str], clips: Sequence[Clip] = ()) -> None:
        super().__init__(labels, clips)
        refuse_untaught(clips)

    def encode(self, clips: Sequence[Clip]) -> Tensor:
        """Raises UserError for a clip with an unknown label."""
        column = ClipTable.of(clips).column("labels")
        known = column.mapped(lambda labels: self.index.keys() >= set(labels or ()), bool)
        if len(unknown := np.flatnonzero(~known)):
            clip = clips[int(unknown[0])]
            label = min(set(clip.labels) - self.index.keys())
            raise UserError(
                f"Clip {clip.id!r} has the label {label!r}, which is none of the {len(self.labels)} labels "
                "of the corpus: mend its row."
            )
        rows = np.zeros((len(clips), self.num_outputs), np.float32)
        places = column.mapped(lambda labels: [self.index[label] for label in labels or ()], object)
        for row, numbers in zip(rows, places, strict=True):
            row[numbers] = 1
        return torch.from_numpy(rows)


class Tokens(Targets):
    """Transcripts as tokens for CTC: `gather` gives `(B, U)` int64 of outputs 1 to V, PAD behind each; 0 is
    the blank, which stands in no vocabulary.

    Args:
        labels: of the corpus, which are not used.
        clips: whose training transcripts the vocabulary is learned from.
        text: options of `Normalizer`, and those of `fit_tokenizer` under `tokenizer`.
        vocabulary: the state of a tokenizer that is known already.
        scored_as: of the corpus; see `Corpus`.

    Raises:
        UserError: there are no transcripts, an option does not fit, or a word is scored as nothing known.
    """

    def __init__(
        self,
        labels: Sequence[str],
        clips: Sequence[Clip],
        text: Mapping[str, Any],
        vocabulary: Mapping[str, Any] | None = None,
        scored_as: Mapping[str, str] | None = None,
    ) -> None:
        self.normalizer, self.scored_as = normalizer_of(text), dict(scored_as or {})
        if vocabulary:
            self.tokenizer = tokenizer_of(dict(vocabulary))
        else:
            self.tokenizer = fit_tokenizer(self._learned_from(clips), **(text.get("tokenizer") or {}))
        self.texts = EncodedTexts(self.normalizer, self.tokenizer)
        super().__init__(self.tokenizer.vocabulary)

    @classmethod
    def options(cls, task: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
        return {"text": task["text"], **{name: facts.get(name) for name in ("vocabulary", "scored_as")}}

    @classmethod
    def outputs_for(cls, labels: Sequence[str]) -> int:
        return len(labels) + 1

    def _learned_from(self, clips: Sequence[Clip]) -> Iterator[str]:
        """The training transcripts, normalised; those are left out that are `unfit` for a number."""
        table = ClipTable.of(clips)
        said = self._normalized(table.column("text").take(table.column("split").equals("train")))
        if (first := next(said, None)) is None:
            raise UserError(
                "The training clips have no transcripts: give each row a `text`, or choose a task for "
                "labels, such as task=classification."
            )
        said = chain([first], said)
        if self.scored_as:
            said, known = iter(texts := [*said]), self.scored_as.keys()
            if unknown := set(" ".join(texts).split()) - known:
                raise UserError(
                    f"{min(unknown)!r} is in transcripts and not in the map by which this corpus is scored: "
                    "keep its words as they are with task.text.steps=[spaces]."
                )
        return said

    def _normalized(self, texts: Column) -> Iterator[str]:
        """Each text as often as it is there."""
        used = texts.used()
        times = np.bincount(texts.codes[~texts.lacks()], minlength=len(texts.values))[used]
        for text, count in zip(Column(texts.values, used), times.tolist(), strict=True):
            if text:
                with contextlib.suppress(UnreadableNumber):
                    yield from repeat(self.normalizer(text), count)

    def unfit(self, clips: Iterable[Clip]) -> dict[str, str]:
        """Clips without a transcript, with a number that has no words, or a character of no vocabulary."""
        table = ClipTable.of(clips)
        counts = self.texts.counts(table.column("text"))
        # In a test, silence may be right.
        unfit = (counts == REFUSED) | ((counts == 0) & ~table.column("split").equals("test"))
        return {clip.id: self._why_unfit(clip.text) for clip in table.take(unfit)} if unfit.any() else {}

    def _why_unfit(self, text: str | None) -> str:
        if not text:
            return "it has no text"
        return self.texts.refused.get(text, f"its text {text!r} is empty")

    def encode(self, clips: Sequence[Clip]) -> TokenRows:
        """Raises UserError that names the clips that are `unfit`."""
        table = ClipTable.of(clips)
        if bad := self.unfit(table):
            raise UserError(f"{describe_unfit(bad)}: {MEND_TEXT}.")
        return self.texts.rows(table.column("text"))

    def gather(self, encoded: TokenRows, positions: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        return encoded.padded(positions, PAD)

    def facts(self) -> dict[str, Any]:
        scored_as = {"scored_as": self.scored_as} if self.scored_as else {}
        return {**super().facts(), "vocabulary": self.tokenizer.state(), **scored_as}

    def describe(self) -> str:
        return f"{len(self.labels)} tokens"


def refuse_untaught(clips: Sequence[Clip]) -> None:
    """Raises UserError where validation or test asks for a label that no training clip has."""
    found = ClipTable.of(clips).combinations("split", "labels")
    labels = {split: {label for side, those in found if side == split for label in those} for split in SPLITS}
    for split in ("test", "val"):
        if labels["train"] and (untaught := sorted(labels[split] - labels["train"])):
            raise UserError(
                f"The label {untaught[0]!r} stands in {split}, but not in train ({len(untaught)} such "
                "labels): give train clips of it, or leave it out."
            )


def describe_unfit(reasons: Mapping[str, str]) -> str:
    """How many transcripts, and why, the first of them by their ids."""
    shown = listed([f"{name}: {reason}" for name, reason in reasons.items()])
    return f"{len(reasons)} transcripts can't be learned or scored ({shown})"


def normalizer_of(text: Mapping[str, Any]) -> Normalizer:
    """The normaliser of the options under `task.text`."""
    return Normalizer(**{name: value for name, value in text.items() if name != "tokenizer"})
