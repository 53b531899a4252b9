"""Encoder: what a pretrained network is to the rest, frozen as a front end or trained as a network.

An encoder is a front end as `frontend/base.py` says: waveforms and lengths in samples go in, states
`(B, F, T')`, zero behind the end of each clip, and lengths in frames come out. What it says of a clip depends
neither on the padding nor on the other clips of the batch.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_audio.errors import UserError, refuse_address

PREFIXES = ("model.", "encoder.")  # of the weights of an encoder that were taken out of a larger model


class Encoder(nn.Module):
    """Waveforms `(B, T)` at `sample_rate` with lengths `(B,)` -> states `(B, width, T')` and lengths.

    Attributes:
        sample_rate: in Hz, of the waveforms that it was trained on.
        shape: `(1, width)`.
        skips: whether a step of training may leave some of its weights without a gradient.
        least: samples that a clip has to have; shorter ones are filled up with zeros by the encoder itself
            where this is 1.
    """

    sample_rate: int = 16000
    shape: tuple[int, int]
    least: int = 1
    skips: bool = False

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """How many states come of so many samples, both `(B,)`."""
        raise NotImplementedError

    def named_stages(self) -> dict[str, list[nn.Module]]:
        """Its modules by stage, from the waveform upwards, as of a network; what has none does not learn."""
        return {}


def read_weights(weights: str, what: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as float32.

    Raises:
        UserError: there is no such file, or it is none of this kind; `what` names its content.
    """
    refuse_address(weights)
    file = Path(weights).expanduser()
    if not file.is_file():
        raise UserError(
            f"There is no weight file {file}: put the weights of {what} there, or name the file by "
            "encoder.weights=FILE or its folder by paths.models."
        )
    try:
        return {name: tensor.float() for name, tensor in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is no safetensors file: give one with the weights of {what}.") from error


def load_weights(module: nn.Module, weights: str, what: str, unused: tuple[str, ...] = ()) -> None:
    """Sets all weights of a module from a file; names that begin with one of `unused` are passed over.

    Raises:
        UserError: the file holds other names or shapes.
    """
    found = {name: t for name, t in read_weights(weights, what).items() if not name.startswith(unused)}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    try:
        module.load_state_dict(found)
    except RuntimeError as error:
        wanted = module.state_dict()
        odd = sorted(found.keys() ^ wanted.keys()) or sorted(
            name for name, tensor in found.items() if tensor.shape != wanted[name].shape
        )
        raise UserError(
            f"{weights} does not hold the weights of {what}: {odd[0]} and {len(odd) - 1} more names do not "
            "fit; give a file of these weights."
        ) from error
