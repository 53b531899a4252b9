"""Several processes of one run: none waits for another that has ended or been stopped.

Lightning and torchrun see a process that has ended, if it is theirs; none of them sees one that was stopped,
or one of another node, and a collective call waits for it half an hour. Here each process counts up a key of
the store that the process group has, and looks at the others' keys, in threads of its own.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

from lightning_audio.errors import Interrupted, UserError

EVERY = 2.0  # seconds
PATIENCE = 20.0  # seconds without a sign of another process
ENDED = b"ended"
# What a collective call raises where the other side is gone: by gloo and by NCCL.
LOST = re.compile(r"gloo|NCCL|[Cc]onnection (was )?(closed|reset)|[Bb]roken pipe|process group|by peer")
RULES = {"linear": 1.0, "sqrt": 0.5}


def rate_factor(rule: str | None, batches: int) -> float:
    """What `optimizer.lr`, which is for steps of one batch, is multiplied by for steps of several.

    In proportion to them (Goyal et al. 2017, arXiv:1706.02677), or to their square root (Krizhevsky 2014,
    arXiv:1404.5997), which keeps the variance of the gradient's share and suits Adam.

    Raises:
        UserError: there is no such rule.
    """
    if rule is None:
        return 1.0
    if rule not in RULES:
        raise UserError(f"trainer.scale_lr={rule} is no rule: set it to linear, sqrt or null.")
    return float(batches ** RULES[rule])


def lost_another(error: BaseException) -> bool:
    """Whether an error of this process is that another one of its run is gone."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    return isinstance(error, dist.DistError) or bool(LOST.search(str(error)))


class Watch(Callback):
    """Ends this process, in a sentence, where another one of its run has ended or gives no sign.

    Args:
        trainer: whose first stage connects the processes.
        hint: how to resume.
    """

    def __init__(self, trainer: pl.Trainer, hint: Callable[[], str]) -> None:
        trainer.callbacks.insert(0, self)  # type: ignore[attr-defined]
        self.hint, self.rank, self.world = hint, 0, 1
        self._over, self._well = threading.Event(), True
        self._threads: list[threading.Thread] = []
        self._heard = time.monotonic()  # when the store last answered

    @property
    def state_key(self) -> str:
        return "Watch"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or self._threads or not dist.is_initialized():
            return
        self.rank, self.world = trainer.global_rank, trainer.world_size
        store = dist.distributed_c10d._get_default_store().clone()  # waiting there keeps no one else
        store.set(self._key(self.rank), "0")
        dist.barrier()
        self._heard = time.monotonic()
        for work in (lambda: self._exchange(store), self._answered):
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()

    def _key(self, rank: int) -> str:
        return f"lightning_audio/alive/{rank}"

    def _exchange(self, store: dist.Store) -> None:
        """Gives signs, and looks for those of the others."""
        others = [rank for rank in range(self.world) if rank != self.rank]
        last, seen, count = dict.fromkeys(others, b""), dict.fromkeys(others, time.monotonic()), 0
        while True:
            over = self._over.wait(EVERY)
            try:
                count += 1
                if over:  # others need no further sign; of one that has failed they get none
                    store.set(self._key(self.rank), ENDED.decode()) if self._well else None
                    return
                store.set(self._key(self.rank), str(count))
                signs = store.multi_get([self._key(rank) for rank in others])
            except Exception:  # of any kind that a connection has: who keeps the store is gone
                if not self._over.wait(EVERY):
                    self._end("the first process of the run has ended")
                return
            self._heard = time.monotonic()
            for rank, sign in zip(others, signs, strict=True):
                if sign == ENDED or sign != last[rank]:
                    last[rank], seen[rank] = sign, self._heard
                elif self._heard - seen[rank] > PATIENCE:
                    self._end(f"process {rank} of the run has ended or was stopped")

    def _answered(self) -> None:
        """Ends the process where the store no longer answers: a call to it then waits without end."""
        while not self._over.wait(EVERY):
            if time.monotonic() - self._heard > PATIENCE + EVERY:
                self._end("the first process of the run was stopped")

    def _end(self, why: str) -> None:
        if not self._over.is_set():
            os.write(2, f"error: {why}: look at what it says, then {self.hint()}.\n".encode())
            os._exit(1)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._well = kind is None or issubclass(kind, Interrupted)
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)
