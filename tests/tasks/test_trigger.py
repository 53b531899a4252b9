"""Trigger words: the loss at the peak, clips from frames, and a detector that hears tones in long audio."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, sine, write_wav
from torch import Tensor, nn

from lightning_audio import build, config
from lightning_audio.augment import Augment
from lightning_audio.augment.mix import Mix
from lightning_audio.checkpoint import load
from lightning_audio.data.batch import Batch, samples_to_float
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import decode
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.frontend.normalize import Normalize
from lightning_audio.inference.detections import Detector
from lightning_audio.inference.stream import Stream
from lightning_audio.metrics.detection import fewest_errors
from lightning_audio.networks.base import Network
from lightning_audio.tasks.max_pooling import clip_probabilities, max_pooling_loss, moving_mean
from lightning_audio.tasks.trigger import THRESHOLDS, Trigger
from lightning_audio.training.run import train

RATE = 8000
LABELS = ("low", "high", "_unknown_", "_silence_")
PITCH = {"low": 400.0, "high": 1600.0, "_unknown_": 900.0}
BACKGROUND = [2, 3]


class TinyNetwork(Network):
    """Logits for every frame from it and the dozen before it, or for the last frame alone."""

    def __init__(self, in_shape: tuple[int, int], num_outputs: int, per_frame: bool = True) -> None:
        super().__init__()
        self.past, self.per_frame = 12, per_frame
        self.hidden, self.head = nn.Conv1d(in_shape[1], 24, self.past + 1), nn.Linear(24, num_outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        logits, _ = self.step(x, None)
        return (logits, lengths) if self.per_frame else (logits[:, -1], torch.ones_like(lengths))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        x = torch.cat([x.new_zeros(*x.shape[:2], self.past) if state is None else state, x], dim=-1)
        return self.head(self.hidden(x).relu().mT), x[..., -self.past :]


def make(
    per_frame: bool = True, top_db: float | None = None, mix: Mix | None = None, **options: Any
) -> Trigger:
    torch.manual_seed(0)
    frontend = LogMel(RATE, n_fft=256, hop_length=160, n_mels=16, top_db=top_db)
    shared: dict[str, Any] = {"info": DataInfo(tuple(LABELS), RATE, 0.5)}
    shared |= {"background": ["_unknown_", "_silence_"], "noise": "_silence_"} | options
    parts = Normalize(frontend.shape), TinyNetwork(frontend.shape, len(LABELS), per_frame), Augment(mix=mix)
    return Trigger(frontend=frontend, normalize=parts[0], network=parts[1], augment=parts[2], **shared)


def logits_of(*rows: list[float]) -> Tensor:
    """`(1, T, C)` whose posteriors are these rows."""
    return torch.tensor([rows]).log().requires_grad_()


KEYWORD = logits_of(
    [0.1, 0.1, 0.4, 0.4], [0.5, 0.1, 0.2, 0.2], [0.2, 0.6, 0.1, 0.1], [0.97, 0.01, 0.01, 0.01]
)


# That of the first class is highest in the second frame, that of another keyword in the third; the last frame
# is padding.
THREE = torch.tensor([3])


def test_keyword_is_scored_at_its_peak_and_other_keywords_at_theirs() -> None:
    logits = KEYWORD.detach().clone().requires_grad_()
    loss = max_pooling_loss(logits, THREE, torch.tensor([0]), BACKGROUND)
    assert loss.tolist() == pytest.approx([-math.log(0.5) - math.log(1 - 0.6)])
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, [0, 3]].tolist() == [[0.0] * 4] * 2
    assert logits.grad[0, 1].tolist() == pytest.approx([0.5 - 1, 0.1, 0.2, 0.2])
    assert logits.grad[0, 2].tolist() == pytest.approx([0.2 - 0.5, 0.6, 0.1 - 0.25, 0.1 - 0.25])


@pytest.mark.parametrize(("margin", "allowed"), [(0, 0.1 + 0.1), (1, 0.1 + 0.1 + 0.2)])
def test_frames_far_from_the_peak_are_to_be_any_background(margin: int, allowed: float) -> None:
    loss = max_pooling_loss(KEYWORD, THREE, torch.tensor([0]), BACKGROUND, margin)
    assert loss.tolist() == pytest.approx([-math.log(0.5) - math.log(allowed)])


def test_background_is_scored_in_all_its_frames_and_in_the_worst() -> None:
    loss = max_pooling_loss(KEYWORD, THREE, torch.tensor([2]), BACKGROUND, 1)
    mean = -(math.log(0.4) + math.log(0.2) + math.log(0.1)) / 3
    assert loss.tolist() == pytest.approx([mean - math.log(0.2)])


def test_loss_is_on_smoothed_posteriors() -> None:
    """Over two frames the keyword has 0.1, 0.3, 0.35, and the other one 0.1, 0.1, 0.35."""
    loss = max_pooling_loss(KEYWORD, THREE, torch.tensor([0]), BACKGROUND, smooth=2)
    assert loss.tolist() == pytest.approx([-math.log(0.35) - math.log(0.65)])
    logits = torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(4))
    smoothed = moving_mean(logits.softmax(-1), 4).log()
    lengths, classes = torch.tensor([9, 5, 7]), torch.tensor([0, 1, 3])
    expected = max_pooling_loss(smoothed, lengths, classes, BACKGROUND, 2)
    torch.testing.assert_close(max_pooling_loss(logits, lengths, classes, BACKGROUND, 2, 4), expected)


def test_clips_in_a_row_have_the_loss_of_each_by_itself() -> None:
    task = make()
    logits = torch.randn(8, 50, 4, generator=torch.Generator().manual_seed(1))
    targets = task.targets_for_training(torch.tensor([0, 1, 2, 3, 3, 2, 1, 0]))
    apart = task.loss(logits, torch.full([8], 50), targets)
    # The one frame more that a row has belongs to no clip.
    rows = torch.cat([logits.view(2, 200, 4), torch.full((2, 1, 4), 99.0)], dim=1)
    assert task.loss(rows, torch.tensor([201, 201]), targets.view(2, 4, 4)) == pytest.approx(float(apart))


@pytest.mark.parametrize(("clips", "shape"), [(8, (2, 4)), (6, (3, 2)), (5, None)])
def test_training_clips_stand_in_a_row(clips: int, shape: tuple[int, int] | None) -> None:
    task = make(clips_per_sequence=4)
    waveforms = torch.arange(clips * 100).view(clips, 100).to(torch.int16)
    batch = Batch(waveforms, torch.full([clips], 100), torch.arange(clips) % 4)
    targets = task.targets_for_training(batch.targets)
    rows, lengths, targets = task.concatenated(samples_to_float(waveforms), batch.lengths, targets)
    assert torch.equal(rows.flatten() * 2**15, torch.arange(clips * 100.0))
    assert targets.argmax(-1).flatten().tolist() == [i % 4 for i in range(clips)]
    if shape is None:
        assert (rows.shape, targets.shape) == ((clips, 100), (clips, 4))
    else:
        assert (rows.shape, targets.shape) == ((shape[0], 100 * shape[1]), (*shape, 4))
        assert lengths.tolist() == [100 * shape[1]] * shape[0]


def test_clip_has_the_highest_posterior_of_a_keyword_and_background_the_rest() -> None:
    scores = torch.tensor(
        [[[0.0, 0.0, 0.6, 0.4], [0.8, 0.0, 0.2, 0.0], [0.6, 0.1, 0.1, 0.2], [0, 1.0, 0, 0]]]
    )
    # Smoothed over two frames: 0.7 at best for the first keyword, 0.05 for the second; the last is padding.
    left = [0.3 * 0.9 / 1.5, 0.3 * 0.6 / 1.5]
    found = clip_probabilities(scores, torch.tensor([3]), BACKGROUND, smooth=2)[0]
    assert found.tolist() == pytest.approx([x / 1.05 for x in (0.7, 0.05, *left)])


def test_clip_without_keyword_is_the_background_that_it_sounds_like() -> None:
    scores = torch.tensor([[[0.1, 0.1, 0.2, 0.6], [0.3, 0.1, 0.2, 0.4]]])
    assert clip_probabilities(scores, torch.tensor([2]), BACKGROUND, smooth=1)[0].argmax() == 3


def test_moving_mean_is_that_of_the_live_detector() -> None:
    scores = torch.rand(400, 4, generator=torch.Generator().manual_seed(2))
    options: dict[str, Any] = {"on": 0.55, "off": 0.5, "ignore": ["_silence_"]}
    live = Detector(LABELS, 0.01, smooth=5, **options)
    smoothed = Detector(LABELS, 0.01, **options)
    found = [detection for rows in scores.split(7) for detection in live.push(rows.numpy())]
    expected = smoothed.push(moving_mean(scores[None], 5)[0].numpy())
    assert len(found) > 10
    assert [(d.time, d.label) for d in found] == [(d.time, d.label) for d in expected]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"background": ["_unknown"]}, "did you mean '_unknown_'"),
        ({"noise": "hum"}, "'hum'"),
        ({"background": []}, "leaves no keywords, or nothing else"),
        ({"background": LABELS}, "leaves no keywords, or nothing else"),
        ({"threshold": 1.5}, "task.threshold=1.5"),
        ({"max_false_alarms_per_hour": -1.0}, "task.max_false_alarms_per_hour=-1"),
        ({"max_false_alarms_per_hour": 5.0, "threshold": 0.5}, "task.threshold=null"),
        ({"clips_per_sequence": 0}, "task.clips_per_sequence"),
        ({"mix": Mix("mixup")}, "augment.mix=null"),
        ({"label_smoothing": 0.1}, "task.label_smoothing"),
        ({"per_frame": False}, "network.per_frame=true"),
        ({"top_db": 80.0}, "frontend.top_db=null"),
    ],
)
def test_misfits_end_in_a_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make(**options)


def tone_clips(folder: Path, count: int, seed: int, loudest: float = 0.01) -> list[Clip]:
    """Clips of half a second: a tone of 0.2 s somewhere in noise, or noise alone."""
    rng, clips = np.random.default_rng(seed), []
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        samples = rng.uniform(0.005, loudest) * rng.standard_normal(RATE // 2)
        if label in PITCH:
            start = rng.integers(400, 2000)
            samples[start : start + 1600] += sine(PITCH[label] * rng.uniform(0.95, 1.05), 0.2, RATE, 0.2)
        path = write_wav(folder / f"{number:03d}.wav", samples, RATE)
        clips.append(Clip(path.stem, str(path), labels=(label,), group=f"speaker {number % 5}"))
    return clips


def batch_of(task: Trigger, clips: list[Clip]) -> Batch:
    waveforms = torch.stack([torch.from_numpy(decode(clip.path, RATE)) for clip in clips])
    targets = task.encoding(LABELS).encode(clips).long()
    ids = tuple(clip.id for clip in clips)
    return Batch(waveforms, torch.full([len(clips)], waveforms.shape[1]), targets, ids)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trigger:
    """A task that has learned the tones."""
    task = make(clips_per_sequence=4, smoothing=0.05, margin=0.2, refractory=0.4)
    batch = batch_of(task, tone_clips(tmp_path_factory.mktemp("train"), 96, seed=0, loudest=0.08))
    task.fit_normalizer([batch])
    optimizer = torch.optim.Adam(task.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(3)
    for step in range(80):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 80)
        rows = torch.randperm(96, generator=generator)[:32]
        part = Batch(batch.waveforms[rows], batch.lengths[rows], batch.targets[rows])
        loss = task.loss(*task.training_logits(part))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return task.eval()


def test_tones_are_detected_in_long_audio(trained: Trigger, tmp_path: Path) -> None:
    clips = tone_clips(tmp_path / "test", 40, seed=1)
    batch = batch_of(trained, clips)
    with torch.no_grad():
        trained.observe("test", *trained.forward_tta(batch.waveforms, batch.lengths), batch)
    assert trained.summarise("test")["accuracy"] >= 0.9
    scores = trained.report(tmp_path, clips)
    assert (scores["miss_rate"].value, scores["miss_rate"].n) == (0.0, 20)
    assert (scores["false_alarms_per_hour"].value, scores["false_alarms_per_hour"].n) == (0.0, 0)
    assert scores["false_alarms_per_hour"].high == pytest.approx(3.689 / trained.heard.hours, rel=1e-3)
    # 30 words of half a second and 31 gaps of 1.75 s on average.
    assert trained.heard.hours * 3600 == pytest.approx(30 * 0.5 + 31 * 1.75, rel=0.2)
    header, *rows = (tmp_path / "det.csv").read_text().splitlines()
    assert header == "threshold,miss_rate,false_alarms_per_hour"
    assert rows[0].endswith(",0,0")
    assert (tmp_path / "det.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "confusion.png").is_file()


def test_live_detections_are_those_that_were_scored(trained: Trigger, tmp_path: Path) -> None:
    """In chunks of 20 ms, by the task's own detector: every word within half a second of its end."""
    clips = [clip for clip in tone_clips(tmp_path, 8, seed=2) if clip.labels[0] in ("low", "high")]
    samples = np.concatenate([np.asarray(batch_of(trained, [clip]).waveforms[0]) for clip in clips])
    stream, detector = Stream(trained), trained.detector()
    found = [
        detection
        for chunk in np.split(samples, range(160, len(samples), 160))
        for detection in detector.push(stream.push(chunk).numpy())
    ]
    assert [detection.label for detection in found] == [clip.labels[0] for clip in clips]
    assert all(0 < detection.time - 0.5 * number < 0.6 for number, detection in enumerate(found))


def test_a_rule_that_is_given_leaves_the_tasks_others(trained: Trigger) -> None:
    own, other = trained.detector(), trained.detector(min_gap=3.0)
    assert own.min_gap != other.min_gap == 3.0
    assert own.labels == other.labels == ["low", "high"]
    assert own._hysteresis.on == other._hysteresis.on == float(trained.threshold)
    assert trained.detector(on=0.4)._hysteresis.on == 0.4


def test_a_keyword_over_windows_is_one_wherever_it_comes(trained: Trigger) -> None:
    windows = torch.tensor([[0.1, 0.0, 0.1, 0.8], [0.9, 0.0, 0.1, 0.0], [0.0, 0.1, 0.0, 0.9]])
    found = trained.rule.over_windows(windows.numpy())
    assert found.argmax() == 0
    as_frames = clip_probabilities(windows[None], torch.tensor([3]), trained.columns, smooth=1)[0]
    np.testing.assert_allclose(found, as_frames, rtol=1e-6)


def test_threshold_travels_with_the_weights(trained: Trigger) -> None:
    tuned = make(smoothing=0.05)
    tuned.threshold.fill_(0.83)
    other = make(smoothing=0.05)
    assert float(other.threshold) == 0.5
    other.load_state_dict(tuned.state_dict())
    assert float(other.threshold) == pytest.approx(0.83)
    assert float(make(threshold=0.7).threshold) == pytest.approx(0.7)


def test_a_run_tunes_the_threshold_of_the_weights_that_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Averaged ones, on its validation clips; with the test it ends in scores of long audio."""
    options = ["task=trigger", "task.background=[rain,wind]", "task.noise=wind", "frontend.top_db=null"]
    options += ["network=gru", "network.per_frame=true", "network.hidden=8", "augment=none", "callbacks=ema"]
    base = [option for option in TINY if not option.startswith("network")]
    cfg = config.compose_config([*base, *options, "loader.val_fraction=0.3", f"paths.cache={tmp_path}"])
    hear, heard_with = Trigger.score_long_audio, []

    def recorded(task: Trigger, clips: list[Clip]) -> Any:
        heard_with.append(task.network.get_parameter("head.weight").tolist())
        return hear(task, clips)

    monkeypatch.setattr(Trigger, "score_long_audio", recorded)
    scores = train(cfg, tmp_path / "run")["scores"]
    assert {"val/accuracy", "test/miss_rate", "test/false_alarms_per_hour"} <= scores.keys()
    task = load(tmp_path / "run")
    assert isinstance(task, Trigger)
    # In both epochs, one of which is kept, and afterwards for the scores of validation and test.
    kept = [weights == task.network.get_parameter("head.weight").tolist() for weights in heard_with]
    assert kept in ([True, False, True, True], [False, True, True, True])
    data = build.datamodule(cfg)
    data.setup()
    heard = task.score_long_audio(data.splits["val"].clips)
    best = fewest_errors(heard.points(THRESHOLDS))
    assert float(task.threshold) == pytest.approx(best.threshold)
    assert task._best_of(heard).threshold == best.threshold
    task.max_false_alarms_per_hour = 0.0
    assert task._best_of(heard).false_alarms == min(p.false_alarms for p in heard.points(THRESHOLDS))
    assert scores["val/miss_rate"]["value"] == pytest.approx(best.miss_rate)
