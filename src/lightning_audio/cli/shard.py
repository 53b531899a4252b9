"""Writes a corpus as shards: decoded samples, or files as they are, in files of some megabytes each.

lightning-audio shard data=librispeech loader.val_fraction=0 /scratch/librispeech
lightning-audio shard data=manifest data.file=clips.jsonl s3://bucket/corpus --part 3/16

Training reads them by `loader.shards=ADDRESS`. A job that was killed goes on where it was when it is started
again; the same command adds clips that have come since.
"""

from __future__ import annotations

import sys

from lightning_audio import build, config
from lightning_audio.cli import arguments
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.datamodule import clips_of
from lightning_audio.data.shards.shard_set import MOST_PARTS, Index, ShardSet
from lightning_audio.data.shards.storage import Storage
from lightning_audio.data.shards.write import MEGABYTE, Written, verify, write_shards
from lightning_audio.errors import UserError, cli_errors, counted, listed, printable


def shard(
    corpus: Corpus, out: str, part: tuple[int, int], size: int, as_is: bool, val_fraction: float, seed: int
) -> Written:
    """Writes a part of the shards of a corpus.

    Raises:
        UserError: the corpus is not there, or `out` holds something else.
    """
    corpus.prepare()
    clips = clips_of(corpus, val_fraction, seed)
    kind = ("files", 0) if as_is else ("int16", corpus.sample_rate)
    wanted = Index(*kind, type(corpus).__name__, bool(corpus.folds))
    return write_shards(clips, corpus.root, Storage(out), wanted, part, size)


@cli_errors
def main() -> None:
    """Writes a part of a corpus into shards, or with `--verify` looks at all that are there."""
    options = arguments.shard()
    if options.verify:
        found = ShardSet.open(options.out)
        bad = verify(found)
        print("\n".join(bad), end="\n" if bad else "")
        clips, shards = counted(len(found.is_sound), "clips"), counted(len(found.names), "shards")
        print(f"{found.storage}: {clips} in {shards}, {found.sizes.sum() / 1e9:.3g} GB: {len(bad)} damaged")
        sys.exit(bool(bad))
    number, _, count = options.part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= MOST_PARTS):
        raise UserError(f"--part {options.part} is no part: give one of 1/N to N/N, such as 3/16.")
    if not options.megabytes > 0:
        raise UserError(f"--megabytes {options.megabytes} is no size: give a number above 0.")
    cfg = config.compose_config(options.overrides)
    share = (cfg.loader.val_fraction, cfg.seed)
    size = round(options.megabytes * MEGABYTE)
    done = shard(build.corpus(cfg), options.out, (int(number), int(count)), size, options.as_is, *share)
    if unreadable := done.unreadable:
        print(printable(f"{counted(len(unreadable), 'clips')} can't be read: {listed(unreadable)}"))
    what = f"{counted(done.clips, 'clips')}, {done.bytes / 1e9:.3g} GB" if done.clips else "nothing to add"
    print(f"{options.out}: part {number} of {count}: {what}")
    if done.clips and done.clips == len(unreadable):
        raise UserError("No clip can be read: mend them.")
