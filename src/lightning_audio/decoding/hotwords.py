"""Words that a beam search favours, such as names: a tree of their spellings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import WORD_START, Tokenizer

SHOWN = 5  # words in one error


@dataclass(slots=True)
class _Node:
    """The beginning of a word, or the whole of one; `value` is what it has been given by then."""

    value: float = 0.0
    whole: bool = True
    following: dict[str, _Node] = field(default_factory=dict)


State = _Node | None  # None within a word that is none of them


class Hotwords:
    """Each of these words gains `boost`, in parts while it is spelled; what turns out another one loses them.

    Words are followed by their characters, in whatever tokens they are spelled.

    Args:
        words: as the normaliser leaves them.
        tokenizer: of the outputs.
        boost: natural logarithm for each word.
        source: what an error calls the place of the words.

    Raises:
        UserError: there is no word, or one has a character that is in no vocabulary.
    """

    def __init__(
        self, words: Sequence[str], tokenizer: Tokenizer, boost: float, source: str = "hotwords"
    ) -> None:
        if not words:
            raise UserError(f"{source} has no words: write one on each line, or leave it out.")
        if not 0 < boost < float("inf"):
            raise UserError(
                f"The boost {boost:g} of {source} favours nothing: give a number above 0, such as 5."
            )
        known = {character for token in tokenizer.vocabulary for character in token}
        if bad := [word for word in words if not set(word) <= known]:
            raise UserError(
                f"{len(bad)} words of {source} have characters that are in no vocabulary, such as "
                f"{', '.join(bad[:SHOWN])}: spell them as the transcripts, or leave them out."
            )
        self.words, self.vocabulary = tuple(words), tokenizer.vocabulary
        self.boost, self.source = boost, source
        self.root = _Node()
        for word in words:
            node = self.root
            for place, character in enumerate(word, start=1):
                node = node.following.setdefault(character, _Node(whole=False))
                node.value = boost if node.whole else max(node.value, boost * place / len(word))
            node.value, node.whole = boost, True

    def start(self) -> State:
        return self.root

    def step(self, state: State, token: int) -> tuple[State, float]:
        """The next state and what the token gains or, below 0, takes back."""
        gained = 0.0
        for character in self.vocabulary[token]:
            if character in (" ", WORD_START):
                gained += self.end(state)
                state = self.root
                continue
            gained -= state.value if state else 0.0
            state = state.following.get(character) if state else None
            gained += state.value if state else 0.0
        return state, gained

    def end(self, state: State) -> float:
        """What a word that ends here takes back."""
        return 0.0 if state is None or state.whole else -state.value

    def total(self, tokens: Sequence[int]) -> float:
        """What all words of these tokens gain."""
        state, total = self.start(), 0.0
        for token in tokens:
            state, gained = self.step(state, token)
            total += gained
        return total + self.end(state)
