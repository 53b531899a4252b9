"""Shards that come from a bucket: the same samples whatever it does, within the bound, and told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from bucket import Faults, served
from filelock import FileLock
from test_write import RATE, SAMPLES, noise

from lightning_audio.data.clip import Clip
from lightning_audio.data.shards import storage
from lightning_audio.data.shards.sampler import ShardSampler
from lightning_audio.data.shards.shard_set import ShardSet
from lightning_audio.data.shards.shard_store import ShardStore
from lightning_audio.data.shards.storage import Storage
from lightning_audio.data.shards.write import write_shards
from lightning_audio.errors import UserError

CLIPS, LENGTH = 800, 1000
SHARD = 10 * 2 * LENGTH  # bytes: ten clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 shards of ten clips of noise, written without audio files."""
    root = tmp_path_factory.mktemp("shards")
    clips = [Clip(f"{n:04d}", f"{n}.wav", split="train") for n in range(CLIPS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lightning_audio.data.shards.write.decode_clips",
            lambda clips, rate: (noise(LENGTH, int(clip.id)) for clip in clips),
        )
        write_shards(clips, root, Storage(str(root / "set")), SAMPLES, (1, 1), SHARD)
    return root / "set"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)


def opened(address: str, cache: Path, shards: float = 24) -> ShardStore:
    return ShardStore(ShardSet.open(address), RATE, cache, shards * SHARD / 1e9)


def epoch_of(store: ShardStore, epoch: int = 0, size: int = 16, **options: int) -> Iterator[list[int]]:
    sampler = ShardSampler(store, np.arange(CLIPS), store.shards, CLIPS, size, True, 3, **options)
    sampler.set_epoch(epoch)
    return iter(sampler)


def assert_right(store: ShardStore, rows: list[int]) -> None:
    gathered, lengths = store.gather(rows)
    assert lengths.tolist() == [LENGTH] * len(rows)
    np.testing.assert_array_equal(gathered.numpy(), np.stack([noise(LENGTH, row) for row in rows]))


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """The bytes on the disk below a folder, looked at all the time."""
    sizes, ends = [0], threading.Event()
    (folder / "locks").mkdir(parents=True)

    def look() -> None:
        while not ends.wait(0.002):
            total = 0
            with FileLock(folder / "locks" / "room.lock"):  # meanwhile nothing goes, for others to come
                for path in folder.glob("*"):
                    with suppress(FileNotFoundError):
                        # What is on its way: blocks, for what is reserved takes none.
                        total += min(path.stat().st_size, 512 * path.stat().st_blocks) * path.is_file()
            sizes.append(total)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        ends.set()
        thread.join()


def test_a_bucket_that_fails_gives_the_same_clips_in_the_same_order(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    local = [*epoch_of(opened(str(folder), tmp_path))]
    faults = Faults("503", "cut", "damaged", "503")
    with served(folder, faults) as address, caplog.at_level(logging.WARNING):
        store = opened(address, tmp_path)
        order = [*epoch_of(store)]
        assert order == local
        for rows in order[:4]:
            assert_right(store, rows)
        store.plan(np.zeros(0, int))  # nothing more is fetched ahead
    told = [record.getMessage() for record in caplog.records]
    for words in ("503", "bytes are not those that were written", "try 2 in", "try 5 in"):
        assert any(words in line for line in told), words
    assert all(address in line for line in told)


def test_the_disk_stays_within_the_bound_and_each_shard_comes_once(folder: Path, tmp_path: Path) -> None:
    faults = Faults()
    with served(folder, faults) as address, watched(tmp_path / "shards") as sizes:
        store = opened(address, tmp_path, shards=24)
        for rows in epoch_of(store):
            assert_right(store, rows)
        assert len(faults.asked) == 80
        assert sum(faults.asked.values()) == 80  # none came twice, though less than a third fits
        for rows in epoch_of(store, epoch=1):
            assert_right(store, rows)
        store.plan(np.zeros(0, int))
    assert 10 * SHARD < max(sizes) <= 24 * SHARD


def test_two_ranks_share_the_cache(folder: Path, tmp_path: Path) -> None:
    faults, wrong = Faults(slow=0.002), []
    with served(folder, faults) as address, watched(tmp_path / "shards") as sizes:

        def read(rank: int) -> None:
            store = opened(address, tmp_path, shards=40)
            for rows in epoch_of(store, size=8, rank=rank, world_size=2):
                try:
                    assert_right(store, rows)
                except BaseException as error:  # of any kind: the other thread should see it
                    wrong.append(error)
                    raise

        threads = [threading.Thread(target=read, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert sum(faults.asked.values()) < 1.5 * 80
    assert max(sizes) <= 40 * SHARD


def test_shards_come_before_their_turn(folder: Path, tmp_path: Path) -> None:
    """With 20 ms for each shard, ten clips of 4 ms: one after the other would take 1.6 s of waiting."""
    waited = 0.0
    with served(folder, Faults(slow=0.02)) as address:
        store = opened(address, tmp_path, shards=40)
        for number, rows in enumerate(epoch_of(store, size=10)):
            time.sleep(0.04)
            start = time.perf_counter()
            store.gather(rows)
            waited += time.perf_counter() - start if number > 1 else 0.0
    assert waited < 0.8


def test_a_shard_that_is_gone_ends_the_run_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    kinds = ["503"] * 100
    with served(folder, Faults(*kinds)) as address:
        store = opened(address, tmp_path)
        with pytest.raises(UserError, match=rf"did not come in {storage.TRIES} tries \(.*503"):
            store.gather([0])
    with served(folder) as address:
        store = opened(address, tmp_path)
        with pytest.raises(UserError, match=r"There is no .*nothing\.int16"):
            store.cache.storage.fetch("nothing.int16", tmp_path / "x", "")


def test_what_is_damaged_on_this_disk_is_fetched_again(folder: Path, tmp_path: Path) -> None:
    faults = Faults()
    with served(folder, faults) as address:
        assert_right(opened(address, tmp_path), [0, 1])
        for path in (tmp_path / "shards").glob("*.int16"):
            path.write_bytes(bytes(path.stat().st_size))
        assert_right(opened(address, tmp_path), [0, 1])
    assert sorted(faults.asked.values()) == [2] * len(faults.asked)


def test_what_a_killed_process_left_is_cleared(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for kind in ("room", "partial"):
        (tmp_path / "shards" / f".0-x.int16.{kind}").write_bytes(bytes(23 * SHARD))
    with served(folder) as address:
        assert_right(opened(address, tmp_path), [5, 3])
    assert not list((tmp_path / "shards").glob(".*"))


def test_a_cache_that_cannot_hold_a_window_is_refused(folder: Path, tmp_path: Path) -> None:
    with served(folder) as address:
        with pytest.raises(UserError, match=r"cache_gb=0\.0002 is too little for .*: 18 of its shards"):
            opened(address, tmp_path, shards=10)
        with pytest.raises(UserError, match="holds samples at 8000 Hz"):
            ShardStore(ShardSet.open(address), 16000, tmp_path, 1.0)
    assert len(opened(str(folder), tmp_path, shards=0)) == CLIPS  # a folder is read where it is
    assert torch.equal(opened(str(folder), tmp_path).lengths, torch.full((CLIPS,), LENGTH))
    with pytest.raises(UserError, match=r"holds no shards\.json"):
        ShardSet.open(str(tmp_path / "nowhere"))
