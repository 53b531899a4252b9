"""Batches of log-mel from 5-s clips: the stores, against a torchaudio Dataset, SpeechBrain and HF datasets.

ESC-10 where the data root has it (compressed, of twice the rate), otherwise synthesised files of the same
length, rate and number; then the same clips as WAV of the rate that is trained at, where nothing is
decompressed or resampled and nearly all of the work is log-mel. The files are in the page cache, as they are
from the second epoch on; stores and mapped datasets are built beforehand.
Settings of esc10_cnn2d: 22,050 Hz, n_fft 1024, hop 441, 64 bands, top_db 80; batches of 32 in random order.
SpeechBrain and datasets are left out where they are not installed: `pip install 'lightning-audio[bench]'`.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio
from timing import arguments, interleaved, report
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_audio import build, config
from lightning_audio.data.batch import samples_to_float
from lightning_audio.data.clip_set import ClipSet
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.feature_store import FeatureStore, FeatureViews
from lightning_audio.data.sampler import BatchLoader, BatchSampler
from lightning_audio.data.wave_store import WaveStore
from lightning_audio.errors import UserError
from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.training.run import keep_freed_memory

BATCH_SIZE, WORKERS = 32, 2
RATE, SOURCE_RATE, SECONDS = 22050, 44100, 5
SIZES: dict[str, Any] = {"n_fft": 1024, "hop_length": 441, "n_mels": 64}
FRAMES = RATE * SECONDS // SIZES["hop_length"] + 1
FILES = "torchaudio Dataset, 2 workers"
LABELS, CLIPS_PER_LABEL, QUICK_CLIPS = 10, 40, 96

# What a contender makes: an epoch, which yields its batches of log-mel. SpeechBrain's are `(B, T, F)`.
Epoch = Callable[[], Any]


class Decoding:
    """What one writes first: soundfile, then torchaudio's transforms, clip by clip."""

    def __init__(self) -> None:
        self.resample = torchaudio.transforms.Resample(SOURCE_RATE, RATE)  # for files of twice the rate
        # Padding, filters and top_db as ours, so that all compute the same.
        self.mel = torchaudio.transforms.MelSpectrogram(
            RATE, **SIZES, pad_mode="constant", norm="slaney", mel_scale="slaney"
        )
        self.decibels = torchaudio.transforms.AmplitudeToDB("power", top_db=80)

    def waveform(self, path: str) -> Tensor:
        samples, rate = soundfile.read(path, dtype="float32")
        return self.resample(torch.from_numpy(samples)) if rate != RATE else torch.from_numpy(samples)

    def log_mel(self, path: str) -> Tensor:
        return self.decibels(self.mel(self.waveform(path)))


class Files(Dataset):
    """An item is read from its file when it is asked for."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths, self.decoding = paths, Decoding()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        return self.decoding.log_mel(self.paths[position])


def loader_of(dataset: Any, kind: Callable[..., Any] = DataLoader, **options: Any) -> Any:
    shared = {"batch_size": BATCH_SIZE, "shuffle": True, "num_workers": WORKERS, "persistent_workers": True}
    return kind(dataset, **shared, **options)


def loader_over(clips: ClipSet) -> BatchLoader:
    return BatchLoader(clips, BatchSampler(len(clips), BATCH_SIZE, shuffle=True))


def from_waveforms(clips: ClipSet, frontend: LogMel) -> Epoch:
    loader = loader_over(clips)
    return lambda: (frontend(samples_to_float(batch.waveforms), batch.lengths)[0] for batch in loader)


def from_features(clips: ClipSet, frontend: LogMel, cache: Path) -> Epoch:
    assert isinstance(clips.store, WaveStore)
    features = FeatureViews([FeatureStore.open(clips.store, frontend, SIZES, cache)])
    loader = loader_over(clips.with_features(features))
    return lambda: (batch.features for batch in loader)


def from_files(paths: Sequence[str]) -> Epoch:
    loader = loader_of(Files(paths))
    return lambda: iter(loader)


def from_speechbrain(paths: Sequence[str]) -> Epoch:
    """As in its recipes: decoding and resampling in the pipeline, its Fbank on the padded batch."""
    pipeline = importlib.import_module("speechbrain.utils.data_pipeline")
    read_audio = importlib.import_module("speechbrain.dataio.dataio").read_audio
    loading = importlib.import_module("speechbrain.dataio.dataloader")
    batching = importlib.import_module("speechbrain.dataio.batch")
    resample = Decoding().resample if soundfile.info(paths[0]).samplerate != RATE else torch.nn.Identity()
    item = pipeline.takes("path")(pipeline.provides("wave")(lambda path: resample(read_audio(path))))
    dataset = importlib.import_module("speechbrain.dataio.dataset").DynamicItemDataset(
        {str(number): {"path": path} for number, path in enumerate(paths)}, [item], ["id", "wave"]
    )
    loader = loader_of(dataset, loading.SaveableDataLoader, collate_fn=batching.PaddedBatch)
    milliseconds = {
        "win_length": 1000 * SIZES["n_fft"] / RATE,
        "hop_length": 1000 * SIZES["hop_length"] / RATE,
    }
    fbank = importlib.import_module("speechbrain.lobes.features").Fbank(
        sample_rate=RATE, n_fft=SIZES["n_fft"], n_mels=SIZES["n_mels"], **milliseconds
    )
    return lambda: (fbank(batch.wave.data) for batch in loader)


def from_datasets(paths: Sequence[str], cache: Path, mapped: bool) -> Epoch:
    """Log-mel by `map`, once, or by `set_transform`, every time.

    Its Audio feature decodes with torchcodec, which wants FFmpeg; so soundfile decodes here.
    """
    datasets = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    decoding = Decoding()
    dataset = datasets.Dataset.from_dict({"path": list(paths)})
    if mapped:
        dataset = dataset.map(
            lambda row: {"log_mel": decoding.log_mel(row["path"]).numpy()},
            features=datasets.Features(
                path=datasets.Value("string"), log_mel=datasets.Array2D((SIZES["n_mels"], FRAMES), "float32")
            ),
            cache_file_name=str(cache / "log_mel.arrow"),
            new_fingerprint="log_mel",
        ).with_format("torch", columns=["log_mel"])
    else:
        dataset.set_transform(lambda rows: {"log_mel": [decoding.log_mel(path) for path in rows["path"]]})
    loader = loader_of(dataset)
    return lambda: (batch["log_mel"] for batch in loader)


def corpus(folder: Path) -> AudioDataModule:
    """ESC-10, or synthesised files like it, ready to load."""
    try:
        return opened("data=esc50", "data.subset=esc10")
    except UserError:  # it is not there
        synthesise(folder / "clips")
        return opened("data=audio_folder", f"data.root={folder / 'clips'}", f"paths.cache={folder}")


def opened(*overrides: str) -> AudioDataModule:
    data = build.datamodule(config.compose_config([*overrides, f"data.sample_rate={RATE}"]))
    data.prepare_data()
    data.setup()
    return data


def synthesise(folder: Path) -> None:
    """As many WAV files as ESC-10 has, each a tone in noise."""
    rng, time = np.random.default_rng(0), np.arange(SOURCE_RATE * SECONDS) / SOURCE_RATE
    for number in range(LABELS * CLIPS_PER_LABEL):
        label = number % LABELS
        path = folder / f"tone-{label}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.normal(0, 0.05, len(time))
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * 100 * 2 ** (label / 2) * time) + noise, SOURCE_RATE)


def of_full_length(data: AudioDataModule, most: int) -> ClipSet:
    """Training clips of 5 s, as nearly all are: none has to be padded."""
    clips = data.splits["train"]
    frames = clips.store.lengths[clips.rows] // SIZES["hop_length"] + 1
    whole = (frames == FRAMES).nonzero().flatten()[:most]
    chosen = [clips.clips[position] for position in whole.tolist()]
    return ClipSet(chosen, clips.rows[whole].tolist(), data.store, data.targets)


def contenders_for(clips: ClipSet, folder: Path) -> dict[str, Epoch]:
    paths = [clip.path for clip in clips.clips]
    frontend = LogMel(RATE, **SIZES)
    contenders = {
        "WaveStore, LogMel of the batch": from_waveforms(clips, frontend),
        "FeatureStore": from_features(clips, frontend, folder),
        FILES: from_files(paths),
    }
    others: dict[str, Callable[[], Epoch]] = {
        "SpeechBrain, 2 workers": partial(from_speechbrain, paths),
        "HF datasets, set_transform, 2 workers": partial(from_datasets, paths, folder, mapped=False),
        "HF datasets, mapped to log-mel, 2 workers": partial(from_datasets, paths, folder, mapped=True),
    }
    for name, make in others.items():
        try:
            contenders[name] = make()
        except ImportError as error:
            print(f"{name}: left out, {error} (pip install 'lightning-audio[bench]')\n")
        except Exception as error:  # a peer that breaks in this environment costs no other its figure
            print(f"{name}: left out, for it fails here: {type(error).__name__}: {error}\n")
    return contenders


def check(contenders: dict[str, Epoch], clips: int) -> None:
    """Every contender gives all clips, and the mean level that the others find, SpeechBrain's scale apart."""
    levels = {}
    for name, epoch in contenders.items():
        batches = list(epoch())
        assert sum(map(len, batches)) == clips, name
        assert {batch.shape[1] * batch.shape[2] for batch in batches} == {SIZES["n_mels"] * FRAMES}, name
        levels[name] = float(torch.cat(list(batches)).mean())
    first = next(iter(levels.values()))
    alike = {name: level for name, level in levels.items() if "SpeechBrain" not in name}
    assert max(abs(level - first) for level in alike.values()) < 0.5, levels


def as_wav(clips: ClipSet, folder: Path) -> AudioDataModule:
    """The same clips as WAV files of the rate that is trained at."""
    for position, clip in enumerate(clips.clips):
        path = folder / clip.labels[0] / f"{position}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, clips[[position]].waveforms[0].numpy(), RATE)
    return opened("data=audio_folder", f"data.root={folder}", f"paths.cache={folder.parent}")


def compare(data: AudioDataModule, most: int, folder: Path, repeats: int) -> ClipSet:
    """Reports the contenders over the training clips of a corpus, and returns these."""
    clips = of_full_length(data, most)
    contenders = contenders_for(clips, folder)
    check(contenders, len(clips))
    works = {name: partial(exhaust, epoch) for name, epoch in contenders.items()}
    seconds = interleaved(works, repeats)
    rate = soundfile.info(clips.clips[0].path).samplerate
    kind = f"{Path(clips.clips[0].path).suffix} of {rate} Hz"
    title = f"Log-mel of 5-s clips at {RATE} Hz, batches of {BATCH_SIZE}, from {kind}"
    report(title, seconds, len(clips), {FILES: ">= 4"})
    stored = {"FeatureStore": seconds.pop("FeatureStore"), **seconds}
    report(f"{title}, by the feature store", stored, len(clips), {FILES: ">= 40"})
    return clips


def main() -> None:
    options = arguments(__doc__ or "", repeats=7)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    keep_freed_memory()  # as every run does
    most = QUICK_CLIPS if options.quick else LABELS * CLIPS_PER_LABEL
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        clips = compare(corpus(Path(first)), most, Path(first), options.repeats)
        compare(as_wav(clips, Path(second) / "wav"), most, Path(second), options.repeats)


def exhaust(epoch: Epoch) -> int:
    return sum(len(batch) for batch in epoch())


if __name__ == "__main__":
    main()
