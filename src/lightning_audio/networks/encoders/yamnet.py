"""YAMNet: MobileNet v1 (Howard et al. 2017, arXiv:1704.04861) trained on AudioSet (Gemmeke et al. 2017).

As published by M. Plakal and D. Ellis 2020, github.com/tensorflow/models, research/audioset/yamnet: its front
end, its padding of short clips and its 521 sounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError
from lightning_audio.frontend.fourier import mel_powers
from lightning_audio.frontend.mask import frame_mask, mask_frames
from lightning_audio.networks.base import Network, strided
from lightning_audio.networks.encoders.base import Encoder, load_weights

RATE = 16000
WINDOW, HOP, N_FFT = 400, 160, 512  # samples: 25 ms every 10 ms
BANDS, F_MIN, F_MAX, OFFSET = 64, 125.0, 7500.0, 0.001
PATCH, PATCH_HOP = 96, 48  # frames that are looked at together, and from one such patch to the next
FIRST_PATCH = (PATCH - 1) * HOP + WINDOW  # samples: 0.975 s
AT_ONCE = 64  # patches that go through the network together, so that memory is bounded
# Output channels and stride of each depthwise-separable layer; the first layer is a usual convolution.
LAYERS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
STEM, SOUNDS = 32, 521
NAME = "YAMNet"


class Same(nn.Conv2d):
    """A 3x3 convolution padded as TensorFlow's SAME: as little as keeps size / stride, the odd one behind."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size, stride in zip(x.shape[:-3:-1], self.stride[::-1], strict=True):
            missing = max((strided(int(size), stride) - 1) * stride + 3 - int(size), 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(functional.pad(x, pads))


def separable(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A convolution of each channel by itself, then one over the channels, each with ReLU."""
    layer = nn.Sequential()
    layer.add_module("depthwise", Same(inputs, inputs, 3, stride, groups=inputs))
    layer.add_module("relu", nn.ReLU())
    layer.add_module("pointwise", nn.Conv2d(inputs, outputs, 1))
    layer.add_module("output", nn.ReLU())
    return layer


class YAMNet(Encoder):
    """1024 numbers for each patch of 0.96 s, every 0.48 s, of waveforms at 16 kHz.

    A clip is filled up with zeros to whole patches, as in the original, also one shorter than a patch.

    Args:
        weights: a safetensors file, or null to start from scratch.

    Raises:
        UserError: there is no such file, or it holds other weights.
    """

    sample_rate, shape = RATE, (1, LAYERS[-1][0])
    window: Tensor
    filters: Tensor

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.layer1 = nn.Sequential()
        self.layer1.add_module("conv", Same(1, STEM, 3, 2))
        self.layer1.add_module("output", nn.ReLU())
        inputs = STEM
        for number, (outputs, stride) in enumerate(LAYERS, start=2):
            self.add_module(f"layer{number}", separable(inputs, outputs, stride))
            inputs = outputs
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)
        if weights is not None:
            load_weights(self, weights, NAME, unused=("classifier.",))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Patches of clips of these lengths in samples."""
        return 1 + strided((lengths - FIRST_PATCH).clamp(min=0), PATCH_HOP * HOP)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, T)` -> `(B, 1024, patches)` and the number of patches."""
        counts = self.output_lengths(lengths)
        if torch.jit.is_tracing():
            patches = self._patches_in_graph(mask_frames(waveforms, lengths), counts.amax())
            states = self.embed(patches.reshape(-1, PATCH, BANDS))
            states = states.reshape(waveforms.shape[0], -1, self.shape[1]).transpose(1, 2)
            return mask_frames(states, counts), counts
        patches = self.patches(mask_frames(waveforms, lengths))
        valid = frame_mask(counts, patches.shape[1])
        found = [self.embed(part) for part in patches[valid].split(AT_ONCE)]
        states = patches.new_zeros(*valid.shape, self.shape[1])
        states[valid] = torch.cat(found).to(states.dtype)
        return states.mT, counts

    def patches(self, waveforms: Tensor) -> Tensor:
        """`(B, T)` -> log-mel spectrograms `(B, patches, 96, 64)`."""
        size = waveforms.shape[-1]
        total = FIRST_PATCH + math.ceil(max(size - FIRST_PATCH, 0) / (PATCH_HOP * HOP)) * PATCH_HOP * HOP
        frames = functional.pad(waveforms, (0, total - size)).unfold(-1, WINDOW, HOP)
        with torch.autocast(waveforms.device.type, enabled=False):
            magnitudes = torch.fft.rfft(frames.float() * self.window, N_FFT).abs()
            log_mel = (magnitudes @ self.filters + OFFSET).log()
        return log_mel.unfold(1, PATCH, PATCH_HOP).mT

    def _patches_in_graph(self, waveforms: Tensor, count: Tensor) -> Tensor:
        """`(B, count, 96, 64)`."""
        # A frame of 25 ms stands at the beginning of its transform here, and its zeros behind it.
        total = FIRST_PATCH + (count - 1) * PATCH_HOP * HOP + N_FFT - WINDOW
        window = functional.pad(self.window, (0, N_FFT - WINDOW))
        filled = functional.pad(waveforms, (0, total - waveforms.shape[1]))  # type: ignore[arg-type]  # traced
        log_mel = (mel_powers(filled, window, HOP, self.filters, magnitudes=True) + OFFSET).log()
        halves = log_mel.reshape(waveforms.shape[0], -1, PATCH_HOP, BANDS)
        return torch.cat([halves[:, :-1], halves[:, 1:]], 2)

    def embed(self, patches: Tensor) -> Tensor:
        """`(N, 96, 64)` -> `(N, 1024)`."""
        x = patches[:, None].contiguous(memory_format=torch.channels_last)
        for layer in self.children():
            x = layer(x)
        return x.mean((-2, -1))

    def named_stages(self) -> dict[str, list[nn.Module]]:
        return {name: [child] for name, child in self.named_children()}


class YAMNetTagger(Network):
    """YAMNet with its own classifier: logits of AudioSet's 521 sounds for each patch of a waveform.

    Raises:
        UserError: the front end is another one than `frontend=waveform`, the labels are others than the 521
            sounds, or what YAMNet raises.
    """

    def __init__(self, in_shape: tuple[int, int], num_outputs: int, weights: str | None = None) -> None:
        super().__init__()
        if in_shape != (1, 1) or num_outputs != SOUNDS:
            raise UserError(
                f"YAMNet names its own {SOUNDS} sounds from waveforms, not {num_outputs} labels: train a "
                "head on its states by frontend=frozen encoder=yamnet."
            )
        self.encoder = YAMNet()
        self.classifier = nn.Linear(self.encoder.shape[1], num_outputs)
        if weights is not None:
            named = {**dict(self.encoder.named_children()), "classifier": self.classifier}
            load_weights(nn.ModuleDict(named), weights, NAME)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self.encoder.output_lengths(lengths)

    def named_stages(self) -> dict[str, list[nn.Module]]:
        return {**self.encoder.named_stages(), "classifier": [self.classifier]}

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Samples `(B, 1, T)` -> logits `(B, patches, 521)`."""
        states, lengths = self.encoder(x[:, 0], lengths)
        return self.classifier(states.mT), lengths


def mel_filters() -> Tensor:
    """`(257, 64)`: triangles that are straight over mel, not over Hz, of which none hears 0 Hz.

    As tf.signal.linear_to_mel_weight_matrix makes them.
    """
    hertz = torch.linspace(0, RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    mel = 1127 * (1 + hertz / 700).log()
    low, high = (1127 * math.log(1 + edge / 700) for edge in (F_MIN, F_MAX))
    edges = torch.linspace(low, high, BANDS + 2, dtype=torch.float64)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[0] = 0
    return filters.float()
