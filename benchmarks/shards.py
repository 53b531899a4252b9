"""Batches of log-mel from shards: against the memory map, litdata, tars, webdataset and datasets.

The clips and settings of `loading.py`, 2 workers each: threads of ours, processes of the others. All have the
decoded samples as int16, but the tars, which have FLAC, as webdataset and NeMo write them; datasets streams
the same tars. What is not installed is left out, and told. Then training from
a web server on loopback whose set is ten times the cache: the share that is spent waiting, and the most that
was on the disk.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import loading
import soundfile
import torch
from filelock import FileLock
from timing import arguments, interleaved, report
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightning_audio import config
from lightning_audio.cli.shard import shard
from lightning_audio.data.batch import samples_to_float
from lightning_audio.data.clip_set import ClipSet
from lightning_audio.data.sampler import BatchLoader, BatchSampler
from lightning_audio.data.shards.sampler import ShardSampler
from lightning_audio.data.shards.shard_set import ShardSet
from lightning_audio.data.shards.shard_store import ShardStore
from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.training.run import keep_freed_memory, quiet, train

EPOCHS, WAITING = "the epochs", "of that, waiting for data"
OURS = "shards in a folder, 2 threads"
SHARD = 2 * 2**20  # bytes: ten clips
BATCH, WORKERS = loading.BATCH_SIZE, loading.WORKERS


class Tars(IterableDataset):
    """FLAC files of tars one after another, each worker every second tar; nothing is shuffled."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for path in self.paths[number::count]:
            with tarfile.open(path) as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    assert content is not None
                    yield decoded(content.read())


def write_tars(clips: ClipSet, folder: Path) -> list[Path]:
    folder.mkdir()
    paths = []
    for first in range(0, len(clips), 20):
        paths.append(folder / f"{first:05d}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for position in range(first, min(first + 20, len(clips))):
                content = io.BytesIO()
                soundfile.write(content, clips[[position]].waveforms[0].numpy(), loading.RATE, format="FLAC")
                info = tarfile.TarInfo(f"{position}.flac")
                info.size = len(content.getvalue())
                tar.addfile(info, io.BytesIO(content.getvalue()))
    return paths


def decoded(content: bytes) -> Tensor:
    return torch.from_numpy(soundfile.read(io.BytesIO(content), dtype="int16")[0])


def others(tars: list[Path]) -> dict[str, Any]:
    """Readers of the same tars by packages that may be there, in batches of 2 processes."""
    found: dict[str, Any] = {}
    names = [str(path) for path in tars]
    try:
        import webdataset

        streamed = webdataset.WebDataset(names, shardshuffle=len(names)).shuffle(100)
        found["webdataset, 2 processes"] = streamed.map(_of_webdataset)
    except ImportError:
        print("webdataset is not installed and left out: pip install webdataset.\n")
    try:
        import datasets
        import torchcodec  # noqa: F401 - by which it reads and writes what is audio

        datasets.disable_progress_bars()
        streamed = datasets.load_dataset("webdataset", data_files=names, split="train", streaming=True)
        streamed = streamed.cast_column("flac", datasets.Audio(decode=False)).shuffle(0, buffer_size=100)
        found["datasets, streaming, 2 processes"] = streamed.map(
            _of_datasets, remove_columns=["flac", "__key__", "__url__"]
        )
    except ImportError:
        print(
            "datasets is left out, or torchcodec, which it reads audio by: pip install datasets torchcodec.\n"
        )
    return {title: DataLoader(one, batch_size=BATCH, num_workers=WORKERS) for title, one in found.items()}


def _of_webdataset(sample: dict[str, Any]) -> Tensor:
    return decoded(sample["flac"])


def _of_datasets(sample: dict[str, Any]) -> dict[str, Tensor]:
    return {"waveforms": decoded(sample["flac"]["bytes"])}


def write_litdata(clips: ClipSet, folder: Path) -> None:
    from litdata.streaming import Cache

    folder.mkdir()
    cache = Cache(input_dir=str(folder), chunk_bytes=SHARD)
    for position in range(len(clips)):
        cache[position] = clips[[position]].waveforms[0]
    cache.done()
    cache.merge()


def over(loader: BatchLoader, frontend: LogMel) -> loading.Epoch:
    return lambda: (frontend(samples_to_float(batch.waveforms), batch.lengths)[0] for batch in loader)


def from_shards(clips: ClipSet, store: ShardStore, frontend: LogMel) -> loading.Epoch:
    """The same clips by the rows of the shards; of another order than that of the map."""
    ids = [*store.set.clips.column("id")]
    row = {name: number for number, name in enumerate(ids)}
    chosen = ClipSet(clips.clips, [row[clip.id] for clip in clips.clips], store, clips.targets)
    rows = chosen.rows.numpy()
    sampler = ShardSampler(store, rows, store.shards[rows], len(rows), BATCH, True)
    return over(BatchLoader(chosen, sampler, WORKERS), frontend)


def from_map(clips: ClipSet, frontend: LogMel) -> loading.Epoch:
    sampler = BatchSampler(len(clips), BATCH, True)
    return over(BatchLoader(clips, sampler, WORKERS), frontend)


def from_tensors(loader: Any, frontend: LogMel) -> loading.Epoch:
    def epoch() -> Iterator[Tensor]:
        for waveforms in loader:
            waveforms = waveforms["waveforms"] if isinstance(waveforms, dict) else waveforms
            lengths = torch.full((len(waveforms),), waveforms.shape[1])
            yield frontend(samples_to_float(waveforms), lengths)[0]

    return epoch


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def loaders(quick: bool, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, frontend = Path(name), LogMel(loading.RATE, **loading.SIZES)
        data = loading.corpus(folder)
        clips = loading.of_full_length(data, loading.QUICK_CLIPS if quick else 400)
        shard(data.corpus, str(folder / "set"), (1, 1), SHARD, False, 0.0, 0)
        tars = write_tars(clips, folder / "tars")
        write_litdata(clips, folder / "litdata")
        from litdata import StreamingDataLoader, StreamingDataset

        streaming = StreamingDataset(str(folder / "litdata"), shuffle=True)
        with served(folder / "set") as address:
            store = ShardStore(ShardSet.open(str(folder / "set")), loading.RATE, folder, 1.0)
            afar = ShardStore(ShardSet.open(address), loading.RATE, folder, 22 * SHARD / 1e9)
            contenders = {
                OURS: from_shards(clips, store, frontend),
                "shards by a web server, a cache of 21 shards, 2 threads": from_shards(clips, afar, frontend),
                "memory map, 2 threads": from_map(clips, frontend),
                "litdata StreamingDataset, 2 processes": from_tensors(
                    StreamingDataLoader(streaming, batch_size=BATCH, num_workers=WORKERS), frontend
                ),
                "FLAC in tars, 2 processes": from_tensors(
                    DataLoader(Tars(tars), batch_size=BATCH, num_workers=WORKERS), frontend
                ),
            }
            contenders |= {title: from_tensors(one, frontend) for title, one in others(tars).items()}
            for title, epoch in contenders.items():
                assert sum(map(len, epoch())) == len(clips), title
            works = {title: partial(loading.exhaust, epoch) for title, epoch in contenders.items()}
            seconds = interleaved(works, repeats)
    title = f"Log-mel of 5-s clips at {loading.RATE} Hz, batches of {BATCH}, from shards"
    target = {title: ">= 1.5" for title in seconds if title.endswith("2 processes")}
    report(title, seconds, len(clips), target | {"memory map, 2 threads": ">= 0.8"})


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """The bytes of the files of a folder, looked at all the time."""
    sizes, ends = [0], threading.Event()
    (folder / "locks").mkdir(parents=True)

    def look() -> None:
        while not ends.wait(0.01):
            total = 0
            with FileLock(folder / "locks" / "room.lock"):  # meanwhile nothing goes, for others to come
                for path in folder.glob("*"):
                    with suppress(FileNotFoundError):
                        total += min(path.stat().st_size, 512 * path.stat().st_blocks) * path.is_file()
            sizes.append(total)

    thread = threading.Thread(target=look)
    thread.start()
    yield sizes
    ends.set()
    thread.join()


def training(quick: bool, repeats: int) -> None:
    """esc10_cnn2d on 400 clips, of which a tenth fits into the cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = loading.corpus(folder)
        size = SHARD // 8  # two clips
        written = shard(data.corpus, str(folder / "set"), (1, 1), size, False, 0.0, 0)
        limit = written.bytes / 10 / 1e9
        common = ["experiment=esc10_cnn2d", "logger=none", "report=null", "test=false", "loader.workers=2"]
        common += [f"trainer.max_epochs={1 if quick else 3}", f"loader.cache_gb={limit}"]
        seconds: dict[str, list[float]] = {EPOCHS: [], WAITING: []}
        most = []
        with served(folder / "set") as address:
            for number in range(1 if quick else repeats):
                cache = folder / f"cache-{number}"
                options = [*common, f"paths.cache={cache}", f"loader.shards={address}"]
                with watched(cache / "shards") as sizes:
                    found = train(config.compose_config(options), folder / f"run-{number}")
                clips = found["epochs"] * found["data"]["clips"]["train"]
                seconds[EPOCHS].append(clips / found["clips_per_second"])
                seconds[WAITING].append(seconds[EPOCHS][-1] * found["loader_wait"])
                most.append(max(sizes))
    title = "Training esc10_cnn2d from a web server, a set of ten times the cache"
    report(title, seconds, clips, {WAITING: "<= 0.05"})
    megabytes = [f"{number / 1e6:.1f} MB" for number in (max(most), limit * 1e9, written.bytes)]
    print("\nOn the disk at most {} of {}; the set has {}.".format(*megabytes))
    assert max(most) <= limit * 1e9


def main() -> None:
    options = arguments(__doc__ or "", repeats=5)
    quiet()
    keep_freed_memory()
    loaders(options.quick, options.repeats)
    training(options.quick, options.repeats)


if __name__ == "__main__":
    main()
