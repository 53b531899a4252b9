"""Decoders with attention: what a network says of the frames in, tokens out, one after another.

Input 0 is the start of an utterance and output 0 its end; input and output i + 1 are token i.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask

START = END = 0
Named = dict[str, Tensor]  # tensors with a row for each hypothesis, by name


class AttentionDecoder(nn.Module):
    """What a task and a beam search ask of a decoder.

    Args:
        width: of the states of the network.
        num_outputs: tokens and the end.
        hidden: units of the decoder.
        layers: of the decoder.
        heads: of its attention; they divide `hidden`.
        dropout: in and behind the layers.

    Raises:
        UserError: the heads do not divide `hidden`.
    """

    def __init__(
        self,
        width: int,
        num_outputs: int,
        hidden: int = 256,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise UserError(
                f"task.decoder.heads={heads} do not divide task.decoder.hidden={hidden}: change one of them."
            )
        self.hidden, self.heads = hidden, heads
        self.embedding = nn.Embedding(num_outputs, hidden)
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def forward(self, states: Tensor, lengths: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """With true tokens as inputs: states `(B, T, D)`, their lengths `(B,)` and inputs `(B, U)` -> logits
        `(B, U, C)` of what follows each input, and what was attended to, `(B, U, T)`, a distribution each."""

    @abstractmethod
    def memory(self, states: Tensor, lengths: Tensor) -> Named:
        """What stays the same for all tokens of an utterance."""

    @abstractmethod
    def start(self, memory: Named) -> Named:
        """What a hypothesis without a token remembers."""

    @abstractmethod
    def step(self, inputs: Tensor, memory: Named, state: Named) -> tuple[Tensor, Named]:
        """One input `(N,)` for each hypothesis -> logits `(N, C)` and what it remembers now."""

    def attended(self, memory: Named, state: Named) -> Tensor:
        """What the last token attended to, `(N, T)`, of all heads."""
        return state["weights"].mean(1)


class LSTMDecoder(AttentionDecoder):
    """LSTM layers whose last one is the query of an attention that knows where it has been.

    Chan et al. 2016 (arXiv:1508.01211), with the location-aware attention of Chorowski et al. 2015
    (arXiv:1506.07503): energies also depend on a convolution over the weights of the token before and over
    the sum of all weights so far.

    Args:
        ahead: above 0 each token is expected so many frames behind the one before, on average: the weights
            are multiplied by those before, moved on by a geometric distribution, as by the prior filter of
            Battenberg et al. 2020 (arXiv:1910.10288). Without CTC this is what an alignment begins with.
        pool: frames that it attends to as one, their mean; CTC still has them all. With 2 of 20 ms a step of
            librispeech_half_joint takes a fifth less.
        others: those of `AttentionDecoder`.

    Raises:
        UserError: as `AttentionDecoder`, or `ahead` is below 0 or `pool` below 1.
    """

    CHANNELS, KERNEL = 16, 31  # of that convolution; 31 frames are 1.2 s where a frame is 40 ms
    LEAST = 1e-6  # of what is expected of a frame: none is out of reach
    expected: Tensor | None

    def __init__(
        self,
        width: int,
        num_outputs: int,
        hidden: int = 256,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.1,
        ahead: float = 0.0,
        pool: int = 1,
    ) -> None:
        super().__init__(width, num_outputs, hidden, layers, heads, dropout)
        if not 0 <= ahead < math.inf:
            raise UserError(f"task.decoder.ahead={ahead} are no frames: set it to 0 or more.")
        if pool < 1:
            raise UserError(f"task.decoder.pool={pool} frames are none: set it to 1 or more.")
        self.pool, ahead = pool, ahead / pool
        moved = (ahead / (1 + ahead)) ** torch.arange(round(6 * ahead), -1, -1.0)  # the last tap stays
        self.register_buffer(
            "expected", (moved / moved.sum())[None, None] if ahead else None, persistent=False
        )
        self.cells = nn.ModuleList(nn.LSTMCell(hidden if i else 2 * hidden, hidden) for i in range(layers))
        self.query, self.energy = nn.Linear(hidden, hidden), nn.Parameter(torch.randn(hidden) / hidden**0.5)
        self.key, self.value = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden)
        self.location = nn.Conv1d(2 * heads, self.CHANNELS, self.KERNEL, padding=self.KERNEL // 2)
        self.place = nn.Linear(self.CHANNELS, hidden, bias=False)
        self.head = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, num_outputs)
        )

    def memory(self, states: Tensor, lengths: Tensor) -> Named:
        inside = frame_mask(lengths, states.shape[1])
        if self.pool == 1:
            return {"keys": self.key(states), "values": self.value(states), "inside": inside}
        counts = self._pooled(inside.to(states)[..., None])
        states = self._pooled(states * inside[..., None]) / counts.clamp(min=1)
        share = inside / self._spread(counts[..., 0], inside).clamp(min=1)  # of its group, of each frame
        return {
            "keys": self.key(states),
            "values": self.value(states),
            "inside": counts[..., 0] > 0,
            "share": share,
        }

    def _pooled(self, x: Tensor) -> Tensor:
        """`(B, T, D)` -> `(B, T / pool, D)`, the sums of groups; the last one may be shorter."""
        filled = functional.pad(x, (0, 0, 0, self.pool - 1))
        parts = [filled[:, i : i + x.shape[1] : self.pool] for i in range(self.pool)]
        return torch.stack(parts).sum(0)

    def _spread(self, groups: Tensor, like: Tensor) -> Tensor:
        """`(B, T / pool)` -> `(B, T)`, as `like` is: each frame what its group has."""
        return groups[..., None].expand(-1, -1, self.pool).flatten(1)[:, : like.shape[1]]

    def attended(self, memory: Named, state: Named) -> Tensor:
        weights = state["weights"].mean(1)
        return weights if self.pool == 1 else self._spread(weights, memory["share"]) * memory["share"]

    def start(self, memory: Named) -> Named:
        rows, frames, _ = memory["keys"].shape
        blank = memory["keys"].new_zeros
        weights = blank(rows, self.heads, frames)
        if self.expected is not None:
            weights[..., 0] = 1.0
        return {
            "h": blank(rows, len(self.cells), self.hidden),
            "c": blank(rows, len(self.cells), self.hidden),
            "context": blank(rows, self.hidden),
            "weights": weights,
            "sum": blank(rows, self.heads, frames),
        }

    def forward(self, states: Tensor, lengths: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.memory(states, lengths)
        state, found, attended = self.start(memory), [], []
        for one in self.dropout(self.embedding(inputs)).unbind(1):
            state = self._read(one, memory, state)
            found.append(torch.cat([state["h"][:, -1], state["context"]], -1))
            attended.append(self.attended(memory, state).detach())
        return self.head(torch.stack(found, 1)), torch.stack(attended, 1)

    def step(self, inputs: Tensor, memory: Named, state: Named) -> tuple[Tensor, Named]:
        state = self._read(self.embedding(inputs), memory, state)
        return self.head(torch.cat([state["h"][:, -1], state["context"]], -1)), state

    def _read(self, x: Tensor, memory: Named, state: Named) -> Named:
        """Takes an embedded token `(N, hidden)` in, and looks at the frames."""
        x, hs, cs = torch.cat([x, state["context"]], -1), [], []
        for cell, h, c in zip(self.cells, state["h"].unbind(1), state["c"].unbind(1), strict=True):
            h, c = cell(x, (h, c))
            hs.append(h)
            cs.append(c)
            x = self.dropout(h)
        before = torch.cat([state["weights"], state["sum"]], 1)
        places = self.place(self.location(before).transpose(1, 2))
        energies = self.energy * torch.tanh(self.query(x)[:, None] + memory["keys"] + places)
        energies = energies.unflatten(-1, (self.heads, -1)).sum(-1).transpose(1, 2)  # (N, heads, T)
        if self.expected is not None:
            behind = functional.pad(state["weights"].flatten(0, 1)[:, None], (self.expected.shape[-1] - 1, 0))
            moved = functional.conv1d(behind, self.expected).view_as(energies)
            energies = energies + moved.clamp(min=self.LEAST).log()
        weights = energies.masked_fill(~memory["inside"][:, None], -torch.inf).softmax(-1)
        values = memory["values"].unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return {
            "h": torch.stack(hs, 1),
            "c": torch.stack(cs, 1),
            "context": (weights[:, :, None] @ values).flatten(1),
            "weights": weights,
            "sum": state["sum"] + weights,
        }


class TransformerDecoder(AttentionDecoder):
    """Layers of self-attention, attention to the frames and a feed-forward part (Vaswani et al. 2017).

    Each with its layer norm in front. What was attended to is that of the last layer.
    """

    def __init__(
        self,
        width: int,
        num_outputs: int,
        hidden: int = 256,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(width, num_outputs, hidden, layers, heads, dropout)
        self.layers = nn.ModuleList(_Layer(width, hidden, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, num_outputs)

    def memory(self, states: Tensor, lengths: Tensor) -> Named:
        found = {"inside": frame_mask(lengths, states.shape[1])}
        for i, layer in enumerate(self.layers):
            found[f"keys{i}"], found[f"values{i}"] = layer.get_submodule("frames")(states).chunk(2, -1)
        return found

    def start(self, memory: Named) -> Named:
        empty = memory["keys0"].new_zeros(len(memory["keys0"]), 0, self.hidden)
        return {f"{name}{i}": empty for i in range(len(self.layers)) for name in ("keys", "values")}

    def forward(self, states: Tensor, lengths: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.memory(states, lengths)
        logits, state = self._read(inputs, memory, self.start(memory))
        return logits, state["weights"].detach()

    def step(self, inputs: Tensor, memory: Named, state: Named) -> tuple[Tensor, Named]:
        logits, state = self._read(inputs[:, None], memory, state)
        return logits[:, 0], {**state, "weights": state["weights"][:, None, 0]}

    def _read(self, inputs: Tensor, memory: Named, state: Named) -> tuple[Tensor, Named]:
        """Logits of what follows each input `(N, U)`, which stand behind those of the state."""
        known = state["keys0"].shape[1]
        found: Named = {}
        total = known + inputs.shape[1]
        places = positions(total, self.hidden)[known:].to(memory["keys0"])
        x = self.dropout(self.embedding(inputs) + places)
        past = torch.ones(total, total, dtype=torch.bool, device=x.device).tril()[known:]
        for i, layer in enumerate(self.layers):
            keys, values = (state[f"{name}{i}"] for name in ("keys", "values"))
            frames = memory[f"keys{i}"], memory[f"values{i}"], memory["inside"][:, None]
            x, keys, values, weights = layer(x, keys, values, past, frames)
            found |= {f"keys{i}": keys, f"values{i}": values, "weights": weights}
        return self.head(self.norm(x)), found


def positions(count: int, width: int) -> Tensor:
    """Sines and cosines `(count, width)` of Vaswani et al. 2017, section 3.5."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(count)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


class _Layer(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.tokens, self.query = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.frames = nn.Linear(width, 2 * hidden)
        self.outputs = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.feedforward = nn.Sequential(
            nn.Linear(hidden, 4 * hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * hidden, hidden)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, past: Tensor, frames: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`x` `(N, U, hidden)` behind the tokens of `keys` and `values` -> the same of all, and weights."""
        query, key, value = self.tokens(self.norms[0](x)).chunk(3, -1)
        keys, values = torch.cat([keys, key], 1), torch.cat([values, value], 1)
        x = x + self.dropout(self.outputs[0](self._attend(query, keys, values, past)[0]))
        found, weights = self._attend(self.query(self.norms[1](x)), *frames)
        x = x + self.dropout(self.outputs[1](found))
        return x + self.dropout(self.feedforward(self.norms[2](x))), keys, values, weights.mean(1)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, U, hidden)` and the weights `(N, heads, U, S)`; `seen` says what may be attended to."""
        query, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, keys, values)
        )
        energies = query @ keys.mT / math.sqrt(query.shape[-1])
        seen = seen if seen.dim() == 2 else seen[:, None]
        weights = energies.masked_fill(~seen, -torch.inf).softmax(-1)
        mixed = functional.dropout(weights, self.dropout.p, self.training) @ values
        return mixed.transpose(1, 2).flatten(2), weights
