"""Embeddings of recordings: one vector for each, its nearest neighbours, and all of them in a plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lightning_audio.data.batch import samples_to_float
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import mean_over_time
from lightning_audio.inference.prediction import Recordings
from lightning_audio.inference.stream import TrainedTask

LONGEST = 30.0  # seconds that run at once; of longer recordings the mean of such pieces, by their length

# Waveforms `(1, T)` and lengths -> one vector for each `(1, D)`.
Embed = Callable[[Tensor, Tensor], Tensor]


def embeddings(
    embed: Embed, recordings: Recordings, sample_rate: int, device: torch.device
) -> Iterator[tuple[str, float, np.ndarray]]:
    """`(id, seconds, (D,))` of each recording, in their order."""
    size = round(LONGEST * sample_rate)
    for name, samples in recordings:
        pieces = torch.from_numpy(samples).to(device).split(size)
        if len(pieces) > 1 and len(pieces[-1]) < size / 2:  # too little to stand for itself
            pieces = (*pieces[:-2], torch.cat(pieces[-2:]))
        with torch.inference_mode():
            found = [
                embed(samples_to_float(piece)[None], torch.tensor([len(piece)], device=device))
                for piece in pieces
            ]
        shares = torch.tensor([len(piece) / len(samples) for piece in pieces])
        mean = (torch.cat(found).float().cpu() * shares[:, None]).sum(0)
        yield name, len(samples) / sample_rate, mean.numpy()


def of_front_end(frontend: nn.Module) -> Embed:
    """The mean over time of what a front end gives, such as a frozen encoder."""

    def embed(waveforms: Tensor, lengths: Tensor) -> Tensor:
        states, counts = frontend(waveforms, lengths)
        return mean_over_time(states, counts).flatten(1)

    return embed


def of_task(task: TrainedTask) -> Embed:
    """What the last linear layer of a trained network is given, its mean over time.

    Raises:
        UserError: the network has no such layer.
    """
    layers = [module for module in task.network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise UserError(f"{type(task.network).__name__} has no linear layer, whose input would be taken.")
    seen: list[Tensor] = []
    layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def embed(waveforms: Tensor, lengths: Tensor) -> Tensor:
        seen.clear()
        features, frames = task.frontend(waveforms, lengths)
        _, counts = task.network(*task.normalize(features, frames))
        states = seen[-1]
        return states if states.dim() == 2 else mean_over_time(states.mT, counts)

    return embed


def nearest(vectors: np.ndarray, count: int) -> Iterator[list[tuple[int, float]]]:
    """For each of `(N, D)` the others that are most like it, `(row, cosine)`, at most `count`, best first."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    for row, vector in enumerate(unit):
        cosines = unit @ vector
        cosines[row] = -np.inf
        best = np.argsort(-cosines, kind="stable")[: min(count, len(unit) - 1)]
        yield [(int(other), float(cosines[other])) for other in best]


def in_a_plane(vectors: np.ndarray, projection: str) -> np.ndarray:
    """`(N, 2)` of `(N, D)`: principal components, or t-SNE (van der Maaten and Hinton 2008).

    Raises:
        UserError: there are fewer than 3, or scikit-learn, which t-SNE takes, is not installed.
    """
    if len(vectors) < 3:
        raise UserError(f"A picture of {len(vectors)} recordings says nothing: give 3 or more.")
    if projection == "pca":
        centred = vectors - vectors.mean(0)
        left, scales, _ = np.linalg.svd(centred, full_matrices=False)
        plane = np.zeros((len(vectors), 2), vectors.dtype)
        plane[:, : min(2, len(scales))] = (left * scales)[:, :2]
        return plane
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError(
            "--projection tsne needs scikit-learn, which is not installed: run pip install scikit-learn, or "
            "take pca."
        ) from error
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(perplexity=perplexity, random_state=0, init="pca").fit_transform(vectors)


def stacked(found: Iterable[tuple[str, float, np.ndarray]]) -> tuple[list[str], list[float], np.ndarray]:
    """Ids, seconds and vectors `(N, D)`; raises UserError where there are none."""
    rows = list(found)
    if not rows:
        raise UserError("None of the files could be read: there is nothing to embed.")
    return [row[0] for row in rows], [row[1] for row in rows], np.stack([row[2] for row in rows])
