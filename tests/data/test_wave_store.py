"""WaveStore: the samples of direct decoding, found again, never half there, built by one process."""

from __future__ import annotations

import errno
import json
import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import sine, write_wav
from processes import ended, start
from torch import Tensor

import lightning_audio.data.decode as decoding
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import decode
from lightning_audio.data.manifests import read_manifest, write_manifest
from lightning_audio.data.placement import WHERE, fitting, gather_on_device
from lightning_audio.data.quarantine import QUARANTINE
from lightning_audio.data.store import read_index
from lightning_audio.data.wave_store import WaveStore, _key
from lightning_audio.errors import UserError

RATE = 8000


def noise(samples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9999, 9999, samples).astype(np.int16)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Twelve clips of 1,000 to 1,550 samples at the store's rate."""
    paths = [write_wav(tmp_path / f"{n}.wav", noise(1000 + 50 * n, n), RATE) for n in range(12)]
    return [Clip(f"clip-{n:02d}", str(path)) for n, path in enumerate(paths)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def row(store: WaveStore, clip_id: str) -> int:
    return store.ids.index(clip_id)


def samples_of(store: WaveStore, clip: Clip) -> np.ndarray:
    waveforms, lengths = store.gather([row(store, clip.id)])
    assert waveforms.shape == (1, int(lengths[0]))
    return waveforms[0].numpy()


def assert_holds(store: WaveStore, clips: Sequence[Clip]) -> None:
    """The store's samples are those of decoding each clip by itself."""
    assert len(store) == len(clips)
    assert store.ids == tuple(sorted(clip.id for clip in clips))
    for clip in clips:
        expected = decode(clip.path, store.sample_rate, clip.start, clip.duration)
        np.testing.assert_array_equal(samples_of(store, clip), expected)
        assert store.lengths[row(store, clip.id)] == len(expected)


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was decoded again")

    monkeypatch.setattr("lightning_audio.data.wave_store.decode_clips", refuse)


def left_in(cache: Path) -> list[str]:
    """Everything in the folder of stores but the locks."""
    return sorted(path.name for path in (cache / "stores").iterdir() if path.suffix != ".lock")


def test_store_equals_direct_decoding_for_every_kind_of_file(tmp_path: Path, cache: Path) -> None:
    wide = np.random.default_rng(0).normal(0, 0.1, (44100, 2))
    files = {
        "int.wav": (noise(9000, 1), RATE, "PCM_16"),
        "float.wav": (wide[:, 0], RATE, "FLOAT"),
        "a.flac": (noise(7000, 2), RATE, "PCM_16"),
        "a.ogg": (wide[:, 0], 44100, "VORBIS"),
        "a.mp3": (wide[:, 0], 44100, "MPEG_LAYER_III"),
        "stereo.wav": (wide, 44100, "PCM_16"),
    }
    paths = [str(write_wav(tmp_path / name, *content)) for name, content in files.items()]
    clips = [Clip(f"{start}-{path}", path, start, 0.25) for path in paths for start in (0.0, 0.5)]
    clips += [Clip(path, path) for path in paths]
    clips += [replace(clips[0], id="the same once more")]
    assert_holds(WaveStore.open(clips, RATE, cache), clips)
    assert_holds(WaveStore.open(clips, 16000, cache), clips)


def test_clips_may_come_in_any_order(clips: list[Clip], cache: Path) -> None:
    store = WaveStore.open(clips, RATE, cache)
    assert store.folder.name == WaveStore.open(clips[::-1], RATE, cache).folder.name
    assert_holds(WaveStore.open(clips[::-1], RATE, cache), clips)


@pytest.mark.parametrize("where", WHERE)
def test_gather_against_brute_force(clips: list[Clip], cache: Path, where: str) -> None:
    store = WaveStore.open(clips, RATE, cache, where, device="cpu")
    for rows in ([3], [11, 0, 5, 5], list(range(12)), torch.tensor([2, 7])):
        waveforms, lengths = store.gather(rows)
        assert_batch(waveforms, lengths, [noise(1000 + 50 * int(row), int(row)) for row in rows])


def assert_batch(waveforms: Tensor, lengths: Tensor, expected: list[np.ndarray]) -> None:
    padded = [np.pad(samples, (0, max(map(len, expected)) - len(samples))) for samples in expected]
    assert waveforms.dtype == torch.int16
    assert lengths.tolist() == [len(samples) for samples in expected]
    np.testing.assert_array_equal(waveforms.numpy(), padded)


def test_gather_on_a_device_against_brute_force() -> None:
    expected = [noise(length, length) for length in (5, 1, 9, 3)]
    samples = torch.from_numpy(np.concatenate([*expected, np.zeros(9, np.int16)]))
    offsets, lengths = torch.tensor([0, 5, 6, 15]), torch.tensor([5, 1, 9, 3])
    for rows, longest in (([0, 1, 2, 3], 9), ([3], 3), ([3, 2, 2], 9), ([1, 1], 1)):
        ragged = len({int(lengths[row]) for row in rows}) > 1
        assert_batch(
            *gather_on_device(samples, offsets[rows], lengths[rows], longest, ragged),
            [expected[row] for row in rows],
        )


@pytest.mark.parametrize("ragged", [True, False])
def test_a_gather_on_a_device_never_asks_it_for_a_number(ragged: bool) -> None:
    # Tensors of the meta device have no values: to read one, as `int(lengths.max())` would, is an error.
    offsets, lengths = torch.tensor([0, 5], device="meta"), torch.tensor([5, 1], device="meta")
    samples = torch.empty(20, dtype=torch.int16, device="meta")
    with pytest.raises(RuntimeError):
        int(lengths.max())
    waveforms, lengths = gather_on_device(samples, offsets, lengths, 5, ragged)
    assert (waveforms.shape, waveforms.dtype, lengths.shape) == ((2, 5), torch.int16, (2,))


def test_samples_travel_to_a_device_in_parts(
    clips: list[Clip], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_audio.data.placement.CHUNK", 999)
    sizes: list[int] = []
    from_numpy = torch.from_numpy

    def watched(part: np.ndarray) -> Tensor:
        sizes.append(len(part))
        return from_numpy(part)

    store = WaveStore.open(clips, RATE, cache, "device", device="cpu")
    monkeypatch.setattr("lightning_audio.data.placement.torch.from_numpy", watched)
    assert_holds(store, clips)
    assert sum(sizes) == sum(1000 + 50 * n for n in range(12))
    assert max(sizes) == 999, "never all of them in the memory of the host"


def test_a_store_on_a_device_follows_the_one_that_trains(clips: list[Clip], cache: Path) -> None:
    store = WaveStore.open(clips, RATE, cache, "device", device="cpu")
    store.gather([0])
    store.move(torch.device("meta"))
    assert store.gather([0, 5])[0].device.type == "meta"
    store.move(torch.device("cpu"))
    assert_holds(store, clips)
    on_disk = WaveStore.open(clips, RATE, cache, "disk")
    on_disk.move(torch.device("meta"))
    assert_holds(on_disk, clips)


@pytest.mark.parametrize(
    ("on_device", "in_memory", "expected"),
    [(401, 0, "device"), (400, 401, "memory"), (0, 401, "memory"), (0, 400, "disk"), (400, 0, "disk")],
)
def test_a_store_goes_where_it_takes_less_than_a_quarter(
    on_device: int, in_memory: int, expected: str
) -> None:
    assert fitting(100, on_device, in_memory) == expected


def test_auto_says_what_it_has_chosen(
    clips: list[Clip], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, expected in ((10**6, "memory"), (1000, "disk")):
        monkeypatch.setattr("lightning_audio.data.placement.free_memory", lambda free=free: free)
        store = WaveStore.open(clips, RATE, cache, "auto")
        assert store.where == expected
        assert_holds(store, clips)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gather_on_cuda_equals_gather_from_disk(clips: list[Clip], cache: Path) -> None:
    store = WaveStore.open(clips, RATE, cache, "device", device="cuda")
    waveforms, lengths = store.gather([11, 0, 5])
    assert waveforms.device.type == lengths.device.type == "cuda"
    assert_batch(waveforms.cpu(), lengths.cpu(), [noise(1000 + 50 * n, n) for n in (11, 0, 5)])


def test_what_is_gathered_is_the_callers_own(clips: list[Clip], cache: Path) -> None:
    store = WaveStore.open(clips, RATE, cache)
    store.gather([0])[0].zero_()
    assert_holds(store, clips)


@pytest.mark.parametrize("where", WHERE)
def test_the_second_start_decodes_nothing(
    clips: list[Clip], cache: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = WaveStore.open(clips, RATE, cache)
    forbid_decoding(monkeypatch)
    second = WaveStore.open(clips, RATE, cache, where)
    assert second.folder.name == first.folder.name
    np.testing.assert_array_equal(samples_of(second, clips[7]), noise(1350, 7))


def test_the_hash_follows_what_the_samples_depend_on(clips: list[Clip], cache: Path) -> None:
    def key(of: Sequence[Clip] = clips, rate: int = RATE) -> str:
        return WaveStore.open(of, rate, cache).folder.name

    first, *others = clips
    keys = [key(), key(rate=16000), key(others)]
    keys += [
        key([replace(first, id="another"), *others]),
        key([replace(first, path=others[0].path), *others]),
    ]
    keys += [key([replace(first, start=0.01), *others]), key([replace(first, duration=0.01), *others])]
    os.utime(first.path, ns=(0, 0))
    keys += [key()]
    write_wav(Path(first.path), noise(1001, 99), RATE)
    os.utime(first.path, ns=(0, 0))
    keys += [key()]
    write_wav(Path(first.path), noise(1001, 98), RATE)  # of the same size, at the same time
    os.utime(first.path, ns=(0, 0))
    keys += [key()]
    assert len(set(keys)) == 10
    assert_holds(WaveStore.open(clips, RATE, cache), clips)


def test_folds_and_labels_share_one_store(
    clips: list[Clip], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = WaveStore.open(clips, RATE, cache)
    forbid_decoding(monkeypatch)
    others = [replace(c, labels=("dog",), split="test", fold=3, group="g", text="a dog") for c in clips]
    assert WaveStore.open(others, RATE, cache).folder.name == first.folder.name
    assert left_in(cache) == [first.folder.name]


@pytest.mark.parametrize("where", WHERE)
def test_pickled_as_a_folder_and_not_as_samples(clips: list[Clip], cache: Path, where: str) -> None:
    store = WaveStore.open(clips, RATE, cache, where, device="cpu")
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)
    assert copy.where == store.where
    assert_holds(copy, clips)


def test_a_store_that_lost_its_tail_is_built_again(clips: list[Clip], cache: Path) -> None:
    store = WaveStore.open(clips, RATE, cache)
    samples = store.folder / "samples.int16"
    samples.write_bytes(samples.read_bytes()[:-2])
    with pytest.raises(UserError, match="not whole"):
        WaveStore(store.folder)
    assert_holds(WaveStore.open(clips, RATE, cache), clips)
    assert_holds(WaveStore.open(clips, RATE, cache), clips)
    assert left_in(cache) == [store.folder.name]


def test_rows_are_in_the_order_of_the_ids(clips: list[Clip], cache: Path) -> None:
    store = WaveStore.open(clips[::-1], RATE, cache)
    assert [row(store, clips[number].id) for number in (7, 0, 11)] == [7, 0, 11]


@pytest.mark.parametrize("name", ["index.json", "lengths.npy", "ids.json"])
@pytest.mark.parametrize("damage", ["lost", "cut", "odd"])
def test_a_store_with_a_damaged_index_is_built_again(
    name: str, damage: str, clips: list[Clip], cache: Path
) -> None:
    store = WaveStore.open(clips, RATE, cache)
    file = store.folder / name
    whole = file.read_bytes()
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(whole[:-3] if damage == "cut" else b"[1]")
    with pytest.raises(UserError, match="not whole"):
        WaveStore(store.folder)
    assert_holds(WaveStore.open(clips, RATE, cache), clips)
    assert file.read_bytes() == whole
    assert left_in(cache) == [store.folder.name]


def test_lengths_that_do_not_fit_the_samples_are_no_index(clips: list[Clip], cache: Path) -> None:
    store = WaveStore.open(clips, RATE, cache)
    np.save(store.folder / "lengths.npy", store.lengths.numpy() + 1)  # the file's size stays
    assert read_index(store.folder, "samples.int16") is None
    assert_holds(WaveStore.open(clips, RATE, cache), clips)


def damage(store: Any, kind: str) -> None:
    """Zeros over a stretch in the middle of the values, or a single bit; the file keeps its time."""
    file = store.folder / store.file
    stat, content = file.stat(), bytearray(file.read_bytes())
    middle = len(content) // 2
    if kind == "zeros":
        content[middle : middle + 500] = bytes(500)
    else:
        content[middle] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every store is one that is too large to be checked at once."""
    monkeypatch.setattr("lightning_audio.data.store.CHECKED_AT_ONCE", 0)


def test_a_small_store_is_checked_whole_whatever_is_read_of_it(
    clips: list[Clip], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(WaveStore.open(clips, RATE, cache), "one bit")
    store = WaveStore.open(clips, RATE, cache)
    assert capsys.readouterr().out.count("is damaged or out of date: it is built again.") == 1
    assert_holds(store, clips)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("kind", ["zeros", "one bit"])
@pytest.mark.parametrize("where", ["disk", "memory", "device"])
def test_damaged_samples_are_built_again_and_told(
    kind: str, where: str, clips: list[Clip], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = WaveStore.open(clips, RATE, cache)
    damage(built, kind)
    store = WaveStore.open(clips, RATE, cache, where, device="cpu")
    assert_holds(store, clips)
    assert capsys.readouterr().out.count(f"{store.folder} is damaged or out of date: it is built again.") == 1
    assert store.hash == built.hash
    assert_holds(WaveStore.open(clips, RATE, cache), clips)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("large")
def test_damage_behind_the_back_of_a_run_is_mended_when_it_gets_there(clips: list[Clip], cache: Path) -> None:
    store, other = WaveStore.open(clips, RATE, cache), WaveStore.open(clips, RATE, cache)
    store.gather([0])
    other.gather([0])
    damage(store, "zeros")
    assert_holds(store, clips)
    folder = store.folder.stat().st_ino
    assert_holds(other, clips)  # whose map is of the old file
    assert store.folder.stat().st_ino == folder, "built once"


@pytest.mark.usefixtures("large")
def test_a_damaged_store_of_which_nothing_is_known_is_one_sentence(clips: list[Clip], cache: Path) -> None:
    damage(WaveStore.open(clips, RATE, cache), "one bit")
    folder = WaveStore.open(clips, RATE, cache).folder
    with pytest.raises(UserError, match="is damaged: remove it, and it will be built again"):
        WaveStore(folder).gather(range(12))


@pytest.mark.usefixtures("large")
def test_samples_that_can_no_longer_be_what_they_were_end_the_run(clips: list[Clip], cache: Path) -> None:
    store = WaveStore.open(clips, RATE, cache)
    damage(store, "zeros")
    write_wav(Path(clips[2].path), noise(1100, 77), RATE)
    with pytest.raises(UserError, match=r"built again, but not as it was: start the command again\.$"):
        store.gather(range(12))


def test_ids_may_hold_any_character(tmp_path: Path, cache: Path) -> None:
    names = ["new\nline", "nul\0", 'quote "', "ünï", "\ud800 alone", "  ", "a,b"]
    path = str(write_wav(tmp_path / "a.wav", noise(100, 0), RATE))
    clips = [Clip(name, path) for name in names]
    assert_holds(WaveStore.open(clips, RATE, cache), clips)


def test_the_key_is_of_the_place_and_not_of_the_words_for_it(
    clips: list[Clip], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = WaveStore.open(clips, RATE, cache)
    monkeypatch.chdir(tmp_path)
    relative = [replace(clip, path=Path(clip.path).name) for clip in clips]
    assert WaveStore.open(relative, RATE, cache).folder == store.folder
    # What stands in one column is not taken for what stands in the next.
    a, b = clips[0].path, clips[1].path
    pairs = [[Clip("x", a), Clip("y", b)], [Clip("x", b), Clip("y", a)]]
    pairs += [[Clip("x", a, 0.05), Clip("y", a)], [Clip("x", a), Clip("y", a, 0.05)]]
    pairs += [[Clip("x", a, 0.0, 0.05), Clip("y", a)], [Clip("x", a), Clip("y", a, 0.0, 0.05)]]
    pairs += [[Clip("x", a), Clip("y\nz", a)], [Clip("x\ny", a), Clip("z", a)]]
    runs = ([a, a, b], [a, b, b], [a, b, a])
    pairs += [[Clip(f"{n}", path) for n, path in enumerate(paths)] for paths in runs]
    assert len({WaveStore.open(pair, RATE, cache).folder for pair in pairs}) == len(pairs)


def test_each_file_is_asked_for_its_size_once(
    clips: list[Clip], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stretches = [replace(clip, id=f"{clip.id} {n}", duration=0.01) for clip in clips for n in range(5)]
    WaveStore.open(stretches, RATE, cache)
    asked = recordings_asked(monkeypatch)
    WaveStore.open(stretches, RATE, cache)
    assert sorted(asked) == sorted(clip.path for clip in clips)


def recordings_asked(patch: pytest.MonkeyPatch) -> list[str]:
    """Grows by each recording whose file is asked for its size from now on."""
    asked: list[str] = []
    stat = os.stat

    def noted(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(".wav"):
            asked.append(str(path))
        return stat(path, **options)

    patch.setattr(os, "stat", noted)
    return asked


def spoil(clips: Sequence[Clip]) -> None:
    for clip in clips:
        Path(clip.path).write_bytes(b"no audio")


def quarantined(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / QUARANTINE).read_text().splitlines()]


def test_all_bad_files_are_told_at_once(clips: list[Clip], cache: Path) -> None:
    spoil(clips[3:4])
    Path(clips[8].path).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        WaveStore.open(clips, RATE, cache)
    told = str(caught.value)
    assert told.startswith(
        "2 of 12 clips cannot be read, and loader.max_bad_fraction=0 lets a run go without 0: "
    )
    assert f"{clips[3].path}: it cannot be decoded (" in told
    assert f"{clips[8].path}: it is empty" in told
    (kept,) = left_in(cache)
    assert f"(all of them in {cache / 'stores' / kept / QUARANTINE})" in told
    assert "\n" not in told


def test_many_bad_files_are_counted(clips: list[Clip], cache: Path) -> None:
    spoil(clips)
    for share in (0.0, 1.0):  # a run without any clip is none
        with pytest.raises(UserError, match=r"^12 of 12 clips .* and 7 more \(all of them in "):
            WaveStore.open(clips, RATE, cache, max_bad_fraction=share)


def test_a_store_goes_without_a_few_bad_files_and_lists_them(clips: list[Clip], cache: Path) -> None:
    spoil(clips[3:5])
    store = WaveStore.open(clips, RATE, cache, max_bad_fraction=2 / 12)
    assert_holds(store, clips[:3] + clips[5:])
    reason = "it cannot be decoded (Format not recognised)"
    expected = [{"id": clip.id, "path": clip.path, "reason": reason} for clip in clips[3:5]]
    assert quarantined(store.folder) == [asdict(row) for row in store.quarantined] == expected
    assert_holds(pickle.loads(pickle.dumps(store)), clips[:3] + clips[5:])


def test_a_store_that_lacks_clips_is_held_against_the_share_of_each_opening(
    clips: list[Clip], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(clips[3:5])
    first = WaveStore.open(clips, RATE, cache, max_bad_fraction=0.5)
    forbid_decoding(monkeypatch)
    assert WaveStore.open(clips, RATE, cache, max_bad_fraction=0.17).quarantined == first.quarantined
    for share, allowed in ((0.0, 0), (0.16, 1)):
        with pytest.raises(
            UserError, match=rf"^2 of 12 .*max_bad_fraction={share:g} lets a run go without {allowed}:"
        ):
            WaveStore.open(clips, RATE, cache, max_bad_fraction=share)
    assert left_in(cache) == [first.folder.name]


def test_a_mended_file_is_decoded_anew(clips: list[Clip], cache: Path) -> None:
    spoil(clips[3:4])
    lacking = WaveStore.open(clips, RATE, cache, max_bad_fraction=0.1)
    write_wav(Path(clips[3].path), noise(700, 3), RATE)
    store = WaveStore.open(clips, RATE, cache)
    assert store.folder != lacking.folder
    assert store.quarantined == ()
    assert_holds(store, clips)


@pytest.mark.parametrize("content", [None, b"", b'{"id": 1}\n', b"{"])
def test_a_store_that_lost_its_list_is_built_again(
    content: bytes | None, clips: list[Clip], cache: Path
) -> None:
    spoil(clips[3:4])
    store = WaveStore.open(clips, RATE, cache, max_bad_fraction=0.1)
    (store.folder / QUARANTINE).unlink()
    if content is not None:
        (store.folder / QUARANTINE).write_bytes(content)
    with pytest.raises(UserError, match="1 of 12 clips"):
        WaveStore.open(clips, RATE, cache)
    assert [row["id"] for row in quarantined(store.folder)] == [clips[3].id]


def test_what_the_system_refuses_to_open_is_not_kept_as_bad(
    clips: list[Clip], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: str, *_: object, **__: object) -> None:
        raise soundfile.LibsndfileError(2, f"Error opening {path!r}: ")

    with monkeypatch.context() as patched:
        patched.setattr("lightning_audio.data.audio_file._Sound", closed)
        with pytest.raises(UserError, match=r"^12 audio files cannot be opened"):
            WaveStore.open(clips, RATE, cache, max_bad_fraction=1.0)
    assert left_in(cache) == []
    assert_holds(WaveStore.open(clips, RATE, cache), clips)


def test_missing_files_are_told_before_anything_is_decoded(
    clips: list[Clip], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_decoding(monkeypatch)
    for clip in clips[:4]:
        Path(clip.path).unlink()
    with pytest.raises(UserError, match=r"^4 of 12 audio files are missing, such as .*0\.wav, .*2\.wav: "):
        WaveStore.open(clips, RATE, cache)
    assert not cache.exists()


def test_an_unknown_place_is_refused(clips: list[Clip], cache: Path) -> None:
    with pytest.raises(UserError, match=r"'gpu'.*disk, memory, device"):
        WaveStore.open(clips, RATE, cache, where="gpu")


def test_a_full_disk_is_told_with_the_space_that_is_needed(
    clips: list[Clip], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning_audio.io.os.fsync", full)
    # 12 clips of 1,275 samples on average, 2 bytes each.
    with pytest.raises(UserError, match=r"full: the decoded audio needs about 3\.1e-05 GB"):
        WaveStore.open(clips, RATE, cache)
    assert left_in(cache) == []


def test_a_cache_that_cannot_be_written_to_is_told(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written to .* paths\.cache"):
        WaveStore.open(clips, RATE, tmp_path / "file")


def opener(folder: Path, fatal: str) -> None:
    """Opens a store, writes down what it decodes, takes its time over the first, and dies at one of them."""
    read_audio = decoding.read_audio

    def watched(path: str, *where: Any, **how: Any) -> Any:
        with (folder / "decoded.txt").open("a") as file:
            file.write(f"{Path(path).name}\n")
        if Path(path).name == fatal:
            os._exit(9)
        time.sleep(0.5 if Path(path).name == "0.wav" else 0)
        return read_audio(path, *where, **how)

    decoding.read_audio = watched  # type: ignore[assignment]
    store = WaveStore.open(read_manifest(folder / "clips.jsonl"), RATE, folder / "cache")
    print(store.folder.name, int(store.gather(range(len(store)))[0].sum()))


def start_opener(folder: Path, clips: Sequence[Clip], fatal: str = "") -> BaseProcess:
    write_manifest(clips, folder / "clips.jsonl")
    return start(opener, folder, fatal, output=folder / "said")


def test_a_killed_build_leaves_nothing_that_looks_whole(
    clips: list[Clip], tmp_path: Path, cache: Path
) -> None:
    assert ended(start_opener(tmp_path, clips, fatal="10.wav")) == 9
    (left_over,) = left_in(cache)
    assert left_over.startswith(".")
    assert ".partial-" in left_over
    store = WaveStore.open(clips, RATE, cache)
    assert_holds(store, clips)
    assert left_in(cache) == [store.folder.name]


def test_two_processes_that_open_at_the_same_time_build_once(
    clips: list[Clip], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = start_opener(tmp_path, clips)
    while not (tmp_path / "decoded.txt").exists() and other.exitcode is None:
        time.sleep(0.005)
    assert left_in(cache)[0].startswith(".")  # The other one is in the middle of it.
    forbid_decoding(monkeypatch)
    store = WaveStore.open(clips, RATE, cache)
    total = sum(int(noise(1000 + 50 * n, n).sum()) for n in range(12))
    assert ended(other) == 0
    assert (tmp_path / "said").read_text() == f"{store.folder.name} {total}\n"
    decoded = (tmp_path / "decoded.txt").read_text().split()
    assert sorted(decoded) == sorted(Path(clip.path).name for clip in clips)
    assert_holds(store, clips)
    assert left_in(cache) == [store.folder.name]


def test_a_store_is_named_by_the_channels_that_were_chosen(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.stack([sine(300, 0.1, 8000), sine(600, 0.1, 8000)], axis=1), 8000)
    keys = {
        channel: _key([Clip("a", str(tmp_path / "a.wav"), channel=channel)], 8000)
        for channel in (None, "mean", 0, 1)
    }
    assert keys[None] == keys["mean"]
    assert len({*keys.values()}) == 3


def test_what_is_odd_about_clips_is_told_at_each_opening(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = noise(1000, 0) / 32768
    path = write_wav(tmp_path / "cancels.wav", np.stack([left, -left], 1), RATE)
    for _ in range(2):
        caplog.clear()
        WaveStore.open([Clip("a", str(path))], RATE, cache)
        assert "1 clip (cancelling): a: its 2 channels cancel each other" in caplog.text


def test_of_many_clips_the_files_are_asked_later_and_before_a_score(
    clips: list[Clip], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_audio.data.wave_store.MANY", 12)
    monkeypatch.setattr("lightning_audio.data.later.BEGINS_AFTER", 3600.0)
    WaveStore.open(clips, RATE, cache)
    with monkeypatch.context() as patch:
        asked = recordings_asked(patch)
        again = WaveStore.open(clips, RATE, cache)
        assert not asked
        again.confirm_files()
        assert len(asked) == 12
    assert_holds(again, clips)
    changed = write_wav(Path(clips[3].path), noise(900, 99), RATE)
    late = WaveStore.open(clips, RATE, cache)
    late.gather([0])  # nobody knows yet
    with pytest.raises(UserError, match=f"changed since they were decoded, such as {changed}: nothing"):
        late.confirm_files()
    with pytest.raises(UserError, match="have changed"):
        late.gather([0])
    assert_holds(WaveStore.open(clips, RATE, cache), clips)  # decoded anew
    gone = WaveStore.open(clips, RATE, cache)
    changed.unlink()
    with pytest.raises(UserError, match="1 of 12 audio files are missing"):
        gone.confirm_files()


def test_what_changed_is_told_beside_the_first_epoch(
    clips: list[Clip], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_audio.data.wave_store.MANY", 12)
    monkeypatch.setattr("lightning_audio.data.later.BEGINS_AFTER", 0.01)
    WaveStore.open(clips, RATE, cache)
    write_wav(Path(clips[3].path), noise(900, 99), RATE)
    store = WaveStore.open(clips, RATE, cache)
    assert store.later is not None
    while not store.later.is_answered:
        time.sleep(0.01)
    with pytest.raises(UserError, match="have changed"):
        store.gather([0])
