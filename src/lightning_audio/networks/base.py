"""Network: what a task asks of an architecture. One file beside this one for each."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

Size = TypeVar("Size", int, Tensor)


class Network(nn.Module):
    """Architecture: features in, logits or states out.

    A subclass takes `in_shape` `(channels, features per frame)` and `num_outputs`, which come from the front
    end and the task, and its own options from its file in conf/network, which explains them. In eval mode
    what it says of a clip does not depend on the padding or on the other clips of the batch: a layer that
    sees several frames finds zeros behind each clip.
    """

    ragged: ClassVar[bool] = True  # whether clips of several lengths run together in an exported graph
    knows_clips = False  # whether clips to score are among those of `remember`, as training clips are

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(B, F, T)` or `(B, C, F, T)` with lengths `(B,)` in frames -> logits or states, lengths.

        `num_outputs` numbers for each frame that is left, `(B, T', num_outputs)`, with lengths in these
        frames as `output_lengths` says them; or for the whole clip, `(B, num_outputs)`, with lengths of 1. A
        task that labels clips averages what has frames over time, and one that needs frames refuses what has
        none.
        """
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
        whatever their lengths, and of `finish` are those of `forward` on the whole.

        Raises:
            NotImplementedError: the network looks ahead, or answers once for a whole clip.
        """
        raise NotImplementedError(f"{type(self).__name__} does not run on a stream.")

    def finish(self, state: Any) -> Tensor | None:
        """Logits `(B, T', C)` of the frames that waited for others when a stream ends; None for none."""
        return None

    def named_stages(self) -> dict[str, list[nn.Module]]:
        """Its modules by stage, in order of depth from the features on; the last stage is the head.

        What learns from when on and how fast follows from it (`finetune` in conf/train.yaml). By default each
        child is a stage, and each element of a `ModuleList`, in the order in which they were registered; what
        holds nothing but norms belongs to the stage before. Parameters that are in no stage belong to the
        first.
        """
        stages: dict[str, list[nn.Module]] = {}
        for name, child in self.named_children():
            elements = child.named_children() if isinstance(child, nn.ModuleList) else [("", child)]
            for element, module in elements:
                dims = [parameter.ndim for parameter in module.parameters()]
                if dims and stages and max(dims) <= 1:
                    list(stages.values())[-1].append(module)
                elif dims:
                    stages[f"{name}.{element}".rstrip(".")] = [module]
        return stages

    def remember(self, x: Tensor, lengths: Tensor, targets: Tensor) -> None:
        """Called once with every batch of training clips, as `forward` takes them, before training begins.

        For networks that answer by what they have seen, such as nearest neighbours.
        """

    def start_epoch(self, epoch: int, max_epochs: int) -> None:
        """Called before each training epoch; the state set here is a pure function of the arguments."""


def strided(size: Size, *strides: int) -> Size:
    """What convolutions with these strides, padded to keep their input's size otherwise, leave of a size."""
    for stride in strides:
        size = (size + stride - 1) // stride  # no quotient of negative numbers, which ONNX rounds otherwise
    return size


def as_maps(x: Tensor) -> Tensor:
    """`(B, F, T)` or `(B, C, F, T)` -> `(B, C, F, T)`."""
    return x.unsqueeze(1) if x.dim() == 3 else x
