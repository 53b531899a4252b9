"""Augmentation of a batch: `conf/augment/environment.yaml`, against the same recipe sample by sample.

Roll, gain, polarity and mixing of 5-s waveforms, then masks on their log-mel. The loops are what one writes
in a Dataset: with torch and torchaudio, and with NumPy. Then every transform by itself, on
all clips.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import torchaudio
from timing import arguments, interleaved, report
from torch import Tensor

from lightning_audio import build, config
from lightning_audio.augment import Augment
from lightning_audio.augment.base import Transform
from lightning_audio.augment.channel import Clipping, PacketLoss, Telephone
from lightning_audio.augment.features import FilterAugment, PatchOut, SpecAugment
from lightning_audio.augment.noise import BackgroundNoise
from lightning_audio.augment.policy import RandomPolicy
from lightning_audio.augment.room import Reverb
from lightning_audio.augment.spectral import Codec, PitchShift, TimeStretch
from lightning_audio.augment.warp import VTLN, TimeWarp
from lightning_audio.augment.waveform import Gain, RandomCrop, Speed, TimeRoll, TimeShift
from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.training.run import keep_freed_memory

SAMPLE_RATE, SECONDS, LABELS = 22050, 5, 10
LARGEST_GAIN_DB = 6
FREQ_MASKS, FREQ_WIDTH, TIME_MASKS, TIME_WIDTH = 2, 8, 2, 20


def batched(augment: Augment, waveforms: Tensor, targets: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    lengths = torch.full((len(waveforms),), waveforms.shape[1])
    frames = torch.full((len(waveforms),), features.shape[-1])
    return augment.waveforms(waveforms, lengths, targets)[0], augment.features(features, frames)[0]


def loop_of_torch(waveforms: Tensor, targets: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    frequency = torchaudio.transforms.FrequencyMasking(FREQ_WIDTH)
    time = torchaudio.transforms.TimeMasking(TIME_WIDTH)
    changed, masked = [], []
    for clip in waveforms:
        rolled = torch.roll(clip, int(torch.randint(len(clip), ())))
        gain = 10 ** ((2 * torch.rand(()) - 1) * LARGEST_GAIN_DB / 20)
        changed.append(rolled * gain * (1 if torch.rand(()) < 0.5 else -1))
    mixed, mixed_targets = [], []
    for clip, target in zip(changed, targets, strict=True):
        other, ratio = int(torch.randint(len(changed), ())), torch.rand(())
        mixed.append(ratio.sqrt() * clip + (1 - ratio).sqrt() * changed[other])
        mixed_targets.append(ratio * target + (1 - ratio) * targets[other])
    torch.stack(mixed_targets)
    for image in features:
        value = image.mean().item()
        for _ in range(FREQ_MASKS):
            image = frequency(image[None], value)[0]
        for _ in range(TIME_MASKS):
            image = time(image[None], value)[0]
        masked.append(image)
    return torch.stack(mixed), torch.stack(masked)


def loop_of_numpy(waveforms: np.ndarray, targets: np.ndarray, features: np.ndarray) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng()
    changed = []
    for clip in waveforms:
        gain = 10 ** (rng.uniform(-LARGEST_GAIN_DB, LARGEST_GAIN_DB) / 20) * rng.choice([-1, 1])
        changed.append(np.float32(gain) * np.roll(clip, rng.integers(len(clip))))
    mixed, mixed_targets = [], []
    for clip, target in zip(changed, targets, strict=True):
        other, ratio = rng.integers(len(changed)), np.float32(rng.random())
        mixed.append(math.sqrt(ratio) * clip + math.sqrt(1 - ratio) * changed[other])
        mixed_targets.append(ratio * target + (1 - ratio) * targets[other])
    np.stack(mixed_targets)
    masked = [_masked(image, rng) for image in features]
    return torch.from_numpy(np.stack(mixed)), torch.from_numpy(np.stack(masked))


def _masked(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image, value = image.copy(), image.mean()
    for view, count, limit in ((image, FREQ_MASKS, FREQ_WIDTH), (image.T, TIME_MASKS, TIME_WIDTH)):
        for _ in range(count):
            width = rng.integers(limit + 1)
            start = rng.integers(len(view) - width + 1)
            view[start : start + width] = value
    return image


def transforms() -> tuple[dict[str, Transform], dict[str, Transform]]:
    """Those of waveforms and those of features, each on all clips."""
    policy = {"gain": Gain(), "speed": Speed(), "noise": BackgroundNoise(5, 30, colour="white")}
    of_waveforms: dict[str, Transform] = {
        "roll": TimeRoll(),
        "shift": TimeShift(0.1, SAMPLE_RATE),
        "crop of 4 s": RandomCrop(4.0, SAMPLE_RATE),
        "gain": Gain(),
        "clipping": Clipping(p=1.0),
        "packet loss": PacketLoss(SAMPLE_RATE, p=1.0),
        "white noise": BackgroundNoise(5, 30, colour="white"),
        "pink noise": BackgroundNoise(5, 30, colour="pink"),
        "speed": Speed(),
        "made rooms": Reverb(SAMPLE_RATE, p=1.0),
        "telephone": Telephone(SAMPLE_RATE, p=1.0),
        "codec": Codec(SAMPLE_RATE, p=1.0),
        "time stretch": TimeStretch(p=1.0),
        "pitch shift": PitchShift(p=1.0),
        "policy, 2 of gain, speed, white noise": RandomPolicy(policy, n=2),
    }
    of_features: dict[str, Transform] = {
        "masks": SpecAugment(),
        "filter": FilterAugment(),
        "patches": PatchOut(),
        "time warp": TimeWarp(p=1.0),
        "VTLN": VTLN(SAMPLE_RATE, p=1.0),
    }
    return of_waveforms, of_features


def main() -> None:
    options = arguments(__doc__ or "", repeats=15)
    keep_freed_memory()  # as every run does
    clips = 8 if options.quick else 32
    augment = build.instantiate(config.compose_config(["augment=environment"]).augment, "augment")
    generator = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(clips, SECONDS * SAMPLE_RATE, generator=generator)
    targets = torch.eye(LABELS)[torch.arange(clips) % LABELS]
    features, _ = LogMel(SAMPLE_RATE, hop_length=441)(waveforms, torch.full((clips,), waveforms.shape[1]))
    arrays = waveforms.numpy(), targets.numpy(), features.numpy()
    contenders = {
        "Augment, the batch at once": lambda: batched(augment, waveforms, targets, features),
        "torch and torchaudio, sample by sample": lambda: loop_of_torch(waveforms, targets, features),
        "NumPy, sample by sample": lambda: loop_of_numpy(*arrays),
    }
    shapes = {(tuple(x.shape), tuple(f.shape)) for x, f in (work() for work in contenders.values())}
    assert shapes == {(tuple(waveforms.shape), tuple(features.shape))}
    report("Roll, gain, polarity, mixing, masks", interleaved(contenders, options.repeats), clips)
    of = zip(transforms(), (waveforms, features), ("waveforms", "log-mel, 64 bands"), strict=True)
    for found, x, what in of:
        lengths = torch.full((clips,), x.shape[-1])
        single = {name: partial(transform, x, lengths) for name, transform in found.items()}
        report(f"Single transforms of {what}", interleaved(single, options.repeats), clips)


if __name__ == "__main__":
    main()
