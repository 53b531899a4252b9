"""Makes an n-gram language model (ARPA) of the training text of a run, of manifests or of text files.

lightning-audio ngram logs/prompts_bilstm/2026-01-31_12-00-00_a1b2 --output lm.arpa
lightning-audio ngram more.txt --run logs/... --characters --order 6 --output characters.arpa

Text is normalised as in the run. Of a run and of manifests, clips for validation and test are left out; a
manifest that names no splits, or folds, needs the run that tells them (--run). Takes
memory for every n-gram: for a few million words that is well; for more, use `lmplz` of KenLM.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

from lightning_audio import build
from lightning_audio.checkpoint import find_checkpoint, load
from lightning_audio.cli import arguments
from lightning_audio.data.clip import Clip
from lightning_audio.data.datamodule import clips_of
from lightning_audio.data.manifests import MANIFEST_SUFFIXES, read_manifest
from lightning_audio.data.targets import normalizer_of
from lightning_audio.decoding.lm import token_name
from lightning_audio.decoding.ngram import NGramModel, order_of
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.inference.formats import refuse_output
from lightning_audio.io import read_lines, write_atomically
from lightning_audio.text.normalizer import Normalizer
from lightning_audio.text.numbers import UnreadableNumber
from lightning_audio.text.tokenizers import Tokenizer, UnknownCharacter, tokenizer_of
from lightning_audio.training import saved_config


def training_texts(source: Path, run: Path | None = None, allow: Sequence[str] = ()) -> list[str]:
    """The sentences of a text file, or the training transcripts of a manifest or a run folder, as written.

    Of a manifest, what a run validates or tests on is left out. Without a run, its splits decide.

    Raises:
        UserError: there is nothing of the kind, or no transcript in it, or nothing says what is tested on.
    """
    if source.is_dir():
        clips = [clip for clip in _clips_of_run(source, allow) if clip.split == "train"]
    elif source.suffix.lower() in MANIFEST_SUFFIXES:
        clips = [*_training_rows(source, run, allow)]
    else:
        return read_lines(source, "give a text file, a manifest (.jsonl, .csv) or a run folder")
    texts = [clip.text for clip in clips if clip.text]
    if not texts:
        raise UserError(f"{source} has no training clips with a transcript: give each row a `text`.")
    return texts


def _clips_of_run(run: Path, allow: Sequence[str]) -> Sequence[Clip]:
    cfg = saved_config.saved_config(run, allow)
    corpus = build.corpus_as_read(cfg)
    corpus.prepare()
    return clips_of(corpus, cfg.loader.val_fraction, cfg.seed)


def _training_rows(source: Path, run: Path | None, allow: Sequence[str]) -> Sequence[Clip]:
    clips = read_manifest(source)
    if run is not None:
        held_out = [clip for clip in _clips_of_run(run, allow) if clip.split != "train"]
        ids, places = {clip.id for clip in held_out}, {_place(clip) for clip in held_out}
        return [clip for clip in clips if clip.id not in ids and _place(clip) not in places]
    unknown = [
        clip for clip in clips if clip.split is None or (clip.split == "train" and clip.fold is not None)
    ]
    if unknown:
        what = "a fold and no run" if unknown[0].fold is not None else "no split"
        raise UserError(
            f"{source} does not say which rows are tested on ({unknown[0].id} has {what}): name the run that "
            "the model is for with --run RUN, or give each row a `split`."
        )
    return [clip for clip in clips if clip.split == "train"]


def _place(clip: Clip) -> tuple[str, float]:
    return str(Path(clip.path).resolve()), round(clip.start, 3)


def normalizer_of_run(run: Path | None) -> Normalizer:
    """The normaliser that a run was trained with, or the default one.

    Raises:
        UserError: the run has none.
    """
    if run is None:
        return Normalizer()
    options = saved_config.load_config(run).task.get("text")
    if options is None:
        raise UserError(f"{run} writes no text, so that it needs no language model: give a run of task=ctc.")
    return normalizer_of(options)


def splitter(unit: str, run: Path | None, allow: Sequence[str] = ()) -> Callable[[str], list[str]]:
    """What parts a sentence into `words`, `characters`, or the `tokens` of a run.

    Raises:
        UserError: tokens are asked for and there is no run that has them.
    """
    if unit == "words":
        return str.split
    if unit == "characters":
        return lambda text: [token_name(character) for character in text]
    if run is None:
        raise UserError("Tokens are those of a run: name it with --run RUN, or take --characters.")
    tokenizer = tokenizer_in(find_checkpoint(run), allow)
    if tokenizer is None:
        raise UserError(f"{run} has no tokens: give a run of task=ctc, or take --characters.")

    def tokens(text: str) -> list[str]:
        try:
            return [token_name(tokenizer.vocabulary[token]) for token in tokenizer.encode(text)]
        except UnknownCharacter as error:
            raise UserError(
                f"The text cannot be parted into tokens of {run}, for {error}: {text[:60]!r}."
            ) from None

    return tokens


def tokenizer_in(checkpoint: Path, allow: Sequence[str] = ()) -> Tokenizer | None:
    """That of a trained run; None where it writes no text."""
    vocabulary = load(checkpoint, allow=allow).description["facts"].get("vocabulary")
    return None if vocabulary is None else tokenizer_of(vocabulary)


def lexicon_of(texts: Iterable[str], run: Path | None, allow: Sequence[str] = ()) -> list[str]:
    """The words of texts, sorted; where the run is trained, those alone that its tokens spell."""
    words = sorted({word for text in texts for word in text.split()})
    checkpoint = None
    with contextlib.suppress(UserError):  # it may have none yet
        checkpoint = run and find_checkpoint(run)
    tokenizer = tokenizer_in(checkpoint, allow) if checkpoint else None
    if tokenizer is None:
        return words
    kept = []
    for word in words:
        with contextlib.suppress(UnknownCharacter):
            tokenizer.encode(word)
            kept.append(word)
    if len(kept) < len(words):
        print(f"Left out of the list of words: {len(words) - len(kept)} that no tokens of {run} spell.")
    return kept


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the language model, and the list of its words where that is asked for."""
    options = arguments.ngram(argv)
    unit = options.unit or "words"
    order = order_of(options.order, unit)
    run = options.run or next((source for source in options.texts if source.is_dir()), None)
    normalize, split = normalizer_of_run(run), splitter(unit, run, options.allow)
    sources = (training_texts(source, run, options.allow) for source in options.texts)
    texts, left_out = [], []
    for text in chain.from_iterable(sources):
        try:
            texts.append(normalize(text))
        except UnreadableNumber as error:
            left_out.append(error.reason)
    if left_out:
        print(
            f"Left out: sentences with numbers that can't be read, {len(left_out)} of them, as {left_out[0]}."
        )
    refuse_output(options.output, options.texts)
    refuse_output(options.words, [*options.texts, options.output])
    model = NGramModel((split(text) for text in texts), order)
    write_atomically(options.output, model.arpa())
    if options.words:
        words = lexicon_of(texts, run, options.allow)
        write_atomically(options.words, "".join(f"{word}\n" for word in words))
    grams = ", ".join(f"{len(table)} {n}-grams" for n, table in enumerate(model.probabilities, start=1))
    print(f"{options.output}: {len(texts)} sentences, {grams}, over {unit}")


if __name__ == "__main__":
    main()
