"""Listen: what TensorBoard gets to hear and to see, and that training does not notice."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_audio import build, config
from lightning_audio.data.batch import Batch
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.frontend.waveform import Waveform
from lightning_audio.reports.plots import features_figure
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.callbacks.training_examples import TrainingExamples, augmented_views
from lightning_audio.training.run import train
from lightning_audio.training.trainer import build_trainer

FRAME_SAMPLES = 320
EPOCHS, STEPS_AN_EPOCH = 2, 2  # 40 training clips in batches of 20
TINY = (
    "data.clips_per_class=1",
    "data.seconds=0.5",
    "frontend.n_mels=16",
    "network.widths=[8]",
    "loader.batch_size=20",
    "trainer=cpu",
    f"trainer.max_epochs={EPOCHS}",
    "callbacks.training_examples.clips=3",
)


def tiny(*overrides: str) -> DictConfig:
    return config.compose_config([*TINY, *overrides])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same training with TrainingExamples, without it, and with it but no logger to write to."""
    folder = tmp_path_factory.mktemp("runs")
    variants = {
        "heard": ["callbacks.training_examples.every_n_epochs=1"],
        "deaf": ["callbacks.training_examples=null"],
        "unlogged": ["callbacks.training_examples.every_n_epochs=1", "logger=none"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_AUDIO_CACHE", str(folder / "cache"))
        for name, overrides in variants.items():
            train(tiny(*overrides), folder / name)
    return {name: folder / name for name in variants}


@pytest.fixture(scope="module")
def events(runs: dict[str, Path]) -> EventAccumulator:
    everything = {"audio": 0, "images": 0, "scalars": 0}
    return EventAccumulator(str(runs["heard"] / "tensorboard"), size_guidance=everything).Reload()


@pytest.fixture
def parts() -> Callable[..., tuple[AudioDataModule, AudioTask]]:
    def build_parts(*overrides: str) -> tuple[AudioDataModule, AudioTask]:
        cfg = tiny(*overrides)
        data = build.datamodule(cfg)
        data.prepare_data()
        data.setup()
        return data, build.task(cfg, data)

    return build_parts


def heard_ids(data: AudioDataModule) -> list[str]:
    """The first, the middle and the last clip of the training split."""
    clips = data.splits["train"].clips
    return [clips[i].id for i in (0, (len(clips) - 1) // 2, len(clips) - 1)]


def test_clips_are_heard_at_the_start_and_after_every_epoch(
    events: EventAccumulator, parts: Callable
) -> None:
    names = heard_ids(parts()[0])
    assert sorted(events.Tags()["audio"]) == sorted(f"audio/{name}" for name in names)
    for name in names:
        steps = [event.step for event in events.Audio(f"audio/{name}")]
        assert steps == [0, STEPS_AN_EPOCH, 2 * STEPS_AN_EPOCH]


def test_what_is_heard_is_as_long_as_its_clip_and_another_draw_each_time(
    events: EventAccumulator, parts: Callable
) -> None:
    data = parts()[0]
    heard = []
    for event in events.Audio(f"audio/{heard_ids(data)[0]}"):
        samples, rate = soundfile.read(io.BytesIO(event.encoded_audio_string))
        assert (len(samples), rate) == (8000, 16000)
        heard.append(samples)
    assert all(np.abs(heard[0] - other).max() > 0.01 for other in heard[1:])


def test_an_id_that_is_no_utf8_is_spelled(parts: Callable, tmp_path: Path) -> None:
    """TensorBoard takes no other text."""
    data, task = parts()
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    batch = replace(data.splits["train"][[0]], ids=("caf\udce9.wav",))

    class One:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, positions: object) -> Batch:
            return batch

    trainer: Any = SimpleNamespace(
        global_step=0, loggers=[logger], datamodule=SimpleNamespace(splits={"train": One()})
    )
    TrainingExamples(clips=1).show_clips(trainer, task)
    logger.experiment.flush()
    tags = EventAccumulator(str(tmp_path), size_guidance={"audio": 0}).Reload().Tags()
    assert tags["audio"] == ["audio/caf\\udce9.wav"]
    assert tags["images"] == ["features/caf\\udce9.wav"]


def test_features_and_confusion_are_pictures(events: EventAccumulator, parts: Callable) -> None:
    names = heard_ids(parts()[0])
    expected = [*(f"features/{name}" for name in names), "test/confusion"]
    assert sorted(events.Tags()["images"]) == sorted(expected)
    assert len(events.Images(f"features/{names[0]}")) == 1 + EPOCHS
    (confusion,) = events.Images("test/confusion")
    assert (confusion.step, confusion.encoded_image_string[:4]) == (EPOCHS * STEPS_AN_EPOCH, b"\x89PNG")
    assert min(confusion.width, confusion.height) > 300


@pytest.mark.parametrize("other", ["deaf", "unlogged"])
def test_training_ends_with_the_same_weights(runs: dict[str, Path], other: str) -> None:
    heard, unheard = (
        torch.load(runs[name] / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("heard", other)
    )
    assert heard.keys() == unheard.keys()
    assert all(torch.equal(heard[key], unheard[key]) for key in heard)


def test_without_listen_or_logger_nothing_is_written(runs: dict[str, Path]) -> None:
    deaf = EventAccumulator(str(runs["deaf"] / "tensorboard")).Reload()
    assert (deaf.Tags()["audio"], deaf.Tags()["images"]) == ([], [])
    assert not (runs["unlogged"] / "tensorboard").exists()


def test_views_without_augmentation_are_the_clips(parts: Callable) -> None:
    data, task = parts("augment=none")
    train_clips = data.splits["train"]
    batch = train_clips[[0, 7]]
    views = augmented_views(task, batch, seed=1)
    expected, _ = task.frontend(batch.waveforms / 32768, batch.lengths)
    for row, position in enumerate([0, 7]):
        assert torch.equal(views[row].waveform, batch.waveforms[row] / 32768)
        assert views[row].features.shape == (16, 8000 // FRAME_SAMPLES + 1)
        assert torch.equal(views[row].features, expected[row])
        assert views[row].labels == train_clips.clips[position].labels[0]


def test_a_view_ends_with_its_clip(parts: Callable) -> None:
    data, task = parts("augment=none")
    batch = data.splits["train"][[0, 7]]
    short = replace(batch, lengths=torch.tensor([8000, 3200]))
    view = augmented_views(task, short, seed=1)[1]
    assert (len(view.waveform), view.features.shape[-1]) == (3200, 11)


def test_views_leave_the_random_state_and_depend_on_the_seed(parts: Callable) -> None:
    data, task = parts()
    batch = data.splits["train"][[0, 7, 21]]
    state = torch.get_rng_state()
    first, again, other = (augmented_views(task, batch, seed)[0].waveform for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_mix_is_named_by_its_shares(parts: Callable[..., tuple[AudioDataModule, AudioTask]]) -> None:
    _, task = parts()
    task.labels = ("dog", "rain", "clock")
    assert task.name_target(torch.tensor([0.0, 1.0, 0.0])) == "rain"
    assert task.name_target(torch.tensor([0.3, 0.0, 0.7])) == "clock 0.70 + dog 0.30"
    assert task.name_target(torch.tensor([0.004, 0.996, 0.0])) == "rain"


def test_the_figure_says_its_axes() -> None:
    decibels = np.linspace(-80, 0, 12).reshape(3, 4)
    axes, colours = features_figure(decibels, 0.5, "rain $1").axes
    (image,) = axes.get_images()
    assert np.array_equal(np.asarray(image.get_array()), decibels)
    assert tuple(image.get_extent()) == (0, 0.5, 0, 3)
    assert image.get_clim() == (-80, 0)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("seconds", "mel band", "rain $1")
    assert colours.get_ylabel() == "dB"


def test_several_windows_are_rows_of_a_figure() -> None:
    figure = features_figure(np.zeros((3, 8, 5)), 1.0, "rain")
    assert sum(bool(axes.get_images()) for axes in figure.axes) == 3


def test_without_several_features_a_frame_there_is_only_sound(
    parts: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, task = parts("augment=none")
    task.frontend = Waveform(data.sample_rate)
    written: list[str] = []
    writer = SimpleNamespace(add_audio=lambda tag, *_: written.append(tag))
    logger = SimpleNamespace(experiment=writer)
    monkeypatch.setattr(
        "lightning_audio.training.callbacks.training_examples.tensorboards", lambda _: [logger]
    )
    TrainingExamples(clips=2).show_clips(SimpleNamespace(global_step=0, datamodule=data), task)  # type: ignore[arg-type]
    assert written == [f"audio/{heard_ids(data)[0]}", f"audio/{heard_ids(data)[2]}"]


@pytest.mark.parametrize("options", [{"clips": 0}, {"every_n_epochs": 0}])
def test_counts_below_one_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"^callbacks\.training_examples counts .*1 or more.*\.$"):
        TrainingExamples(**options)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_without_its_package_says_what_to_install(
    name: str, parts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"pytorch_lightning.loggers.{name}._{name.upper()}_AVAILABLE", False)
    data, task = parts()
    with pytest.raises(UserError) as caught:
        build_trainer(tiny(f"logger={name}"), tmp_path, data, task)
    install = f"run pip install 'lightning-audio[{name}]'."
    assert str(caught.value) == f"logger.{name} needs a package that is not installed: {install}"
