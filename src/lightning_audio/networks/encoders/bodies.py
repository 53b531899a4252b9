"""How each kind of audio encoder in transformers is fed, and where its states come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.frontend.mask import frame_mask, in_export, mask_frames
from lightning_audio.networks.base import strided
from lightning_audio.networks.encoders.inputs import (
    HOP,
    WINDOW,
    WhisperLogMel,
    ast_fbank,
    seamless_fbank,
    standardized,
)


class Body(nn.Module):
    """A model of transformers with what it is fed: waveforms in, the states of all layers out.

    Args:
        model: of transformers, or its encoder.
        preprocessor: what stands beside its weights in preprocessor_config.json.
    """

    least = WINDOW  # samples; a shorter clip is filled up with zeros

    def __init__(self, model: Any, preprocessor: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.preprocessor = model, preprocessor
        self.masking = getattr(model.config, "apply_spec_augment", True)  # of its own states, while it learns

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """States of clips of these lengths in samples."""
        raise NotImplementedError

    def layers(self) -> Any:
        """The layers of the transformer."""
        return self.model.encoder.layers

    def forward(self, waveforms: Tensor, lengths: Tensor) -> list[Tensor]:
        """`(B, T)`, zero behind clips -> the input of the first layer, the output of each, `(B, T', D)`."""
        raise NotImplementedError

    def alone(self, waveforms: Tensor) -> list[Tensor]:
        """The same of clips of one length."""
        self.mask_if_longer(waveforms.shape[-1])
        found = self.model(self.inputs(waveforms), output_hidden_states=True)
        states = found.hidden_states
        return [*states[:-1], found.last_hidden_state]

    def mask_if_longer(self, samples: int) -> None:
        """Has the model mask clips that are longer than a mask alone: it refuses others while it learns."""
        if self.training and self.masking:
            frames = int(self.output_lengths(torch.tensor(samples)))
            self.model.config.apply_spec_augment = frames > getattr(self.model.config, "mask_time_length", 0)

    def inputs(self, waveforms: Tensor) -> Tensor:
        """What the model is given for clips of one length."""
        raise NotImplementedError


class ByLength(Body):
    """Models that do not know of padding: clips of one length run together, so that it never reaches them."""

    ragged = False

    def forward(self, waveforms: Tensor, lengths: Tensor) -> list[Tensor]:
        """`(B, T)` -> states `(B, T', width)` before and behind each layer, zeros behind each clip."""
        if in_export():  # a graph is given clips of one length, without padding
            return self.alone(waveforms)
        counts = self.output_lengths(lengths)
        states: list[Tensor] = []
        for size in sorted(set(lengths.tolist())):
            same = lengths == size
            found = self.alone(waveforms[same, :size])
            if not states:
                shape = (len(lengths), int(counts.max()), found[0].shape[-1])
                states = [one.new_zeros(shape) for one in found]
            for whole, one in zip(states, found, strict=True):
                whole[same, : one.shape[1]] = one
        return states


class Convolutional(ByLength):
    """wav2vec 2.0 and what followed it: convolutions over the waveform, then a transformer."""

    def __init__(self, model: Any, preprocessor: dict[str, Any]) -> None:
        super().__init__(model, preprocessor)
        config = model.config
        self.strides = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.normalize = preprocessor.get("do_normalize", True)
        self.least = getattr(config, "squeeze_factor", 1)
        for kernel, stride in reversed(self.strides):
            self.least = (self.least - 1) * stride + kernel

    def output_lengths(self, lengths: Tensor) -> Tensor:
        for kernel, stride in self.strides:
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def inputs(self, waveforms: Tensor) -> Tensor:
        lengths = waveforms.new_ones(waveforms.shape[0], dtype=torch.long) * waveforms.shape[-1]
        return standardized(waveforms, lengths) if self.normalize else waveforms


class Masked(Convolutional):
    """Those of them that mask padding in every layer, so that clips of all lengths run together."""

    def __init__(self, model: Any, preprocessor: dict[str, Any]) -> None:
        super().__init__(model, preprocessor)
        first = model.feature_extractor.conv_layers[0]
        if model.config.feat_extract_norm == "group":
            norm = first.layer_norm
            first.layer_norm = self.norm = ClipGroupNorm(norm.num_groups, norm.num_channels, norm.eps)
            self.norm.load_state_dict(norm.state_dict())

    def forward(self, waveforms: Tensor, lengths: Tensor) -> list[Tensor]:
        """`(B, T)` -> states `(B, T', width)` before and behind each layer; padding is masked inside."""
        if self.normalize:
            waveforms = standardized(waveforms, lengths)
        if self.model.config.feat_extract_norm == "group":
            kernel, stride = self.strides[0]
            self.norm.lengths = (lengths - kernel) // stride + 1
        mask = frame_mask(lengths, waveforms.shape[-1])
        self.mask_if_longer(waveforms.shape[-1])
        found = self.model(waveforms, attention_mask=mask.long(), output_hidden_states=True)
        return [*found.hidden_states[:-1], found.last_hidden_state]


class ClipGroupNorm(nn.GroupNorm):
    """Group normalisation over the frames of each clip, of which `lengths` says how many there are."""

    lengths: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, T)`, of which the frames of `lengths` count."""
        grouped = mask_frames(x, self.lengths).unflatten(1, (self.num_groups, -1))
        count = (self.lengths * grouped.shape[2]).view(-1, 1, 1, 1)
        mean = grouped.sum((2, 3), keepdim=True) / count
        centred = mask_frames((grouped - mean).flatten(1, 2), self.lengths).unflatten(
            1, (self.num_groups, -1)
        )
        variance = centred.square().sum((2, 3), keepdim=True) / count
        y = ((grouped - mean) / (variance + self.eps).sqrt()).flatten(1, 2)
        return y * self.weight[:, None] + self.bias[:, None]


class Moonshine(ByLength):
    """Moonshine's encoder (Jeffries et al. 2024, arXiv:2410.15608)."""

    def output_lengths(self, lengths: Tensor) -> Tensor:
        for kernel, stride in ((127, 64), (7, 3), (3, 2)):
            lengths = (lengths - kernel) // stride + 1
        return lengths

    least = 127 + 64 * (7 - 1 + 3 * (3 - 1))

    def layers(self) -> Any:
        return self.model.layers

    def inputs(self, waveforms: Tensor) -> Tensor:
        return waveforms


class Wav2Vec2Bert(ByLength):
    """A conformer on filter banks (Barrault et al. 2023, arXiv:2312.05187)."""

    least = WINDOW + 2 * HOP  # three frames: of two alone, the deviation of each band says nothing

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return ((lengths - WINDOW) // HOP + 1) // 2

    def inputs(self, waveforms: Tensor) -> Tensor:
        return seamless_fbank(waveforms)


class AST(ByLength):
    """Audio Spectrogram Transformer (Gong et al. 2021, arXiv:2104.01778): the mean of patches over frequency.

    Positions are cut to the length of a clip; of one that is longer than they reach, pieces of their length
    are looked at one by one.
    """

    def __init__(self, model: Any, preprocessor: dict[str, Any]) -> None:
        super().__init__(model, preprocessor)
        config = model.config
        self.patch, self.stride, self.reach = config.patch_size, config.time_stride, config.max_length
        self.least = WINDOW + (self.patch - 1) * HOP

    def layers(self) -> Any:
        return self.model.layers

    def output_lengths(self, lengths: Tensor) -> Tensor:
        frames = (lengths - WINDOW) // HOP + 1
        whole, rest = frames // self.reach, frames % self.reach
        return whole * ((self.reach - self.patch) // self.stride + 1) + (
            (rest - self.patch) // self.stride + 1
        ).clamp(min=0)

    def inputs(self, waveforms: Tensor) -> Tensor:
        mean, std = self.preprocessor.get("mean", -4.2677393), self.preprocessor.get("std", 4.5689974)
        return ast_fbank(waveforms, self.model.config.num_mel_bins, mean, std)

    def alone(self, waveforms: Tensor) -> list[Tensor]:
        pieces = [p for p in self.inputs(waveforms).split(self.reach, 1) if p.shape[1] >= self.patch]
        return [torch.cat(parts, 1) for parts in zip(*map(self._piece, pieces), strict=True)]

    def _piece(self, fbank: Tensor) -> list[Tensor]:
        embeddings = self.model.embeddings
        rows, columns = embeddings.get_shape(self.model.config)
        maps = embeddings.patch_embeddings.projection(fbank.mT[:, None])
        places = embeddings.position_embeddings[:, 2:].unflatten(1, (rows, columns))
        x = maps.flatten(2).mT + places[:, :, : maps.shape[-1]].flatten(1, 2)
        tokens = torch.cat([embeddings.cls_token, embeddings.distillation_token], 1)
        tokens = tokens + embeddings.position_embeddings[:, :2]
        x = embeddings.dropout(torch.cat([tokens.expand(x.shape[0], -1, -1), x], 1))
        states = [x]
        for layer in self.model.layers:
            states.append(layer(states[-1], None))
        states[-1] = self.model.layernorm(states[-1])
        return [state[:, 2:].unflatten(1, maps.shape[-2:]).mean(1) for state in states]


class Whisper(Body):
    """Whisper's encoder (Radford et al. 2022, arXiv:2212.04356), its positions cut to the length of a clip.

    Two seconds cost two seconds, not thirty; of a clip that is longer than positions reach, pieces of their
    length are looked at one by one, behind convolutions over all of it.
    """

    least = 1

    def __init__(self, model: Any, preprocessor: dict[str, Any]) -> None:
        super().__init__(model, preprocessor)
        self.log_mel = WhisperLogMel(model.config.num_mel_bins)
        self.masks: nn.Module | None = None  # on log-mel, while the encoder learns

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return strided(lengths, 2 * HOP)

    def layers(self) -> Any:
        return self.model.layers

    def forward(self, waveforms: Tensor, lengths: Tensor) -> list[Tensor]:
        """`(B, T)` -> states `(B, T', width)` before and behind each layer; in pieces of 30 s."""
        x, frames = self.log_mel(waveforms, lengths)
        if self.masks is not None:
            x, _ = self.masks(x, frames)
        x = mask_frames(functional.gelu(self.model.conv1(x)), frames)
        x = functional.gelu(self.model.conv2(x)).mT
        counts, reach = self.output_lengths(lengths), self.model.config.max_source_positions
        if in_export():  # a graph takes clips up to this length
            return self._piece(x, counts)
        # As wide as the weights: under autocast the convolutions give a narrower type than the layers.
        positions = self.model.embed_positions.weight
        states = [positions.new_zeros(x.shape) for _ in range(len(self.model.layers) + 1)]
        for start in range(0, x.shape[1], reach):
            if start and not (counts > start).any():  # padding alone
                break
            there = slice(None) if start == 0 else counts > start
            part = x[there, start : start + reach]
            for whole, one in zip(states, self._piece(part, counts[there] - start), strict=True):
                whole[there, start : start + reach] = one.to(whole.dtype)
        return states

    def _piece(self, x: Tensor, counts: Tensor) -> list[Tensor]:
        x = x + self.model.embed_positions.weight[: x.shape[1]]
        mask = frame_mask(counts, x.shape[1])[:, None, None].expand(-1, 1, x.shape[1], -1)
        states = [functional.dropout(x, self.model.dropout, self.training)]
        for layer in self.model.layers:
            states.append(layer(states[-1], mask))
        states[-1] = self.model.layer_norm(states[-1])
        return states


BODIES: dict[str, Callable[[Any, dict[str, Any]], Body]] = {
    "audio-spectrogram-transformer": AST,
    "data2vec-audio": Convolutional,
    "hubert": Masked,
    "moonshine": Moonshine,
    "sew": Convolutional,
    "unispeech": Convolutional,
    "unispeech-sat": Convolutional,
    "wav2vec2": Masked,
    "wav2vec2-bert": Wav2Vec2Bert,
    "wav2vec2-conformer": Convolutional,
    "wavlm": Masked,
    "whisper": Whisper,
}
