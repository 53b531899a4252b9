"""What the answer to a clip hangs on: pieces of the spectrogram are hidden, one at a time; of a transcript,
the frames that each of its tokens comes from."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image

from lightning_audio.data.batch import samples_to_float
from lightning_audio.reports.html.clips import COLUMNS, data_uri, log_mel_of
from lightning_audio.reports.plots import attention_figure, rgb

GRID = (8, 16)  # pieces of the features and of the time
AT_ONCE = 32  # clips with a hidden piece that run together
CARD_INCHES, TALLEST_INCHES = 3.6, 8.0  # of a picture of tokens over time
SHADE = 0.8  # of the colour over the piece that counts the most

# int16 samples (T,) and their rate -> a picture as data, and in words what it shows.
Explain = Callable[[np.ndarray, int], tuple[str, str]]


@dataclass(frozen=True)
class Explained:
    """Which clips of a page are explained `by` what: the first `count`, and `chosen` ids come first."""

    by: Explain | None = None
    count: int = 0
    chosen: Sequence[str] = ()


@torch.inference_mode()
def occlusion(task: Any, samples: np.ndarray) -> tuple[str, np.ndarray]:
    """The label of the answer to int16 samples `(T,)`, and by how much its log-probability falls where a
    piece of the features is hidden, `(bands, columns)`, the lowest first.

    As Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks". Hidden means the
    mean of the clip's features. Where features have one row, as waveforms, there is one band.

    Args:
        task: in eval mode, one that labels clips.
    """
    waveform = samples_to_float(torch.from_numpy(samples)[None]).to(task.device)
    lengths = torch.tensor([samples.shape[0]], device=task.device)
    features, frames = task.normalize(*task.frontend(waveform, lengths))
    rows, columns = min(GRID[0], features.shape[-2]), min(GRID[1], features.shape[-1])
    bands = np.linspace(0, features.shape[-2], rows + 1).round().astype(int)
    times = np.linspace(0, features.shape[-1], columns + 1).round().astype(int)
    mean, hidden = features.mean(), []
    for low, high in pairwise(bands.tolist()):
        for start, end in pairwise(times.tolist()):
            copy = features[0].clone()
            copy[..., low:high, start:end] = mean
            hidden.append(copy)
    found = []
    for batch in torch.stack([features[0], *hidden]).split(AT_ONCE):
        logits, _ = task.apply_network(batch, frames.expand(len(batch)))
        found.append(task.label_scores(logits.float()).clamp(min=1e-9).log())
    scores = torch.cat(found).cpu().numpy()
    answer = int(scores[0].argmax())
    return task.labels[answer], (scores[0, answer] - scores[1:, answer]).reshape(rows, columns)


def explainer(task: Any) -> Explain:
    """Pictures of what the answers of a task hang on."""
    if task.transcribes:
        return partial(emission_picture, task)

    def explain(samples: np.ndarray, rate: int) -> tuple[str, str]:
        label, falls = occlusion(task, samples)
        factor = float(np.exp(max(falls.max(), 0.0)))
        told = f"{label} hangs on what is coloured: with the strongest piece hidden, it is {factor:.1f} times"
        return overlay(samples, rate, falls), f"{told} less likely."

    return explain


def emission_picture(task: Any, samples: np.ndarray, rate: int) -> tuple[str, str]:
    """Tokens over time, as the decoder of validation finds them in samples `(T,)`, and what that shows."""
    (rows,) = task.frame_outputs([samples])
    tokens = task.greedy(rows)[0].tokens
    if not tokens:
        return "", "nothing is heard"
    weights = task.emissions(torch.from_numpy(rows).to(task.device), tokens).cpu()
    names = [task.tokenizer.vocabulary[token] for token in tokens]
    figure = attention_figure(weights, names, len(rows) * task.frame_seconds, "")
    figure.set_size_inches(CARD_INCHES, min(0.7 + 0.14 * len(names), TALLEST_INCHES))
    return _png(Image.fromarray(rgb(figure))), "what is heard, from top to bottom, and the frames that say it"


def overlay(samples: np.ndarray, rate: int, falls: np.ndarray) -> str:
    """The log-mel of samples `(T,)` in grey, coloured where `falls` `(bands, columns)` are above 0."""
    grey = (log_mel_of(samples, rate, COLUMNS) / 80.0 + 1)[::-1, :, None]
    shares = np.clip(falls / max(float(falls.max()), 1e-9), 0.0, 1.0)[::-1]
    size = (grey.shape[1], grey.shape[0])
    heat = Image.fromarray((255 * shares).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    weight = SHADE * np.asarray(heat, np.float32)[..., None] / 255
    colours = (1 - weight) * grey * 255 + weight * np.array([255.0, 140.0, 0.0])
    return _png(Image.fromarray(colours.astype(np.uint8)))


def _png(image: Image.Image) -> str:
    content = io.BytesIO()
    image.quantize(64).save(content, format="PNG")
    return data_uri("image/png", content.getvalue())
