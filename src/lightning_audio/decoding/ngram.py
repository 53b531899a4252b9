"""N-gram language models of text, as ARPA files."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lightning_audio.errors import UserError

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
ORDERS = range(2, 7)  # those that KenLM reads as it is built for Python
WORD_ORDER, TOKEN_ORDER = 3, 6
# Of n-grams that come up once, twice and more often, where the text is too small or too regular to tell.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)

Gram = tuple[str, ...]


def order_of(order: int | None, unit: str) -> int:
    """The order that is asked for, or that of the unit; raises UserError where KenLM reads no such model."""
    order = order or (WORD_ORDER if unit == "words" else TOKEN_ORDER)
    if order not in ORDERS:
        raise UserError(f"--order {order} is no order that KenLM reads: choose {ORDERS[0]} to {ORDERS[-1]}.")
    return order


class NGramModel:
    """Interpolated Kneser-Ney with three discounts for each order (Chen and Goodman 1998, TR-10-98, 3.1).

    The probabilities behind every context, those of END and UNKNOWN among them and START not, sum to one.

    Args:
        sentences: words or tokens, without START and END.
        order: the longest n-gram; less where no sentence is that long.

    Raises:
        UserError: there is no text, or a word is a sign of the model.
    """

    def __init__(self, sentences: Iterable[Sequence[str]], order: int) -> None:
        counts = _counts(sentences, order)
        self.order = len(counts)
        words = [gram[0] for gram in counts[0] if gram[0] != START]
        if not words:
            raise UserError("There is no text to make a language model of: give files with sentences.")
        self.probabilities: list[dict[Gram, float]] = [{} for _ in counts]
        self.backoffs: dict[Gram, float] = {}
        uniform = 1 / (len(words) + 1)
        for level, own in enumerate(_adjusted(counts)):
            discounts = _discounts(own)
            self.backoffs |= _left_over(own, discounts)
            totals = _totals(own)
            for gram, count in own.items():
                context, lower = gram[:-1], gram[1:]
                below = self.probabilities[level - 1][lower] if lower else uniform
                kept = (count - _discount(count, discounts)) / totals[context]
                self.probabilities[level][gram] = kept + self.backoffs[context] * below
        self.probabilities[0][(UNKNOWN,)] = self.backoffs[()] * uniform

    @property
    def vocabulary(self) -> list[str]:
        """The words that were seen, sorted."""
        signs = {END, UNKNOWN}
        return sorted(gram[0] for gram in self.probabilities[0] if gram[0] not in signs)

    def probability(self, word: str, context: Sequence[str] = ()) -> float:
        """Of a word, or END, behind others; START before the first of a sentence."""
        known = self.probabilities[0]
        words = [one if (one,) in known or one == START else UNKNOWN for one in (*context, word)]
        gram, factor = tuple(words[-self.order :]), 1.0
        while gram not in self.probabilities[len(gram) - 1]:
            factor *= self.backoffs.get(gram[:-1], 1.0)
            gram = gram[1:]
        return factor * self.probabilities[len(gram) - 1][gram]

    def log_prob(self, sentence: Sequence[str]) -> float:
        """The natural logarithm of the probability of a sentence and of its end."""
        words = (START, *sentence, END)
        return sum(math.log(self.probability(words[i], words[:i])) for i in range(1, len(words)))

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """Of sentences, their ends counted among the words."""
        given = [*sentences]
        return math.exp(-sum(map(self.log_prob, given)) / sum(len(sentence) + 1 for sentence in given))

    def arpa(self) -> str:
        """The model as an ARPA file, which KenLM, SRILM and others read."""
        tables = [{gram: math.log10(p) for gram, p in level.items()} for level in self.probabilities]
        tables[0][(START,)] = -99.0  # as is the custom: it is never to be predicted
        lines = ["\\data\\", *(f"ngram {n}={len(table)}" for n, table in enumerate(tables, start=1))]
        for n, table in enumerate(tables, start=1):
            lines += ["", f"\\{n}-grams:"]
            for gram, log_prob in sorted(table.items()):
                backoff = [f"{math.log10(self.backoffs.get(gram, 1.0)):.8g}"] if n < self.order else []
                lines.append("\t".join([f"{log_prob:.8g}", " ".join(gram), *backoff]))
        return "\n".join([*lines, "", "\\end\\", ""])


def _counts(sentences: Iterable[Sequence[str]], order: int) -> list[Counter[Gram]]:
    """How often each n-gram comes up, for each order that does."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        if signs := {START, END, UNKNOWN}.intersection(sentence):
            raise UserError(
                f"The text holds the word {min(signs)}, which is a sign of the model: take it out."
            )
        words = (START, *sentence, END) if sentence else ()
        for n, own in enumerate(counts, start=1):
            own.update(words[i : i + n] for i in range(len(words) - n + 1))
    return [own for own in counts if own] or counts[:1]


def _adjusted(counts: Sequence[Counter[Gram]]) -> Iterator[Mapping[Gram, int]]:
    """In the highest order how often an n-gram comes up, below behind how many different words.

    Before START there are none: what begins a sentence keeps its count.
    """
    for own, higher in zip(counts, [*counts[1:], None], strict=True):
        before = Counter(gram[1:] for gram in higher) if higher is not None else own
        yield {
            gram: count if gram[0] == START else before[gram]
            for gram, count in own.items()
            if gram != (START,)
        }


def _discounts(own: Mapping[Gram, int]) -> tuple[float, ...]:
    """What is taken off counts of 1, of 2, and of 3 and more."""
    of_count = Counter(own.values())
    once, *more = (of_count[count] for count in range(1, 5))
    if not (once and all(more)):
        return FALLBACK_DISCOUNTS
    share = once / (once + 2 * more[0])
    ratios = zip((once, *more), more, strict=False)
    found = tuple(i - (i + 1) * share * after / here for i, (here, after) in enumerate(ratios, start=1))
    return found if all(0 < value < i for i, value in enumerate(found, start=1)) else FALLBACK_DISCOUNTS


def _discount(count: int, discounts: Sequence[float]) -> float:
    return discounts[min(count, len(discounts)) - 1]


def _totals(own: Mapping[Gram, int]) -> dict[Gram, int]:
    totals: dict[Gram, int] = defaultdict(int)
    for gram, count in own.items():
        totals[gram[:-1]] += count
    return totals


def _left_over(own: Mapping[Gram, int], discounts: Sequence[float]) -> dict[Gram, float]:
    """Of each context, the probability that its discounts leave to the next lower order."""
    taken: dict[Gram, float] = defaultdict(float)
    for gram, count in own.items():
        taken[gram[:-1]] += _discount(count, discounts)
    return {context: taken[context] / total for context, total in _totals(own).items()}
