"""What learns from when on, and how fast: by the stages that a network names in order of depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lightning_audio.errors import UserError, did_you_mean

HEAD, REST = "head", "rest"
NEVER = 2**31  # an epoch that does not come
KINDS = ("stage", "learned", "frozen")


class FineTuning:
    """Freezing, unfreezing and rates by stage, as `finetune` in conf/train.yaml explains them.

    Gradual unfreezing is Howard and Ruder's (2018, arXiv:1801.06146), rates by depth Clark et al.'s (2020,
    ELECTRA). A stage is named in full or by the beginning of its dotted name: `layer4` are `layer4.0` and
    `layer4.1`. All of it is a pure function of the epoch.

    Args:
        roots: the modules whose parameters learn.
        stages: those within them by stage, in order of depth; the last stage is also known as `head`.
        unfreeze: the epoch from which on all but the head learns; the epoch of each stage by name, `rest` for
            those that are not named; or by depth, from the head down. Stages without an epoch never learn.
        lr_decay: by what a stage learns slower than the one above it.
        lr: rates of stages by name, in place of the optimizer's.
        batch_norm: `statistics` and `weights` of batch norms: `frozen`, `learned` (where their stage is
            frozen, too) or as their `stage`.
        gradient_checkpointing: stages but the head compute their activations twice instead of keeping them
            (Chen et al. 2016, arXiv:1604.06174), those without batch norms that follow the batch.

    Raises:
        UserError: a name is that of no stage, nothing learns in the first epoch, or no stage can compute
            twice.
    """

    def __init__(
        self,
        roots: Sequence[nn.Module],
        stages: Mapping[str, Sequence[nn.Module]],
        unfreeze: int | Mapping[str, int] | Sequence[int] = 0,
        lr_decay: float = 1.0,
        lr: Mapping[str, float] | None = None,
        batch_norm: Mapping[str, str] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.names, self.lr_decay = list(stages), lr_decay
        self.epochs = self._epochs(unfreeze)
        self.rates = self._by_depth(lr or {}, "finetune.lr")
        kinds = {"statistics": "stage", "weights": "stage"} | dict(batch_norm or {})
        if other := [f"{name}={kind}" for name, kind in kinds.items() if kind not in KINDS]:
            raise UserError(f"finetune.batch_norm.{other[0]} does not fit: set it to {', '.join(KINDS)}.")
        self.statistics, self.weights = kinds["statistics"], kinds["weights"]
        own = {id(part): depth for depth, parts in enumerate(stages.values()) for part in parts}
        self.modules = [pair for root in roots for pair in _with_depth(root, own, 0)]
        self.parameters: dict[
            nn.Parameter, tuple[str, nn.Module, int]
        ] = {}  # one that is shared, where it is first
        for part, depth in self.modules:
            for name, parameter in part.named_parameters(recurse=False):
                self.parameters.setdefault(parameter, (name, part, depth))
        # What a network keeps from learning by itself stays so.
        self.learnable = {p: place[1:] for p, place in self.parameters.items() if p.requires_grad}
        if self.learnable and not any(self._learns(*place, 0) for place in self.learnable.values()):
            raise UserError("finetune.unfreeze lets nothing learn in the first epoch: give a stage epoch 0.")
        self.still: list[nn.Module] = []  # batch norms whose statistics are frozen in this epoch
        self.dropped: list[nn.Parameter] = []  # whose gradients are
        if gradient_checkpointing:
            self._compute_twice(list(stages.values())[:-1])

    def _epochs(self, unfreeze: int | Mapping[str, int] | Sequence[int]) -> list[int]:
        """The epoch from which on each stage learns, in order of depth."""
        count = len(self.names)
        if isinstance(unfreeze, int):
            return [unfreeze] * (count - 1) + [0]
        if isinstance(unfreeze, Mapping):
            named = self._by_depth({k: v for k, v in unfreeze.items() if k != REST}, "finetune.unfreeze")
            return [named.get(depth, unfreeze.get(REST, NEVER)) for depth in range(count)]
        if len(unfreeze) > count:
            raise UserError(
                f"finetune.unfreeze has {len(unfreeze)} epochs, and there are {count} stages: "
                f"{', '.join(self.names)}."
            )
        return [NEVER] * (count - len(unfreeze)) + list(unfreeze)[::-1]

    def _by_depth(self, values: Mapping[str, Any], option: str) -> dict[int, Any]:
        """Values of stages; of several names that fit one the longest counts."""
        found: dict[int, Any] = {}
        for name in sorted(values, key=lambda name: len(str(name))):
            found |= dict.fromkeys(self.depths(str(name), option), values[name])
        return found

    def depths(self, name: str, option: str) -> list[int]:
        """Where the stages are that a name in an option means; raises UserError where there is none."""
        found = [depth for depth, stage in enumerate(self.names) if f"{stage}.".startswith(f"{name}.")]
        if not found and name == HEAD:
            return [len(self.names) - 1]
        if not found:
            raise UserError(
                f"{option} names {name!r}, which is no stage{did_you_mean(name, self.names)}: the stages are "
                f"{', '.join(self.names)}."
            )
        return found

    def _learns(self, part: nn.Module, depth: int, epoch: int) -> bool:
        kind = self.weights if isinstance(part, _BatchNorm) else "stage"
        return epoch >= self.epochs[depth] if kind == "stage" else kind == "learned"

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer, the same ones for every decay; biases and norms do not decay.

        All parameters are in them, also those that are frozen now: they may learn later, and the groups of a
        run that is resumed or rolled back have to be those of its checkpoint. An optimizer passes over
        parameters without a gradient.
        """
        found: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for parameter, (name, _, depth) in self.parameters.items():
            own = depth if self.lr_decay != 1 or depth in self.rates else -1  # all of one rate are together
            found.setdefault((own, parameter.ndim > 1 and name != "bias"), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.rates.get(depth, lr * self.lr_decay ** (len(self.names) - 1 - depth)),
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (depth, decays), parameters in sorted(found.items(), key=lambda item: item[0])
        ]

    def start_epoch(self, epoch: int, exchanged: bool = False) -> None:
        """Freezes and unfreezes as the epoch has it.

        Where processes exchange gradients, they do that for all that learned when the run began: then what is
        frozen has gradients, which are dropped before a step.
        """
        learns = {parameter: self._learns(*place, epoch) for parameter, place in self.learnable.items()}
        for parameter, wanted in learns.items():
            parameter.requires_grad_(wanted or exchanged)
        self.dropped = [parameter for parameter, wanted in learns.items() if exchanged and not wanted]
        kind = self.statistics
        self.still = [
            part
            for part, depth in self.modules
            if isinstance(part, _BatchNorm)
            and (epoch < self.epochs[depth] if kind == "stage" else kind == "frozen")
        ]

    def _compute_twice(self, stages: Sequence[Sequence[nn.Module]]) -> None:
        def norms(part: nn.Module) -> list[nn.Module]:
            return [module for module in part.modules() if isinstance(module, _BatchNorm)]

        if self.statistics != "frozen" and all(any(map(norms, stage)) for stage in stages):
            raise UserError(
                "finetune.gradient_checkpointing has no stage to compute twice, for batch norms would follow "
                "each batch twice: set finetune.batch_norm.statistics=frozen, or leave it out."
            )
        for one in (one for stage in stages for part in stage for one in _called(part)):
            one.forward = partial(_computed_twice, one, norms(one))

    def describe(self) -> str:
        """What is frozen at first, in a line; nothing where all of it learns."""
        lines = []
        for epoch, stages in groupby(zip(self.names, self.epochs, strict=True), key=lambda pair: pair[1]):
            names = [name for name, _ in stages]
            until = "for good" if epoch == NEVER else f"until epoch {epoch}"
            lines += [f"{' to '.join(dict.fromkeys((names[0], names[-1])))} {until}"] if epoch else []
        return f"Frozen: {', '.join(lines)}." if lines else ""


def _called(part: nn.Module) -> Iterator[nn.Module]:
    """The modules that are called where a part is a list of them."""
    if isinstance(part, nn.ModuleList):
        for child in part:
            yield from _called(child)
    else:
        yield part


def _computed_twice(part: nn.Module, norms: Sequence[nn.Module], *inputs: Any, **options: Any) -> Any:
    """What a module gives, with its activations computed again where the gradient needs them."""
    forward = type(part).forward
    if not torch.is_grad_enabled() or not part.training or any(norm.training for norm in norms):
        return forward(part, *inputs, **options)
    return checkpoint(forward, part, *inputs, use_reentrant=False, **options)


def _with_depth(part: nn.Module, own: Mapping[int, int], depth: int) -> Iterator[tuple[nn.Module, int]]:
    """A module and those in it, each with the depth of the stage that it belongs to."""
    depth = own.get(id(part), depth)
    yield part, depth
    for child in part.children():
        yield from _with_depth(child, own, depth)
