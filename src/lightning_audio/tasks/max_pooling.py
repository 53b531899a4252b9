"""Posteriors of frames to a loss and to probabilities of whole clips, for keywords that come at some time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lightning_audio.frontend.mask import frame_mask, in_export


def max_pooling_loss(
    logits: Tensor,
    lengths: Tensor,
    classes: Tensor,
    background: Sequence[int],
    margin: int | None = None,
    smooth: int = 1,
) -> Tensor:
    """The loss of each clip, `(B,)`, on smoothed posteriors: what counts is where a decision would be made.

    Of a keyword's clip: cross-entropy at the frame where the keyword's posterior is highest, since nobody
    said when it ends. Of a background clip: the mean cross-entropy over its frames. To both the worst false
    alarm is added: the highest -log P(what may be heard) of any frame. That is any background, and in a
    keyword's clip the keyword too, but with a `margin` only up to so many frames from its peak, so that it is
    let go of again. Without this term a network may go through all keywords in turn, or raise an alarm at a
    fixed moment of every clip: for single frames among many that hardly costs anything.

    Sources: Sun et al. 2017, "Max-pooling loss training of long short-term memory networks for
    small-footprint keyword spotting" (arXiv:1705.02411), for one keyword and with an alignment; Park et al.
    2020, "Learning to detect keyword parts and whole by smoothed max pooling" (arXiv:2001.09246), for
    smoothing; Hou et al. 2020, "Mining effective negative training samples for keyword spotting" (ICASSP),
    for the worst frame.

    Args:
        logits: `(B, T, C)`.
        lengths: `(B,)` in frames; what lies behind them does not count.
        classes: `(B,)`.
        background: the classes that are no keywords.
        margin: frames, or None.
        smooth: frames whose posteriors are averaged, as in `moving_mean`.
    """
    posteriors = _log_moving_mean(logits.log_softmax(-1), smooth)
    times = torch.arange(logits.shape[1], device=logits.device)
    inside = frame_mask(lengths, logits.shape[1])
    is_background = torch.isin(classes, torch.tensor(background, device=classes.device))
    own = posteriors.gather(-1, classes[:, None, None].expand(-1, logits.shape[1], 1))[..., 0]
    peak = own.masked_fill(~inside, -torch.inf).argmax(1, keepdim=True)
    mean = own.masked_fill(~inside, 0.0).sum(1) / lengths
    right = torch.where(is_background, mean, own.gather(1, peak)[:, 0])

    none = posteriors[..., list(background)].logsumexp(-1)
    far = (
        is_background[:, None] if margin is None else is_background[:, None] | ((times - peak).abs() > margin)
    )
    allowed = torch.where(far, none, torch.logaddexp(none, own))
    return -right - allowed.masked_fill(~inside, 0.0).amin(1)


def clip_probabilities(scores: Tensor, lengths: Tensor, background: Sequence[int], smooth: int) -> Tensor:
    """Probabilities `(B, C)` of whole clips from posteriors `(B, T, C)` of their frames.

    A keyword has the highest of its posteriors, smoothed over `smooth` frames; the background labels share
    what the best keyword leaves of 1, in proportion to their posteriors over the clip. The sum is then
    brought to 1, which leaves the order as it is.
    """
    inside = frame_mask(lengths, scores.shape[1])[..., None]
    best = moving_mean(scores, smooth).masked_fill(~inside, 0.0).amax(1)
    sums = scores.masked_fill(~inside, 0.0).sum(1)[:, background].clamp(min=1e-12)
    keywords = best.index_fill(1, torch.tensor(background, device=best.device), 0.0)
    left = (1 - keywords.amax(1, keepdim=True)) * sums / sums.sum(1, keepdim=True)
    probabilities = keywords.index_copy(1, torch.tensor(background, device=best.device), left)
    return probabilities / probabilities.sum(1, keepdim=True)


def moving_mean(scores: Tensor, size: int) -> Tensor:
    """The mean of each frame and those before it, `size` in all and fewer at the start; `(B, T, C)`."""
    if in_export():
        sums = size * functional.avg_pool1d(functional.pad(scores.transpose(1, 2), (size - 1, 0)), size, 1)
        return sums.transpose(1, 2) / (torch.arange(scores.shape[1]) + 1).clamp(max=size)[:, None]
    padded = functional.pad(scores, (0, 0, size - 1, 0), value=torch.nan)
    return padded.unfold(1, size, 1).nanmean(-1)


def _log_moving_mean(log_scores: Tensor, size: int) -> Tensor:
    """`moving_mean` of `(B, T, C)` in logarithms, which do not underflow."""
    padded = functional.pad(log_scores, (0, 0, size - 1, 0), value=-torch.inf)
    counts = torch.arange(1, log_scores.shape[1] + 1, device=log_scores.device).clamp(max=size)
    return padded.unfold(1, size, 1).logsumexp(-1) - counts[:, None].log()
