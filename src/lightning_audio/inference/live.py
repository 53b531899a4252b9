"""Speech that comes in pieces: the words of the whole as it goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from lightning_audio.decoding import Decoder
from lightning_audio.decoding.alignment import TimedText, timed_words, words_of
from lightning_audio.inference.transcribe import as_scored, scored_as
from lightning_audio.text.tokenizers import WORD_START, Tokenizer

SPACES = f" {WORD_START}"
PAUSE = 0.5  # seconds without a token behind which a word has ended


class SpeechTask(Protocol):
    """What is asked of a task here, or of one that was exported; see tasks/transcription.py."""

    sample_rate: int
    tokenizer: Tokenizer
    decoder: Decoder


@dataclass(frozen=True)
class LiveWord:
    """A word of a stream when so many seconds of it had come: `final`, or begun and perhaps not whole.

    `joins`: it goes on with the word before it, which a pause had ended, without a space.
    """

    heard: float
    final: bool
    word: TimedText
    joins: bool = False


def stream_of(task: Any) -> Any:
    """What hears a stream: of a task, or of an exported file, for which torch is not imported."""
    if own := getattr(task, "stream", None):
        return own()
    from lightning_audio.inference.stream import Stream

    return Stream(task)


class LiveText:
    """The words of a recording that is pushed in pieces of any size: those of the whole at once.

    Tokens are not taken back. A word is final when the next one begins, when no token has come for `pause`
    seconds, or when the recording ends; at once where each token is a word.

    Args:
        task: is put into eval mode; its decoder takes the best path.
        pause: in seconds.

    Raises:
        UserError: a part of the task, or its decoder, needs the whole recording.
    """

    def __init__(self, task: SpeechTask, pause: float = PAUSE) -> None:
        self.task, self.pause, self.stream = task, pause, stream_of(task)
        self._start()

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> list[LiveWord]:
        """The next samples, as `Stream.push` takes them -> what became known with them, in order: words that
        are final, and then the word that is begun if it has grown."""
        rows = self.stream.push(samples, sample_rate)
        self._samples += len(samples)
        return self._news(rows, ended=False) if len(rows) else []

    def finish(self) -> list[LiveWord]:
        """What waited for more; what is pushed then begins another recording."""
        news = self._news(self.stream.finish(), ended=True)
        self._start()
        return news

    def _start(self) -> None:
        self._said = self.task.decoder.stream()
        self._samples, self._told, self._begun = 0, 0, ""

    def _news(self, rows: Any, ended: bool) -> list[LiveWord]:
        said, seconds = self._said, self.stream.frame_seconds
        said.push(np.asarray(rows))
        # Those that were told stay for the times of their neighbours, and are not continued.
        before = words_of(said.tokens[: self._told], self.task.tokenizer)
        words = [
            [(self._told + place, text) for place, text in word]
            for word in words_of(said.tokens[self._told :], self.task.tokenizer)
        ]
        if not words:
            return []
        times = timed_words([*before, *words], said.spans, said.frames, seconds)[len(before) :]
        heard, spellings = self._samples / self.task.sample_rate, self.task.tokenizer.vocabulary
        waited = (said.frames - said.spans[-1].end) * seconds
        # With a space in front of every token none goes on with a word.
        open_word = not ended and waited < self.pause and spellings[said.tokens[-1]].strip(SPACES)
        open_word = open_word and not all(spelling.startswith(tuple(SPACES)) for spelling in spellings)
        closed = len(words) - bool(open_word)
        joins = bool(before) and not (
            spellings[said.tokens[self._told - 1]][-1] in SPACES
            or spellings[said.tokens[self._told]][0] in SPACES
        )
        news = [LiveWord(heard, True, one, joins and i == 0) for i, one in enumerate(times[:closed])]
        if closed:
            self._told = words[closed][0][0] if closed < len(words) else len(said.tokens)
            kept = words[closed - 1][0][0]
            said.forget(kept)
            self._told, self._begun = self._told - kept, ""
        if closed < len(words) and times[-1].text != self._begun:
            self._begun = times[-1].text
            news.append(LiveWord(heard, False, times[-1], joins and closed == 0))
        known = scored_as(self.task)
        return [replace(one, word=word) for one in news for word in as_scored([one.word], known)]
