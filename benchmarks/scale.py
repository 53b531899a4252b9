"""Cost as a corpus grows: epochs, memory, look-ups of 1, 10 and 100 times the clips; the start of a million.

Every figure comes from a process of its own. Stores are synthesised, not decoded. Memory is what Linux says
of the process: RssAnon is its own, RssFile are pages of the memory map and of libraries, which the system
takes back when it wants them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytorch_lightning as pl
from timing import arguments, report

from lightning_audio import build, config
from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.corpora.manifest import Manifest
from lightning_audio.data.corpora.sharded import Sharded
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.shards import table
from lightning_audio.data.shards.shard_set import INDEX, Addition, Index
from lightning_audio.data.shards.shard_store import ShardStore
from lightning_audio.data.store import write_index
from lightning_audio.data.targets import ClassIndex
from lightning_audio.data.wave_store import IDS, SAMPLES, WaveStore, folder_of
from lightning_audio.io import write_file
from lightning_audio.reports.tables import markdown_table
from lightning_audio.training.run import keep_freed_memory, quiet

SAMPLE_RATE = 8000
SECONDS = 1.0
CLIPS_PER_FILE = 100
LABELS = tuple(f"label {number:02d}" for number in range(10))
BATCH_SIZE = 64
LOOKUPS = 300
ADDITION = f"{0:016x}"  # the name of the only one of a set of shards


class Made(Corpus):
    """Clips cut from files that are there, but that nobody decodes: their store is made beside them."""

    labels = LABELS

    def __init__(self, root: str, count: int, sample_rate: int = SAMPLE_RATE) -> None:
        super().__init__(root, f"{root}/cache", sample_rate)
        self.count = count

    def clips(self) -> list[Clip]:
        """Nine in ten to train on, whatever their number."""
        return [
            Clip(
                f"clip-{number:07d}",
                str(self.root / f"{number // CLIPS_PER_FILE}.wav"),
                float(number % CLIPS_PER_FILE),
                1.0,
                (LABELS[number // 10 % len(LABELS)],),
                split="test" if number % 10 == 9 else "train",
            )
            for number in range(self.count)
        ]


def make_store(clips: Sequence[Clip], sample_rate: int, cache: Path, samples: int, sparse: bool) -> None:
    """A store in which each clip has so many samples: noise, or zeros that take no space on the disk."""
    folder = folder_of(clips, sample_rate, cache)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    checksums = [zlib.crc32(bytes(2 * samples))] * len(clips)
    with (folder / SAMPLES).open("wb") as file:
        if sparse:
            file.truncate(2 * samples * len(clips))
        for row in () if sparse else range(len(clips)):
            clip = rng.integers(-9999, 9999, samples, dtype=np.int16).tobytes()
            file.write(clip)
            checksums[row] = zlib.crc32(clip)
    write_file(folder / IDS, [json.dumps([clip.id for clip in clips]).encode()])
    facts = {"digest": "made", "sample_rate": sample_rate, "remarks": []}
    write_index(folder, SAMPLES, [samples] * len(clips), checksums, [IDS], **facts)


def memory() -> dict[str, float]:
    """MB of this process by what they are, and the most at any time; nothing where the system is silent."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    told = (line.split() for line in lines if line.startswith(("Rss", "VmHWM")))
    sizes = {name.rstrip(":"): int(size) / 1000 for name, size, _ in told}
    return sizes | {"most at any time": sizes.pop("VmHWM")}


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# What a process of its own does; each returns what is printed as JSON.


def prepare(root: str, count: int) -> dict[str, float]:
    """The files and the store of `Made`."""
    clips = Made(root, count).clips()
    for path in dict.fromkeys(clip.path for clip in clips):
        Path(path).touch()
    make_store(clips, SAMPLE_RATE, Path(root) / "cache", round(SECONDS * SAMPLE_RATE), sparse=False)
    return {}


def epochs(root: str, count: int, times: int) -> dict[str, float]:
    """Seconds of an epoch of loading and of training, memory before and after, microseconds of a look-up.

    Small epochs are repeated so many times, and their mean is taken: the clock and the machine disturb each
    size alike, where the median of short epochs would leave out what a long one can't.
    """
    quiet()
    keep_freed_memory()  # as every run does
    before = memory()
    overrides = ["data=demo", "augment=none", "network=cnn2d", "network.widths=[4]", "normalize=none"]
    cfg = config.compose_config([*overrides, "frontend.n_mels=16", f"data.sample_rate={SAMPLE_RATE}"])
    data = AudioDataModule(Made(root, count), ClassIndex, BATCH_SIZE)
    data.prepare_data()
    data.setup()
    loader = data.train_dataloader()

    def load(times: int) -> None:
        for _ in range(times):
            assert sum(len(batch) for batch in loader) == len(data.splits["train"])

    load(1)
    found = {"loading": seconds_of(lambda: load(times)) / times}
    found["look-up"] = 1e6 * seconds_of(lambda: _look_up(data.store)) / LOOKUPS
    clock = EpochClock()
    task = build.task(cfg, data)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=1 + times,
        accelerator="cpu",
        callbacks=[clock],
        enable_model_summary=False,
        **options,
    )
    trainer.fit(task, data)
    found["training"] = mean(clock.seconds[1:])
    return found | memory() | {f"{name} before": size for name, size in before.items()}


def _look_up(store: WaveStore | ShardStore) -> None:
    rng = np.random.default_rng(0)
    for number in rng.integers(0, len(store), LOOKUPS):
        store.gather([number])


class EpochClock(pl.Callback):
    """Seconds of every training epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def manifest(root: str, count: int, per_file: int) -> dict[str, float]:
    """A manifest of so many rows, its audio files, the table that is remembered of it, and its store."""
    path = Path(root) / "clips.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in _rows(Path(root), count, per_file))
    corpus = Manifest(f"{root}/cache", SAMPLE_RATE, str(path))
    found = {"first reading": seconds_of(corpus.clips)}
    make_store(corpus.clips(), SAMPLE_RATE, corpus.cache, round(SECONDS * SAMPLE_RATE), sparse=True)
    WaveStore.open(corpus.clips(), SAMPLE_RATE, corpus.cache)  # as the run that built it did
    return found


def shards(root: str, count: int) -> dict[str, float]:
    """A set of shards of so many clips, in sparse files."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet

    samples, numbers = round(SECONDS * SAMPLE_RATE), np.arange(count)
    per_shard = 64 * 2**20 // (2 * samples)
    names = [f"{ADDITION}/{number:032x}.int16" for number in range(-(-count // per_shard))]
    files = numbers // CLIPS_PER_FILE

    def coded(codes: np.ndarray, values: Sequence[str]) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(values))

    def named(numbers: np.ndarray, text: str) -> Any:
        return pc.binary_join_element_wise(text, pc.utf8_lpad(pa.array(numbers).cast("string"), 8, "0"), "")

    columns = {
        "id": named(numbers, "clip-"),
        "path": named(files, "file-"),
        "start": np.zeros(count),
        "labels": pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32), coded(numbers % 10, LABELS)),
        "split": coded((files % 10 == 9).astype(int), ("train", "test")),
        "group": named(files, ""),
        "shard": coded(numbers // per_shard, names),
        "offset": numbers % per_shard * 2 * samples,
        **{"bytes": np.full(count, 2 * samples), "rate": np.full(count, SAMPLE_RATE, np.int32)},
        **{"length": np.full(count, samples)},
        **{"crc32": np.full(count, zlib.crc32(bytes(2 * samples)), np.uint32)},
    }
    schema = table.schema()
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in schema]
    folder = Path(root) / "set" / ADDITION
    folder.mkdir(parents=True)
    addition = Addition(ADDITION, 1, count)
    pa.parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), folder.parent / addition.part(1))
    for name in names:
        with (folder.parent / name).open("wb") as file:
            file.truncate(per_shard * 2 * samples)
    index = Index("int16", SAMPLE_RATE, "Made", folds=False, additions=(addition,))
    (folder.parent / INDEX).write_bytes(index.to_json())
    return {}


def start_shards(root: str, count: int) -> dict[str, float]:
    """Seconds of the start from such a set, to the first batch."""
    corpus = Sharded("shards", f"{root}/cache", SAMPLE_RATE)
    module = AudioDataModule(corpus, ClassIndex, BATCH_SIZE, shards=f"{root}/set")

    def begin() -> None:
        module.prepare_data()
        module.setup()
        next(iter(module.train_dataloader()))

    return {"whole start, to the first batch": seconds_of(begin)} | memory()


def _rows(root: Path, count: int, per_file: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        which = number // per_file
        audio = root / f"{which % 100:02d}" / f"{which:07d}.wav"
        if number % per_file == 0:
            audio.parent.mkdir(exist_ok=True)
            audio.touch()
        row = {"audio_filepath": str(audio.relative_to(root)), "offset": float(number % per_file)}
        row |= {"duration": 1.0, "label": LABELS[number // 10 % 10], "speaker": f"{which}"}
        yield row | {"split": "test" if which % 10 == 9 else "train"}


def start(root: str, count: int) -> dict[str, float]:
    """Seconds of the whole start from a manifest, and of reading that by itself."""
    module = AudioDataModule(
        Manifest(f"{root}/cache", SAMPLE_RATE, f"{root}/clips.jsonl"), ClassIndex, BATCH_SIZE
    )

    def begin() -> None:
        module.prepare_data()
        module.setup()
        next(iter(module.train_dataloader()))

    found = {"whole start, to the first batch": seconds_of(begin)} | memory()
    corpus = Manifest(f"{root}/cache", SAMPLE_RATE, f"{root}/clips.jsonl")
    return found | {"of it: reading the manifest": seconds_of(corpus.clips)}


WORK: dict[str, Callable[..., dict[str, float]]] = {
    work.__name__: work for work in (prepare, epochs, manifest, start, shards, start_shards)
}


def child(work: str, *arguments_: Any) -> dict[str, float]:
    """What `work` returns in a fresh process."""
    command = [sys.executable, __file__, "child", work, *map(str, arguments_)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def report_epochs(counts: Sequence[int], repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        roots = {count: Path(folder) / str(count) for count in counts}
        for count, root in roots.items():
            root.mkdir()
            child("prepare", root, count)
        found = [
            {count: child("epochs", root, count, counts[-1] // count) for count, root in roots.items()}
            for _ in range(repeats)
        ]
    for what in ("loading", "training"):
        # Seconds for as many clips as the smallest has: what the ratios compare is the cost of one clip.
        seconds = {
            f"{count:,} clips": [counts[0] / count * one[count][what] for one in found] for count in counts
        }
        target = {[*seconds][-1]: "<= 1.1"} if what == "training" else {}
        report(f"An epoch of {what}, by the clip", seconds, counts[0], target)
        print()
    shown = {
        "RssAnon before": "RssAnon before, MB",
        "RssAnon": "RssAnon after, MB",
        "RssFile": "RssFile after, MB",
        "look-up": "a look-up by id, us",
    }
    rows = [
        {"": f"{count:,} clips"}
        | {title: f"{median(one[count][name] for one in found):.1f}" for name, title in shown.items()}
        for count in counts
    ]
    print(f"Before the data and after the epochs, median of {repeats}\n\n{markdown_table(rows)}")


def report_start(count: int, repeats: int) -> None:
    for per_file, kind in ((CLIPS_PER_FILE, f"{CLIPS_PER_FILE} clips a file"), (1, "a file for each clip")):
        with tempfile.TemporaryDirectory() as root:
            first = child("manifest", root, count, per_file)
            os.sync()  # or what was written is still on its way to the disk while starts are timed
            found = [child("start", root, count) for _ in range(repeats)]
        parts = [name for name in found[0] if not name.startswith(("Rss", "most"))]
        seconds = {name: [one[name] for one in found] for name in parts}
        title = f"The start with a built store of {count:,} clips, {kind} (a clip is a start)"
        print()
        report(title, seconds, 1, {parts[0]: "<= 3 s"})
        most = max(one.get("most at any time", 0.0) for one in found)
        reading = first["first reading"]
        print(f"\nFirst reading of the manifest: {reading:.1f} s. Memory: {most:.0f} MB at most.")


def report_shards(count: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        child("shards", root, count)
        found = [child("start_shards", root, count) for _ in range(repeats)]
    name = "whole start, to the first batch"
    print()
    report(
        f"The start from shards of {count:,} clips (a clip is a start)",
        {name: [one[name] for one in found]},
        1,
        {name: "<= 20 s"} if count > 1_000_000 else {},
    )
    print(f"\nMemory: {max(one.get('most at any time', 0.0) for one in found):.0f} MB at most.")


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        work, root, *numbers = sys.argv[2:]
        print(json.dumps(WORK[work](root, *map(int, numbers))))
        return
    options = arguments(__doc__ or "", repeats=5)
    sizes = [640, 6400] if options.quick else [640, 6400, 64_000]  # nine tenths of them are whole batches
    report_epochs(sizes, options.repeats)
    report_start(20_000 if options.quick else 1_000_000, options.repeats)
    for count in [20_000] if options.quick else [1_000_000, 10_000_000]:
        report_shards(count, options.repeats)


if __name__ == "__main__":
    main()
