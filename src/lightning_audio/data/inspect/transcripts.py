"""What the transcripts of a corpus hold, and what about them would spoil a training or its score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from lightning_audio.data.clip import SPLITS, Clip
from lightning_audio.data.inspect.findings import Finding
from lightning_audio.errors import counted

FASTEST = 25.0  # characters, or phones, a second; who reads fast says about 20


class Transcripts:
    """Counts of the transcripts of each split, and findings.

    Args:
        clips: of the corpus, each with its split.
        normalise: text as written to text as it is learned.
        seconds: the duration of each clip that can be read, by its id.
        unfit: why clips can't be learned or scored, by their ids.
        name: says which clip is meant.
        unit: `characters`, or `phones` where each word is one.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        normalise: Callable[[str], str],
        seconds: Mapping[str, float],
        unfit: Mapping[str, str],
        name: Callable[[Clip], str],
        unit: str = "characters",
    ) -> None:
        self.unit = unit
        self.clips = [clip for clip in clips if clip.split]
        self.seconds, self.unfit, self.name = seconds, unfit, name
        self.texts = {clip.id: normalise(clip.text or "") for clip in self.clips}
        self.of_split = {split: [c for c in self.clips if c.split == split] for split in SPLITS}
        self.known = {character for clip in self.of_split["train"] for character in self.texts[clip.id]}

    def counts(self) -> dict[str, dict[str, float | str]]:
        """By split: utterances, words, different words, characters (spaces too), those that no training
        transcript has, seconds, and speakers or other groups."""
        rows: dict[str, dict[str, float | str]] = {}
        for split, clips in self.of_split.items():
            said = [self.texts[clip.id] for clip in clips]
            words = Counter(word for text in said for word in text.split())
            if clips:
                rows[split] = {
                    "utterances": len(clips),
                    "words": words.total(),
                    "different words": len(words),
                    "characters": sum(map(len, said)),
                    "unknown characters": "".join(sorted(set("".join(said)) - self.known)),
                    "seconds": round(sum(self.seconds.get(clip.id, 0.0) for clip in clips), 1),
                    "groups": len({clip.group for clip in clips} - {None}),
                }
        return rows

    def findings(self) -> Iterator[Finding]:
        """The grave ones first."""
        for split, clips in self.of_split.items():
            if clips and not any(self.texts[clip.id].split() for clip in clips):
                text = f"No {split} transcript has a word, so that there is nothing to learn or to score."
                yield Finding(f"no_words_in_{split}", True, text)
        bad = [clip for clip in self.clips if clip.id in self.unfit]
        if bad:
            items = tuple(f"{self.name(clip)} ({clip.split}): {self.unfit[clip.id]}" for clip in bad)
            text = (
                f"{counted(len(bad), 'transcripts')} can't be learned or scored: training leaves them out "
                "and a test counts them as wrong, up to loader.max_bad_fraction of all; more refuse the run."
            )
            yield Finding("unscorable", True, text, items)
        spelled = {name: text.split() if self.unit == "phones" else text for name, text in self.texts.items()}
        rates = {
            clip.id: len(spelled[clip.id]) / self.seconds[clip.id]
            for clip in self.clips
            if self.seconds.get(clip.id)
        }
        fast = [clip for clip in self.clips if rates.get(clip.id, 0.0) > FASTEST]
        if fast:
            items = tuple(f"{self.name(clip)}: {rates[clip.id]:.0f} a second" for clip in fast)
            text = (
                f"{counted(len(fast), 'transcripts are')} too long for the audio (more than {FASTEST:g} "
                f"{self.unit} a second): is that cut, or the text that of another clip?"
            )
            yield Finding("fast_text", False, text, items)
        learned = {self.texts[clip.id] for clip in self.of_split["train"]} - {""}
        for split in ("test", "val"):
            again = [clip for clip in self.of_split[split] if self.texts[clip.id] in learned]
            if again:
                items = tuple(f"{self.name(clip)}: {self.texts[clip.id][:60]}" for clip in again)
                text = (
                    f"{len(again)} of {len(self.of_split[split])} {split} transcripts stand in training, "
                    "too, word for word: the score says less of new sentences."
                )
                yield Finding(f"text_of_training_in_{split}", False, text, items)
