"""FeatureStore: what the front end gives, kept whole or not at all, and the same training from it."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, write_wav
from omegaconf import OmegaConf
from processes import ended, start
from torch import Tensor, nn

from lightning_audio import build
from lightning_audio.config import compose_config
from lightning_audio.data import feature_store
from lightning_audio.data.batch import samples_to_float, without_samples
from lightning_audio.data.clip import Clip
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.feature_store import FeatureStore, _batches
from lightning_audio.data.wave_store import WaveStore
from lightning_audio.errors import UserError
from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.frontend.mfcc import MFCC
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.classification import Classification
from lightning_audio.tasks.trigger import Trigger
from lightning_audio.training.run import train

RATE = 8000
LOG_MEL: dict[str, Any] = {"n_fft": 256, "hop_length": 100, "n_mels": 16}
FRONT_ENDS: dict[str, Callable[[], Any]] = {
    "log_mel": lambda: LogMel(RATE, **LOG_MEL),
    "all levels": lambda: LogMel(RATE, **LOG_MEL, top_db=None),
    "three windows": lambda: LogMel(RATE, **LOG_MEL, win_length=[64, 128, 256]),
    "mfcc": lambda: MFCC(RATE, n_mfcc=7, **LOG_MEL),
}
# A recipe without waveform augmentation; masks on features stay on.
ON_FEATURES = (
    *TINY,
    *(f"augment.waveform.{name}=null" for name in ("roll", "gain", "polarity")),
    "loader.val_fraction=0.2",
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Noise of 60 to 4,500 samples, the first far louder than the rest, and one of digital silence."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("clips")
    lengths, levels = (60, 99, 100, 101, 1730, 4500, 800), (20000, 300, 300, 20, 5000, 5000, 0)
    noises = [
        (level * rng.uniform(-1, 1, n)).astype(np.int16) for n, level in zip(lengths, levels, strict=True)
    ]
    paths = [write_wav(folder / f"{n}.wav", noise, RATE) for n, noise in enumerate(noises)]
    return [Clip(f"clip-{n}", str(path)) for n, path in enumerate(paths)]


@pytest.fixture
def waves(clips: list[Clip], tmp_path: Path) -> WaveStore:
    return WaveStore.open(clips, RATE, tmp_path)


def expected_of(waves: WaveStore, frontend: Any, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    waveforms, lengths = waves.gather(rows)
    return frontend(samples_to_float(waveforms), lengths)


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "features").iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("name", FRONT_ENDS)
@pytest.mark.parametrize("where", ["disk", "memory", "device"])
def test_gather_equals_the_front_end_on_the_padded_batch(
    name: str, where: str, waves: WaveStore, tmp_path: Path
) -> None:
    frontend = FRONT_ENDS[name]()
    store = FeatureStore.open(waves, frontend, {"name": name}, tmp_path, where, "cpu")
    for rows in ([5], [3], [0, 5, 1], [6, 2, 6], list(range(7))):
        features, lengths = store.gather(rows)
        expected, frames = expected_of(waves, frontend, rows)
        assert lengths.tolist() == frames.tolist()
        assert features.dtype == torch.float32
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-4)


def test_gather_on_a_device_equals_gather_in_memory(waves: WaveStore, tmp_path: Path) -> None:
    # A store on a CPU takes the other path, so the one for devices is called by itself here.
    store = FeatureStore.open(waves, FRONT_ENDS["log_mel"](), {}, tmp_path)
    for rows in ([5], [0, 5, 1], [6, 6, 2]):
        there = torch.tensor(rows)
        values = torch.from_numpy(np.array(store._values))
        found, lengths = store._gather_on_device(values, there, store.lengths[there])
        features, expected = store.gather(rows)
        assert lengths.tolist() == expected.tolist()
        assert torch.equal(found.unflatten(-1, store.shape).movedim(1, -1), features)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gather_on_cuda_equals_gather_from_disk(waves: WaveStore, tmp_path: Path) -> None:
    on_disk, on_device = (
        FeatureStore.open(waves, FRONT_ENDS["three windows"](), {}, tmp_path, where, "cuda")
        for where in ("disk", "device")
    )
    features, lengths = on_device.gather([5, 0, 6])
    assert features.device.type == lengths.device.type == "cuda"
    torch.testing.assert_close((features.cpu(), lengths.cpu()), on_disk.gather([5, 0, 6]), rtol=0, atol=0)


def test_what_is_gathered_is_the_callers_own(waves: WaveStore, tmp_path: Path) -> None:
    store = FeatureStore.open(waves, FRONT_ENDS["mfcc"](), {}, tmp_path)
    before = store.gather([4])[0].clone()
    store.gather([4])[0].zero_()
    assert torch.equal(store.gather([4])[0], before)


def test_pickled_as_a_folder(waves: WaveStore, tmp_path: Path) -> None:
    store = FeatureStore.open(waves, FRONT_ENDS["mfcc"](), {}, tmp_path)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    assert torch.equal(pickle.loads(pickled).gather([2, 5])[0], store.gather([2, 5])[0])


def test_batches_of_computing_hold_every_clip_once() -> None:
    batches = [rows.tolist() for rows in _batches(torch.tensor([3, 3, 4, 2, 30, 1, 9, 1]), 10)]
    assert batches == [[0, 1], [2, 3], [4], [5], [6], [7]]
    assert _batches(torch.zeros(0), 10) == []


def test_clips_of_like_length_are_computed_together_and_kept_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.wav" for number in range(24)]
    sizes = [400 + 4000 * (number % 2) + 10 * (number * 7 % 24) for number in range(24)]
    for path, samples in zip(paths, sizes, strict=True):
        write_wav(path, np.random.default_rng(samples).normal(0, 0.1, samples), RATE)
    waves = WaveStore.open([Clip(path.stem, str(path)) for path in paths], RATE, tmp_path / "cache")
    computed = []

    class Seen(LogMel):
        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            computed.append(waveforms.numel())
            return super().forward(waveforms, lengths)

    monkeypatch.setattr(feature_store, "SAMPLES_OF_BATCH", 6 * 4800)
    features = FeatureStore.open(waves, Seen(RATE, **LOG_MEL), {}, tmp_path)
    assert len(computed) == 3
    assert sum(computed) < 1.2 * sum(sizes)  # 1.8 times in their order
    for row in range(24):
        expected, frames = expected_of(waves, LogMel(RATE, **LOG_MEL), [row])
        stored, length = features.gather([row])
        assert torch.equal(length, frames)
        torch.testing.assert_close(stored[..., : int(length)], expected[..., : int(length)])


class Counting(LogMel):
    """A front end that counts the clips that it was given, and adds `plus` decibels."""

    def __init__(self, plus: float = 0.0) -> None:
        super().__init__(RATE, **LOG_MEL)
        self.clips, self.plus = 0, plus

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        self.clips += len(waveforms)
        features, lengths = super().forward(waveforms, lengths)
        return features + self.plus, lengths


def test_every_clip_is_computed_once(waves: WaveStore, tmp_path: Path) -> None:
    first, again = Counting(), Counting()
    FeatureStore.open(waves, first, LOG_MEL, tmp_path)
    FeatureStore.open(waves, again, LOG_MEL, tmp_path)
    assert first.clips == 7
    assert again.clips == 3, "only those by which it is seen that the front end is still the same"
    assert len(left_in(tmp_path)) == 1


def test_other_options_other_clips_make_another_store(clips: list[Clip], tmp_path: Path) -> None:
    waves = WaveStore.open(clips, RATE, tmp_path)
    fewer = WaveStore.open(clips[:-1], RATE, tmp_path)
    frontend = FRONT_ENDS["log_mel"]()
    stores = [
        FeatureStore.open(waves, frontend, LOG_MEL, tmp_path),
        FeatureStore.open(waves, LogMel(RATE, **LOG_MEL, f_min=50.0), {**LOG_MEL, "f_min": 50.0}, tmp_path),
        FeatureStore.open(fewer, frontend, LOG_MEL, tmp_path),
        FeatureStore.open(waves, frontend, dict(reversed(LOG_MEL.items())), tmp_path),
    ]
    assert len({store.folder for store in stores}) == len(left_in(tmp_path)) == 3
    assert stores[3].folder == stores[0].folder
    assert [len(store) for store in stores] == [7, 7, 6, 7]


@pytest.mark.parametrize("changed", [Counting(plus=0.1), FRONT_ENDS["mfcc"]()])
def test_features_that_the_code_no_longer_gives_are_replaced(
    changed: Any, waves: WaveStore, tmp_path: Path
) -> None:
    old = FeatureStore.open(waves, Counting(), LOG_MEL, tmp_path)
    new = FeatureStore.open(waves, changed, LOG_MEL, tmp_path)
    assert new.folder == old.folder
    torch.testing.assert_close(new.gather([4])[0], expected_of(waves, changed, [4])[0])
    assert left_in(tmp_path) == [new.folder.name]


@pytest.mark.parametrize("file", ["frames.float32", "lengths.npy", "checksums.npy", "index.json"])
def test_a_store_that_lost_its_tail_is_built_again(file: str, waves: WaveStore, tmp_path: Path) -> None:
    frontend = FRONT_ENDS["log_mel"]()
    store = FeatureStore.open(waves, frontend, {}, tmp_path)
    (store.folder / file).write_bytes((store.folder / file).read_bytes()[:-8])
    again = FeatureStore.open(waves, frontend, {}, tmp_path)
    torch.testing.assert_close(again.gather([5])[0], expected_of(waves, frontend, [5])[0])
    assert left_in(tmp_path) == [store.folder.name]


@pytest.mark.parametrize("where", ["disk", "memory", "device"])
@pytest.mark.parametrize("at", [0.02, 0.5, 0.999])
def test_one_damaged_bit_is_computed_again_and_told(
    at: float, where: str, waves: WaveStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frontend = FRONT_ENDS["log_mel"]()
    store = FeatureStore.open(waves, frontend, {}, tmp_path)
    file = store.folder / "frames.float32"
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 1
    file.write_bytes(content)
    again = FeatureStore.open(waves, frontend, {}, tmp_path, where, "cpu")
    for row in range(7):
        expected = expected_of(waves, frontend, [row])[0]
        torch.testing.assert_close(again.gather([row])[0], expected, rtol=1e-5, atol=1e-4)
    assert capsys.readouterr().out.count("is damaged or out of date: it is built again") == 1
    content[int(at * len(content))] ^= 1
    assert file.read_bytes() == content


def test_a_full_disk_is_told_with_the_space_that_is_needed(
    waves: WaveStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning_audio.io.os.fsync", full)
    # 1 + 1 + 2 + 2 + 18 + 46 + 9 frames and one more for each of 7 clips, 16 bands, 4 bytes.
    with pytest.raises(UserError, match=r"full: the feature store needs about 5\.5e-06 GB"):
        FeatureStore.open(waves, FRONT_ENDS["log_mel"](), {}, tmp_path)
    # What was computed stays, so that it need not be computed again where there is room.
    (growing,) = left_in(tmp_path)
    assert growing.endswith(".growing")
    monkeypatch.undo()
    store = FeatureStore.open(waves, FRONT_ENDS["log_mel"](), {}, tmp_path)
    assert left_in(tmp_path) == [store.folder.name]


class Fatal(LogMel):
    clips = 0

    def forward(self, *batch: Any) -> Any:
        Fatal.clips += 1
        if Fatal.clips == 4:
            os._exit(9)
        return super().forward(*batch)


def killed_build(waves: Path, cache: Path) -> None:
    """Computes features one clip at a time and dies at the fourth."""
    feature_store.SAMPLES_AT_ONCE = 1
    FeatureStore.open(WaveStore(waves), Fatal(8000, n_fft=256, hop_length=100, n_mels=16), {}, cache)


def test_a_killed_build_leaves_nothing_that_looks_whole(waves: WaveStore, tmp_path: Path) -> None:
    assert ended(start(killed_build, waves.folder, tmp_path)) == 9
    left_over = left_in(tmp_path)
    assert [name.rpartition(".")[2].partition("-")[0] for name in left_over] == ["growing", "partial"]
    assert all(name.startswith(".") for name in left_over)
    frontend = FRONT_ENDS["log_mel"]()
    store = FeatureStore.open(waves, frontend, {}, tmp_path)
    torch.testing.assert_close(store.gather([5])[0], expected_of(waves, frontend, [5])[0])
    assert left_in(tmp_path) == [store.folder.name]


# Training from features.


def prepared(*overrides: str) -> tuple[Any, AudioTask, AudioDataModule]:
    cfg = compose_config([*ON_FEATURES, "loader.features=true", *overrides])
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    return cfg, build.task(cfg, data), data


def test_batches_of_training_hold_features_and_no_samples() -> None:
    cfg, task, data = prepared()
    build.keep_features(cfg, task, data)
    for loader, plain in (
        (data.train_dataloader(), data.loader("train", shuffle=True, batch_size=16)),
        (data.val_dataloader(), data.loader("val")),
    ):
        for batch, expected in zip(loader, plain, strict=True):
            features, frames = task.raw_features(expected)
            torch.testing.assert_close(task.raw_features(batch), (features, frames), rtol=1e-5, atol=1e-4)
            assert batch.ids == expected.ids
            assert batch.lengths.tolist() == expected.lengths.tolist()
            assert torch.equal(batch.targets, expected.targets)
            assert batch.waveforms.shape == expected.waveforms.shape
            with pytest.raises((RuntimeError, NotImplementedError)):
                task(batch.waveforms, batch.lengths)
    assert not next(iter(data.test_dataloader())).waveforms.is_meta
    assert data.store.where == "disk"


def test_waveforms_without_samples_have_a_shape_and_stay_where_they_are() -> None:
    empty = without_samples(torch.tensor([5, 9]))
    assert (empty.shape, empty.dtype, empty.is_meta) == ((2, 9), torch.int16, True)


def state_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def from_waveforms(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("waveforms")
    cache = tmp_path_factory.getbasetemp() / "cache"
    return train(compose_config([*ON_FEATURES, f"paths.cache={cache}"]), folder), folder


@pytest.mark.parametrize("workers", [0, 1])
def test_training_from_features_ends_as_from_waveforms(
    workers: int, from_waveforms: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    cfg = compose_config([*ON_FEATURES, "loader.features=true", f"loader.workers={workers}"])
    assert cfg.augment.features.masks is not None, "what is drawn for features is drawn alike"
    found, (expected, folder) = train(cfg, tmp_path), from_waveforms
    weights, others = (state_of(run)["state_dict"] for run in (tmp_path, folder))
    torch.testing.assert_close(weights, others, rtol=1e-3, atol=1e-4)
    assert found["scores"].keys() == expected["scores"].keys() > {"val/accuracy"}
    for name, score in expected["scores"].items():
        assert found["scores"][name] == pytest.approx(score, abs=1e-6)


def test_a_run_goes_on_from_the_middle_of_an_epoch(tmp_path: Path) -> None:
    def cfg(folder: Path) -> Any:
        cfg = compose_config([*ON_FEATURES, "loader.features=true", "test=false"])
        saver = {
            "_target_": "pytorch_lightning.callbacks.ModelCheckpoint",
            "dirpath": str(folder / "steps"),
            "filename": "{step}",
            "every_n_train_steps": 3,
            "save_top_k": -1,
        }
        OmegaConf.update(cfg, "callbacks.steps", saver, force_add=True)
        return cfg

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(cfg(whole), whole)
    (resumed / "checkpoints").mkdir(parents=True)
    (whole / "steps" / "step=3.ckpt").rename(resumed / "checkpoints" / "last.ckpt")
    assert state_of(resumed)["global_step"] == 3
    train(cfg(resumed), resumed)
    one, other = state_of(whole), state_of(resumed)
    assert one["global_step"] == other["global_step"] == 8
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


def test_all_folds_share_one_store() -> None:
    folders = set()
    for fold in (1, 2):
        cfg, task, data = prepared(f"data.fold={fold}")
        build.keep_features(cfg, task, data)
        features = data.featured["train"].features
        assert features is not None
        folders.add(features.stores[0].folder)
    assert len(folders) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["augment=environment"],
            r"augmentation changes their waveforms: set .*augment\.mix=null, or loader\.",
        ),
        (
            ["frontend=waveform", "network=m5", "augment=none"],
            r"frontend=waveform computes nothing: set loader\.features=false",
        ),
    ],
)
def test_recipes_that_need_waveforms_are_refused(overrides: list[str], message: str) -> None:
    cfg = compose_config(["data.clips_per_class=2", "data.seconds=0.5", "loader.features=true", *overrides])
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    with pytest.raises(UserError, match=message):
        build.keep_features(cfg, build.task(cfg, data), data)
    assert data.featured == {}


def test_transforms_that_are_in_the_way_are_named() -> None:
    cfg, _, data = prepared()
    cfg.augment.waveform.gain = {"_target_": "lightning_audio.augment.waveform.Gain"}
    with pytest.raises(
        UserError, match=r"waveforms: set augment\.waveform\.gain=null, or loader\.features=false\.$"
    ):
        build.keep_features(cfg, build.task(cfg, data), data)


def test_learned_front_ends_and_joined_clips_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, task, data = prepared()
    task.frontend.weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match="the front end LogMel is learned"):
        build.keep_features(cfg, task, data)
    monkeypatch.setattr(Classification, "concatenates", True)
    with pytest.raises(UserError, match="Classification joins their waveforms"):
        build.keep_features(cfg, task, data)
    joins = vars(Trigger)["concatenates"].fget
    assert [joins(SimpleNamespace(clips_per_sequence=count)) for count in (1, 4)] == [False, True]


def test_the_time_that_is_left_is_that_of_the_samples_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A clip that no view is made of costs nothing and tells nothing of the others; nor does the first one
    that is computed, with which an encoder warms up."""
    paths = [tmp_path / f"{n}.wav" for n in range(4)]
    for path, samples in zip(paths, (9000, 800, 4000, 1600), strict=True):
        write_wav(path, np.ones(samples, dtype=np.int16), RATE)
    waves = WaveStore.open([Clip(path.stem, str(path)) for path in paths], RATE, tmp_path / "cache")
    clock = [0.0]

    class OneSecondInAThousandSamples(LogMel):
        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            clock[0] += int(lengths.sum()) / (1000 if clock[0] > 1 else 10)
            return super().forward(waveforms, lengths)

    def view(waveforms: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.where(view.learned[rows], lengths, 1)  # type: ignore[attr-defined]
        return waveforms[:, : int(kept.max())], kept

    view.learned = torch.tensor([False, True, True, True])  # type: ignore[attr-defined]
    monkeypatch.setattr(feature_store, "SAMPLES_AT_ONCE", 1)
    monkeypatch.setattr("lightning_audio.data.growing_store.SAVED_EVERY", -1)
    monkeypatch.setattr(feature_store.time, "monotonic", lambda: clock[0])
    with caplog.at_level("INFO", logger="lightning_audio"):
        FeatureStore.open(waves, OneSecondInAThousandSamples(RATE, **LOG_MEL), {}, tmp_path, view=view)
    assert "3 of 4 clips are computed: about 2 s more" in caplog.text
