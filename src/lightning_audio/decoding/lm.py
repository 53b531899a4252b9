"""Shallow fusion with n-gram language models, read by KenLM (Heafield 2011): over tokens, or over words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_audio.decoding.beam import Beam
from lightning_audio.decoding.search import NEVER, Fusion
from lightning_audio.errors import UserError, listed
from lightning_audio.text.tokenizers import WORD_START, Tokenizer, UnknownCharacter

LN_10 = math.log(10)
UNITS = ("tokens", "words")


class LanguageModel:
    """An n-gram language model for a beam search.

    Over tokens (characters, or pieces of words) the model judges any word. Over words it judges whole words:
    with a lexicon no others are found, in whatever tokens they are spelled, without one any other is the
    model's `<unk>`. `lightning-audio ngram`
    makes both kinds of model.

    Args:
        tokenizer: of the outputs.
        path: an ARPA file, or a binary file of KenLM. In one over tokens WORD_START stands for the space.
        lexicon: the words that there are, or a file with one at the beginning of each line.
        unit: `tokens` or `words`, what the model is over; by default words where there is a lexicon.

    Raises:
        UserError: a file or KenLM is missing, the model is over something else, or a word of the lexicon
            cannot be spelled in tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        path: str | Path,
        lexicon: str | Path | Sequence[str] | None = None,
        unit: str | None = None,
    ) -> None:
        unit = unit or ("tokens" if lexicon is None else "words")
        if unit not in UNITS or (unit == "tokens" and lexicon is not None):
            raise UserError(
                f"unit={unit} does not fit: a language model is over tokens, without a lexicon, or words."
            )
        self.path, self.unit, self.lexicon = Path(path), unit, lexicon
        ngram = NGram(self.path)
        if unit == "tokens":
            self.fusion: Fusion = TokenModel(ngram, tokenizer)
        else:
            words = None if lexicon is None else lexicon_words(lexicon)
            self.fusion = WordModel(ngram, tokenizer, words)


class LMDecoder(Beam):
    """Beam search by CTC with a `LanguageModel`; other options are those of `BeamSearch`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        lm: str | Path,
        lexicon: str | Path | Sequence[str] | None = None,
        unit: str | None = None,
        beam: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(tokenizer, beam, model=LanguageModel(tokenizer, lm, lexicon, unit), **options)


class NGram:
    """An n-gram model as KenLM reads it; probabilities are natural logarithms.

    Raises:
        UserError: KenLM is not installed, or cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            import kenlm
        except ImportError:
            raise UserError(
                "Decoding with a language model needs KenLM, which is not installed: run pip install "
                "'lightning-audio[speech]'."
            ) from None
        if not path.is_file():
            raise UserError(f"There is no language model {path}: make one with `lightning-audio ngram`.")
        options = kenlm.Config()
        options.show_progress, options.arpa_complain = False, kenlm.ARPALoadComplain.NONE
        try:
            self.model = kenlm.Model(str(path), options)
        except (OSError, RuntimeError, UnicodeDecodeError) as error:  # which its words are put into
            # KenLM's sentence stands behind the place in its source and the name of its exception.
            reason = " ".join(str(error).rpartition("Exception")[2].split()).lstrip(". ")
            reason = reason.partition(" Byte: ")[0][:300]
            raise UserError(
                f"KenLM cannot read {path}, {reason.rstrip('.')}: give an ARPA file of order 2 to 6, as "
                "`lightning-audio ngram` makes it."
            ) from None
        self.path, self._state = path, kenlm.State

    def __contains__(self, word: str) -> bool:
        return word in self.model

    def start(self) -> Any:
        state = self._state()
        self.model.BeginSentenceWrite(state)
        return state

    def step(self, state: Any, word: str) -> tuple[Any, float]:
        following = self._state()
        return following, LN_10 * self.model.BaseScore(state, word, following)

    def end(self, state: Any) -> float:
        return self.step(state, "</s>")[1]

    def unigram(self, word: str) -> float:
        state = self._state()
        self.model.NullContextWrite(state)
        return self.step(state, word)[1]


def token_name(token: str) -> str:
    """A token as a language model over tokens names it: a space would part it."""
    return token.replace(" ", WORD_START)


class TokenModel:
    """An n-gram model over the tokens themselves.

    BPE leaves tokens unused that it merges into others, also the bare beginning of a word: a model of its
    own text may lack many.

    Raises:
        UserError: it knows less than half of the characters, no space where they have one, or no token that
            begins a word.
    """

    def __init__(self, ngram: NGram, tokenizer: Tokenizer) -> None:
        self.ngram, self.names = ngram, [token_name(token) for token in tokenizer.vocabulary]
        unknown = [name for name in self.names if name not in ngram]
        begins = {name for name in self.names if name.startswith(WORD_START)}
        pieces = any(len(name) > 1 for name in begins)
        if (begins and begins <= {*unknown}) or (not pieces and 2 * len(unknown) > len(self.names)):
            raise UserError(
                f"{ngram.path} is no language model over tokens (it lacks {' '.join(unknown[:5])}): make "
                "one with `lightning-audio ngram --characters`, or say that it is over words with unit=words."
            )

    def start(self) -> Any:
        return self.ngram.start()

    def step(self, state: Any, token: int) -> tuple[Any, float]:
        return self.ngram.step(state, self.names[token])

    def ahead(self, state: Any) -> float:
        return 0.0

    def end(self, state: Any) -> float:
        return self.ngram.end(state)

    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tokens


@dataclass(slots=True)
class _Spelling:
    """The beginning of a word, as a node of a tree of characters: the word where it is one, what may follow.

    A token walks along its characters, so that a word may be spelled in any tokens that make it up.
    `ahead` is the best log-probability of the words at and below it, each by itself.
    """

    vocabulary: Sequence[str]
    word: str = ""
    ahead: float = NEVER
    following: dict[str, _Spelling] = field(default_factory=dict)

    def child(self, token: int) -> _Spelling | None:
        node: _Spelling | None = self
        for character in self.vocabulary[token]:
            node = node.following.get(character) if node else None
        return node


@dataclass(slots=True)
class _AnySpelling:
    """The same where every spelling is a word."""

    vocabulary: Sequence[str]
    word: str = ""
    ahead: float = 0.0

    def child(self, token: int) -> _AnySpelling:
        return _AnySpelling(self.vocabulary, self.word + self.vocabulary[token].removeprefix(WORD_START))


Node = _Spelling | _AnySpelling


class WordModel:
    """An n-gram model over words, which are spelled in tokens; a space stands between two words only.

    Args:
        ngram: the model; a word that it lacks is its `<unk>`.
        tokenizer: of the outputs.
        words: those that there are; None for any.

    Raises:
        UserError: a word cannot be spelled, or the model knows none of them.
    """

    def __init__(self, ngram: NGram, tokenizer: Tokenizer, words: Sequence[str] | None = None) -> None:
        self.ngram = ngram
        self.space = tokenizer.ids.get(" ", -1)
        self.opens = [token.startswith(WORD_START) for token in tokenizer.vocabulary]
        self.marked = any(self.opens)
        self.root: Node = _AnySpelling(tokenizer.vocabulary)
        if words is not None:
            refuse_unknown_words(words, ngram)
            self.root = _tree(words, tokenizer, ngram)

    def start(self) -> tuple[Any, Node]:
        return self.ngram.start(), self.root

    def step(self, state: tuple[Any, Node], token: int) -> tuple[tuple[Any, Node], float] | None:
        context, node = state
        following = self._follow(node, token)
        if following is None:
            return None
        gained = 0.0
        if node.word and (token == self.space or self.opens[token]):
            context, gained = self.ngram.step(context, node.word)
        return (context, following), gained

    def _follow(self, node: Node, token: int) -> Node | None:
        if token == self.space:
            return self.root if node.word else None
        if self.opens[token]:
            return self.root.child(token) if node.word or node is self.root else None
        return None if self.marked and node is self.root else node.child(token)

    def ahead(self, state: tuple[Any, Node]) -> float:
        return state[1].ahead

    def end(self, state: tuple[Any, Node]) -> float:
        context, node = state
        if node is self.root:
            return self.ngram.end(context)
        if not node.word:
            return NEVER
        context, gained = self.ngram.step(context, node.word)
        return gained + self.ngram.end(context)

    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        node, end = self.root, 0
        for position, token in enumerate(tokens, start=1):
            following = self._follow(node, token)
            assert following is not None, "the search asks step before it adds a token"
            node = following
            if node.word:
                end = position
        return tokens[:end]


def lexicon_words(lexicon: str | Path | Sequence[str]) -> list[str]:
    """The words of a lexicon, each once, in order: what stands first on each line of a file.

    Raises:
        UserError: there is no such file, it is not UTF-8, or there are no words.
    """
    lines: Sequence[str] = lexicon if not isinstance(lexicon, str | Path) else ()
    if isinstance(lexicon, str | Path):
        try:
            lines = Path(lexicon).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"The lexicon {lexicon} cannot be read ({error}): give a UTF-8 file with one word a line."
            ) from None
    words = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
    if not words:
        raise UserError("The lexicon has no words: give a file with one word a line, or none at all.")
    return words


def refuse_unknown_words(words: Sequence[str], ngram: NGram, of: str = "of the lexicon") -> None:
    """Raises UserError where the model knows none of the words: such as one in the other case."""
    if not any(word in ngram for word in words):
        raise UserError(
            f"{ngram.path} knows no word {of}, such as {words[0]!r}: normalise the text of both in "
            "the same way, or make the model anew with `lightning-audio ngram`."
        )


def _tree(words: Sequence[str], tokenizer: Tokenizer, ngram: NGram) -> _Spelling:
    """The root of the spellings; a word that is begun is worth the best word that it may become."""
    root, bad = _Spelling(tokenizer.vocabulary), []
    for word in words:
        try:
            spelled = tokenizer.encode(word)
        except UnknownCharacter as error:
            bad.append(f"{word!r} ({error.character!r})")
            continue
        node, alone = root, ngram.unigram(word)
        for character in "".join(tokenizer.vocabulary[token] for token in spelled):
            node = node.following.setdefault(character, _Spelling(tokenizer.vocabulary))
            node.ahead = max(node.ahead, alone)
        node.word = word
    if bad:
        raise UserError(
            f"{len(bad)} words of the lexicon have characters that are in no vocabulary: "
            f"{listed(bad, between=', ')}; normalise the lexicon as the transcripts, or leave them out."
        )
    root.ahead = 0.0  # no word is begun
    return root
