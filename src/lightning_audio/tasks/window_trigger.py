"""Trigger words by a network that answers for whole clips: a stream is heard through windows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_audio.errors import UserError
from lightning_audio.inference.stream import WindowStream
from lightning_audio.tasks.classification import Classification
from lightning_audio.tasks.trigger import Trigger


class WindowTrigger(Trigger):
    """`Trigger` for any network and front end, an encoder that hears its whole input among them.

    It learns as `Classification` does. Of a stream it hears the last `window` seconds, every `hop` seconds,
    which costs window / hop times what the network takes of a recording.

    Args:
        window: seconds; longer than a word by several hops, so that the word is whole in several windows.
        hop: seconds from one window to the next, which are the frames that `smoothing` averages.
        shared: what `Trigger` takes; clips stand alone, and there are no frames to keep a margin from.

    Raises:
        UserError: a window is shorter than a hop, or clips are to stand in a row.
    """

    pools_time = True

    def __init__(self, window: float = 1.0, hop: float = 0.2, **shared: Any) -> None:
        if not 0 < hop <= window:
            raise UserError(
                f"task.window={window} and task.hop={hop} do not fit: set the hop above 0, up to the window."
            )
        self.window, self.hop = window, hop
        super().__init__(**{"margin": None, **shared})
        if self.concatenates:
            raise UserError("A window is a clip by itself: set task.clips_per_sequence=1.")

    def stream(self) -> WindowStream:
        return WindowStream(self, self.window, self.hop)

    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        return Classification.loss(self, logits, lengths, targets)

    def _whole(self, logits: Tensor, lengths: Tensor) -> Tensor:
        return logits

    def _refuse_other_networks(self) -> None:
        """Any network answers for a clip."""
