"""Network: what a task asks of an architecture. One file beside this one for each."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Network(nn.Module):
    """Plain architecture: features in, logits out.

    A subclass takes `in_shape` (channels, features per frame) and `num_outputs`, which flow from the front
    end and the data, and its own sizes from YAML. Its `forward` takes features `(B, F, T)` or
    `(B, C, F, T)` with lengths `(B,)` in frames, and returns logits with their lengths. In eval mode the
    logits of a clip do not depend on the padding or on the other clips of its batch.
    """

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """How many rows of logits come of so many frames, both `(B,)`.

        Raises:
            NotImplementedError: the network answers once for a whole clip.
        """
        raise NotImplementedError(f"{type(self).__name__} does not answer for every frame.")

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """A stream, piece by piece: features that follow those seen before, as `forward` takes them.

        Returns logits `(B, T', C)` of the frames that are now complete (T' may be 0), and the state to pass
        on with the next piece; the state is None at the start. In eval mode the logits of all pieces,
        whatever their lengths, are those of `forward` on the whole.

        Raises:
            NotImplementedError: the network looks ahead, or answers once for a whole clip.
        """
        raise NotImplementedError(f"{type(self).__name__} does not run on a stream.")

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer, the same ones for every decay; biases and norms do not decay.

        All parameters are in them, also those that are frozen now: they may learn later, and the groups of a
        run that is resumed or rolled back have to be those of its checkpoint. An optimizer passes over
        parameters without a gradient. `lr_scale` in a group scales its rate.
        """
        learned = list(self.named_parameters())
        spared = [p for name, p in learned if p.ndim <= 1 or name.endswith(".bias")]
        kept = {id(p) for p in spared}
        groups = [(spared, 0.0), ([p for _, p in learned if id(p) not in kept], weight_decay)]
        return [{"params": params, "weight_decay": decay} for params, decay in groups if params]

    def start_epoch(self, epoch: int, max_epochs: int) -> None:
        """Called before each training epoch; the state set here is a pure function of the arguments."""
