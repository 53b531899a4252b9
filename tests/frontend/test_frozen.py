"""A frozen encoder as a front end: pools, what it refuses, features that are kept, views, a head on top."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import TINY_SPEECH, write_wav
from processes import ended, start
from torch import Tensor, nn

import lightning_audio
from lightning_audio import build
from lightning_audio.config import compose_config
from lightning_audio.data.clip import Clip
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.feature_store import FeatureStore, FeatureViews, HalfFeatureStore
from lightning_audio.data.wave_store import WaveStore
from lightning_audio.errors import UserError
from lightning_audio.frontend.frozen import POOLS, Frozen
from lightning_audio.networks.encoders.yamnet import YAMNet
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.fit import check_resumable
from lightning_audio.training.run import train
from lightning_audio.training.trainer import build_trainer

RATE = 8000
# The demo by a frozen encoder from scratch: states that say little, but of which a head learns.
FROZEN = (
    *("data=demo", "data.clips_per_class=2", "data.seconds=0.5", "data.sample_rate=16000"),
    *("frontend=frozen", "encoder=yamnet", "encoder.weights=null", "network=linear", "normalize=none"),
    *("loader.batch_size=16", "loader.val_fraction=0.2", "loader.features=true"),
    *("trainer=cpu", "trainer.max_epochs=2", "logger=none", "augment.features=null", "augment.mix=null"),
    *(f"augment.waveform.{name}=null" for name in ("roll", "gain", "polarity")),
)


class Windows(nn.Module):
    """An encoder of 3 numbers for each 10 samples that lie wholly within a clip, at least one."""

    def __init__(self, sample_rate: int = RATE) -> None:
        super().__init__()
        self.sample_rate, self.shape = sample_rate, (1, 3)
        self.convolution = nn.Conv1d(1, 3, 10, 10)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths // 10).clamp(min=1)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.convolution(nn.functional.pad(waveforms, (0, 10))[:, None]), self.output_lengths(lengths)


def encoder() -> Windows:
    torch.manual_seed(0)
    return Windows()


def test_pools_are_over_the_frames_of_each_clip() -> None:
    waveforms, lengths = torch.randn(3, 95), torch.tensor([95, 40, 3])
    states, frames = Frozen(RATE, encoder())(waveforms, lengths)
    assert frames.tolist() == [9, 4, 1]
    assert not states[1, :, 4:].any()
    frozen = Frozen(RATE, encoder(), ["mean", "max", "std"])
    pooled, ones = frozen(waveforms, lengths)
    assert frozen.shape == (1, 9)
    assert ones.tolist() == frozen.output_lengths(lengths).tolist() == [1, 1, 1]
    for row, count in enumerate(frames.tolist()):
        own = states[row, :, :count]
        expected = torch.cat([own.mean(-1), own.amax(-1), own.std(-1, correction=0).clamp(min=1e-4)])
        torch.testing.assert_close(pooled[row, :, 0], expected)


@pytest.mark.parametrize("name", POOLS)
def test_all_layers_are_pooled_each_by_itself(name: str) -> None:
    states, lengths = torch.randn(3, 3, 2, 9), torch.tensor([9, 4, 1])  # as many layers as clips
    layers = [POOLS[name](states[:, layer], lengths) for layer in range(3)]
    torch.testing.assert_close(POOLS[name](states, lengths), torch.stack(layers, 1))


def test_a_sum_that_would_have_to_learn_is_refused() -> None:
    other = encoder()
    other.mix = nn.Parameter(torch.zeros(3))  # as an encoder of transformers has it with layer=weighted
    with pytest.raises(UserError, match=r"encoder\.layer=weighted .* set encoder\.layer=all"):
        Frozen(RATE, other)


def test_nothing_of_it_learns_and_it_stays_in_eval_mode() -> None:
    frozen = Frozen(RATE, encoder()).train()
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not frozen.encoder.training
    assert not frozen(torch.randn(1, 50), torch.tensor([50]))[0].requires_grad


def test_the_digest_is_of_the_weights() -> None:
    first, again, other = Frozen(RATE, encoder()), Frozen(RATE, encoder()), encoder()
    with torch.no_grad():
        cast(Tensor, other.convolution.bias)[0] += 1e-6
    assert first.digest == again.digest
    assert Frozen(RATE, other).digest != first.digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((RATE, None), "has no encoder: choose one, as encoder=yamnet"),
        ((16000, encoder()), r"Windows takes 8000 Hz .* set data\.sample_rate=8000"),
        ((RATE, encoder(), ["middle"]), r"frontend\.pool=middle is unknown: name some of mean, max, std"),
    ],
)
def test_what_does_not_fit_is_one_sentence(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Frozen(*arguments)


@pytest.fixture
def waves(tmp_path: Path) -> WaveStore:
    """Noise of 3 to 900 samples."""
    rng = np.random.default_rng(0)
    clips = [
        Clip(f"clip-{n}", str(write_wav(tmp_path / f"{n}.wav", rng.uniform(-0.5, 0.5, size), RATE)))
        for n, size in enumerate((3, 900, 50, 51, 400, 777, 10))
    ]
    return WaveStore.open(clips, RATE, tmp_path)


@pytest.mark.parametrize("pool", [None, ["mean", "max"]])
@pytest.mark.parametrize("kind", [FeatureStore, HalfFeatureStore])
def test_states_are_kept_as_they_are(
    pool: Any, kind: type[FeatureStore], waves: WaveStore, tmp_path: Path
) -> None:
    frozen = Frozen(RATE, encoder(), pool)
    store = kind.open(waves, frozen, {"digest": frozen.digest}, tmp_path)
    waveforms, lengths = waves.gather([1, 0, 4])
    expected, frames = frozen(waveforms.float() / 32768, lengths)
    found, counts = store.gather([1, 0, 4])
    assert counts.tolist() == frames.tolist()
    assert found.dtype == torch.float32
    assert store.dtype().itemsize == (4 if kind is FeatureStore else 2)
    rtol, atol = (1e-6, 1e-6) if kind is FeatureStore else (1e-3, 1e-4)
    torch.testing.assert_close(found, expected[..., : found.shape[-1]], rtol=rtol, atol=atol)


def test_what_float16_does_not_hold_is_refused(waves: WaveStore, tmp_path: Path) -> None:
    loud = encoder()
    with torch.no_grad():
        cast(Tensor, loud.convolution.bias).fill_(1e5)
    with pytest.raises(UserError, match=r"1e\+05 do not fit into float16: set loader\.feature_dtype"):
        HalfFeatureStore.open(waves, Frozen(RATE, loud), {}, tmp_path)


def shifted(by: int) -> Any:
    """A view: louder by a number that each clip has of its own, and shorter by `by` samples."""

    def view(waveforms: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return waveforms * (1 + rows[:, None]), (lengths - by).clamp(min=1)

    return view


def test_views_of_clips_come_together_in_one_batch(waves: WaveStore, tmp_path: Path) -> None:
    frozen = Frozen(RATE, encoder())
    stores = [FeatureStore.open(waves, frozen, {}, tmp_path)]
    for by in (20, 35):
        stores.append(FeatureStore.open(waves, frozen, {"view": by}, tmp_path, view=shifted(by)))
    views = FeatureViews(stores)
    rows = [(2, 1), (0, 3), (1, 4), (0, 1), (2, 0)]
    found, lengths = views.gather(torch.tensor([view * len(waves) + row for view, row in rows]))
    assert lengths.tolist() == [86, 5, 38, 90, 1]
    for features, length, (view, row) in zip(found, lengths.tolist(), rows, strict=True):
        expected, _ = stores[view].gather([row])
        torch.testing.assert_close(features[:, :length], expected[0])
        assert not features[:, length:].any()


def killed(waves: Path, cache: Path) -> None:
    """Computes one clip at a time, saves after each, and dies at the fifth."""
    import lightning_audio.data.feature_store as features
    import lightning_audio.data.growing_store as growing
    from lightning_audio.frontend.log_mel import LogMel

    class Fatal(LogMel):
        clips = 0

        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            Fatal.clips += 1
            if Fatal.clips == 5:
                os._exit(9)
            return super().forward(waveforms, lengths)

    features.SAMPLES_AT_ONCE, growing.SAVED_EVERY = 1, 0
    frontend = Fatal(RATE, n_fft=256, hop_length=100, n_mels=16)
    FeatureStore.open(WaveStore(waves), frontend, {}, cache)


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_build_resumes_and_ends_with_the_same_bytes(
    torn: bool, waves: WaveStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_audio.data import feature_store
    from lightning_audio.frontend.log_mel import LogMel

    assert ended(start(killed, waves.folder, tmp_path / "killed")) == 9
    (growing,) = (tmp_path / "killed" / "features").glob(".*.growing")
    if torn:  # the machine died while the last line and what it tells of were written
        journal, values = growing / "journal.jsonl", growing / "frames.float32"
        journal.write_bytes(journal.read_bytes()[:-5])
        values.write_bytes(values.read_bytes() + b"abc")
    computed: list[int] = []

    class Counting(LogMel):
        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            computed.append(len(waveforms))
            return super().forward(waveforms, lengths)

    monkeypatch.setattr(feature_store, "SAMPLES_AT_ONCE", 1)
    options: dict[str, Any] = {"n_fft": 256, "hop_length": 100, "n_mels": 16}
    resumed = FeatureStore.open(waves, Counting(RATE, **options), {}, tmp_path / "killed")
    assert sum(computed) == (4 if torn else 3)
    whole = FeatureStore.open(waves, LogMel(RATE, **options), {}, tmp_path / "whole")
    for name in ("frames.float32", "lengths.npy", "checksums.npy"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert not growing.exists()


# Training.


def prepared(*overrides: str, left_out: str = "") -> tuple[Any, AudioTask, AudioDataModule]:
    cfg = compose_config([*[option for option in FROZEN if option not in left_out], *overrides])
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    task = build.task(cfg, data)
    build.keep_features(cfg, task, data)
    return cfg, task, data


def test_training_draws_views_by_seed_and_epoch() -> None:
    gain = "{_target_: lightning_audio.augment.waveform.Gain, min_db: -6, max_db: 6}"
    _, _, data = prepared("loader.views=2", f"augment.waveform.gain={gain}")
    assert len(cast(FeatureViews, data.featured["train"].features).stores) == 3
    train_loader, again = data.train_dataloader(), data.train_dataloader()
    for epoch in (0, 1):
        train_loader.sampler.set_epoch(epoch)
        again.sampler.set_epoch(epoch)
        assert list(train_loader.sampler) == list(again.sampler)
    positions = np.concatenate(list(train_loader.sampler))
    clips = len(data.splits["train"])
    assert sorted(positions % clips) == list(range(clips))
    assert set(positions // clips) == {0, 1, 2}
    assert max(np.concatenate(list(data.loader("val", features=True).sampler))) < len(data.splits["val"])
    batch = next(iter(train_loader))
    assert len(batch.ids) == len(batch) == len(batch.features)


def test_views_are_of_what_some_fold_trains_on() -> None:
    """Of clips that are only ever validated or tested on, one sample is computed."""
    cfg = compose_config([*TINY_SPEECH, "loader.features=true", "loader.views=1"])
    data, _ = build.data_and_task(cfg)
    _, view = cast(FeatureViews, data.featured["train"].features).stores
    shortest = view.lengths[~data.learned]
    assert int(data.learned.sum()) == 8
    assert len(set(shortest.tolist())) == 1
    assert int(shortest[0]) < 5 < int(view.lengths[data.learned].min())
    _, _, folds = prepared()
    assert bool(folds.learned.all())


def test_a_run_on_kept_states_holds_its_encoder(tmp_path: Path) -> None:
    content = train(compose_config([*FROZEN, "optimizer.lr=0.05", "trainer.max_epochs=3"]), tmp_path / "run")
    task = lightning_audio.load(tmp_path / "run")
    assert isinstance(task.frontend, Frozen)
    assert isinstance(task.frontend.encoder, YAMNet)
    assert content["encoder"] == task.frontend.digest
    assert compose_config([*FROZEN]).encoder.weights is None


def test_a_run_is_not_resumed_on_states_of_other_weights(tmp_path: Path) -> None:
    train(compose_config([*FROZEN, "test=false", "trainer.max_epochs=1"]), tmp_path)
    cfg, task, data = prepared()
    trainer, last = build_trainer(cfg, tmp_path, data, task), tmp_path / "checkpoints" / "last.ckpt"
    check_resumable(last, trainer, task, data)
    next(task.frontend.parameters()).data[0] += 1e-6
    with pytest.raises(UserError, match="weights of the encoder are not those that"):
        check_resumable(last, trainer, task, data, force=True)


def test_mixing_is_refused_with_views_and_views_without_features() -> None:
    with pytest.raises(UserError, match=r"set augment\.mix=null, or loader\.features=false"):
        prepared("loader.views=1", left_out="augment.mix=null")
    with pytest.raises(UserError, match=r"loader\.views=1 are views of kept features"):
        prepared("loader.views=1", "loader.features=false")
    with pytest.raises(UserError, match=r"loader\.feature_dtype=float8 is unknown"):
        prepared("loader.feature_dtype=float8")
