"""`AttentionSearch` by a decoder of torch, a batch of utterances at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter, functional
from torch.nn.utils.rnn import pad_sequence

from lightning_audio.decoding.alignment import Rows
from lightning_audio.decoding.attention_search import END, START, AttentionSearch
from lightning_audio.decoding.hypothesis import Hypothesis, refuse_nan

Named = dict[str, Tensor]


class StepDecoder(Protocol):
    """What is asked of a decoder here; see tasks/decoders.py."""

    def __call__(self, states: Tensor, lengths: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]: ...

    def parameters(self) -> Iterator[Parameter]: ...

    def memory(self, states: Tensor, lengths: Tensor) -> Named: ...

    def start(self, memory: Named) -> Named: ...

    def step(self, inputs: Tensor, memory: Named, state: Named) -> tuple[Tensor, Named]: ...

    def attended(self, memory: Named, state: Named) -> Tensor: ...


class AttentionBeam(AttentionSearch):
    """`AttentionSearch`; `decoder` gives the tokens."""

    def __init__(self, *args: Any, decoder: StepDecoder, **options: Any) -> None:
        super().__init__(*args, **options)
        self.decoder = decoder

    @property
    def device(self) -> torch.device:
        return next(iter(self.decoder.parameters())).device

    def many(self, utterances: Sequence[Rows]) -> list[list[Hypothesis]]:
        return super().many([torch.as_tensor(rows).detach().cpu() for rows in utterances])

    def states(self, rows: Rows) -> Tensor:
        """The states `(T, D)`."""
        return torch.as_tensor(rows)[:, self.outputs :] if self.with_ctc else torch.as_tensor(rows)

    @torch.inference_mode()
    def begin(self, utterances: Sequence[Rows], of: np.ndarray) -> tuple[Named, Named]:
        lengths = torch.tensor([len(rows) for rows in utterances])
        states = pad_sequence([self.states(rows) for rows in utterances], batch_first=True)
        memory = self.decoder.memory(states.to(self.device), lengths.to(self.device))
        repeated = self._rows(memory, of)
        return repeated, self.decoder.start(repeated)

    @torch.inference_mode()
    def step(self, last: np.ndarray, known: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        memory, state = known
        logits, state = self.decoder.step(torch.from_numpy(last).to(self.device), memory, state)
        attended = self.decoder.attended(memory, state)
        return logits.float().cpu().numpy(), attended.cpu().numpy(), (memory, state)

    def taken(self, known: Any, rows: np.ndarray) -> Any:
        """Memory is the same for all rows of an utterance."""
        memory, state = known
        count = len(next(iter(memory.values())))
        if len(rows) < count:
            memory = self._rows(memory, rows)
        return memory, state if np.array_equal(rows, np.arange(count)) else self._rows(state, rows)

    def _rows(self, named: Named, rows: np.ndarray) -> Named:
        places = torch.from_numpy(rows).to(self.device)
        return {name: tensor[places] for name, tensor in named.items()}

    @torch.inference_mode()
    def attended(
        self, utterances: Sequence[Rows], owners: Sequence[int], sequences: Sequence[Sequence[int]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        refuse_nan(utterances)
        device, states = self.device, [self.states(utterances[owner]) for owner in owners]
        lengths = torch.tensor([len(one) for one in states], device=device)
        outputs = [torch.tensor([token + 1 for token in one] + [END]) for one in sequences]
        asked = pad_sequence(outputs, batch_first=True).to(device)
        inputs = functional.pad(asked[:, :-1], (1, 0), value=START)
        logits, weights = self.decoder(pad_sequence(states, batch_first=True).to(device), lengths, inputs)
        scores = logits.double().log_softmax(-1).gather(2, asked[..., None])[..., 0]
        sizes = [(len(one), len(rows)) for one, rows in zip(outputs, states, strict=True)]
        return [
            (row[:count].cpu().numpy(), own[:count, :frames].cpu().numpy())
            for row, own, (count, frames) in zip(scores, weights, sizes, strict=True)
        ]
