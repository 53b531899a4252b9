"""The Optuna study of a sweep: which values come next, which process trains them, and what came of them.

It is a journal of Optuna's in the folder of the sweep, for as many processes as there are, on one machine or
on several that share the folder. A process holds the lock of the trial that it trains, which the system
releases when the process is killed: a trial that runs in the study and whose lock is free is taken over and
resumed from its checkpoint, so that none is lost and none is trained twice.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lightning_audio.errors import UserError
from lightning_audio.reports.sweep import STUDY as JOURNAL
from lightning_audio.training.checkpoint_files import LAST
from lightning_audio.training.search_space import Dimension, override

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial

NAME = "sweep"  # of the study in its journal
SECONDS = 60.0  # that the journal may be locked by others
STARTS = 3  # of a trial without a new checkpoint in between
HOPELESS = 5  # trials that fail before one succeeds
DRAWS = ("random", "coarse_to_fine", "tpe")


def _optuna() -> Any:
    try:
        import optuna  # here, since it takes a second, and is an extra
    except ImportError:
        raise UserError("Sweeps need Optuna: pip install 'lightning_audio[sweep]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


class Lock:
    """Keeps other processes from the journal; the system releases it when a process is killed."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self._lock = FileLock(f"{journal}.lock", timeout=SECONDS)

    def acquire(self) -> bool:
        """Waits for the journal, and takes a line off its end that a killed process has cut.

        Raises:
            UserError: another process has it for too long, or its disk has no locks.
        """
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.journal} has been locked by another process for {SECONDS:g} s: look whether one of "
                "the sweep's processes has been stopped, and end it; the same command then resumes."
            ) from None
        except NotImplementedError:
            raise UserError(
                f"The disk of {self.journal} has no locks, without which processes of one sweep can't share "
                "it: set paths.logs to another disk."
            ) from None
        self._drop_torn_line()
        return True

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def _drop_torn_line(self) -> None:
        """What a process was writing when it was killed or the disk was full; nobody has read it."""
        if not self.journal.is_file():
            return
        with self.journal.open("r+b") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)


class Hopeless(UserError):
    """A sweep that no further trial is worth trying in: its first ones have all failed."""


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do: the options of `search` in conf/sweep."""

    space: Sequence[Dimension]
    trials: int
    draw: str
    best: int
    seeds: int
    limits: dict[str, float]
    seed: int

    def __post_init__(self) -> None:
        if self.draw not in DRAWS:
            raise UserError(f"search.draw={self.draw} is none of {', '.join(DRAWS)}.")
        for name in ("trials", "best", "seeds"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f"search.{name}={getattr(self, name)} does not fit: set it to 1 or more.")


@dataclass(frozen=True)
class Claim:
    """A trial that this process is to train, in the folder that its lock belongs to."""

    number: int
    folder: Path
    overrides: list[str]
    lock: FileLock


class Study:
    """The study in the folder of a sweep.

    Args:
        folder: of the sweep; the trial NUMBER lies in folder/NUMBER.
        direction: of the validation score that trials are compared by, `min` or `max`; None: a study that
            is there.
    """

    def __init__(self, folder: Path, direction: str | None = None) -> None:
        self.folder = folder
        self.lock, self.optuna = Lock(folder / JOURNAL), _optuna()
        with self.lock:
            backend = self.optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL), self.lock)
            storage = self.optuna.storages.JournalStorage(backend)
            if direction is None:
                self.study: OptunaStudy = self.optuna.load_study(study_name=NAME, storage=storage)
            else:
                self.study = self.optuna.create_study(
                    study_name=NAME, storage=storage, direction=f"{direction}imize", load_if_exists=True
                )

    @classmethod
    def of_trial(cls, folder: Path) -> Study | None:
        """The study of the sweep whose running trial lies in this folder; else None."""
        if not folder.name.isdigit() or not (folder.parent / JOURNAL).is_file():
            return None
        study = cls(folder.parent)
        running = {trial.number for trial in study.trials("RUNNING")}
        return study if int(folder.name) in running else None

    def trials(self, *states: str) -> list[FrozenTrial]:
        """Those in these states, or all."""
        kinds = tuple(getattr(self.optuna.trial.TrialState, state) for state in states)
        return self.study.get_trials(deepcopy=False, states=kinds or None)

    @cached_property
    def sign(self) -> int:
        return 1 if self.study.direction == self.optuna.study.StudyDirection.MAXIMIZE else -1

    def ranked(self) -> list[FrozenTrial]:
        """The trials that came to their end, the best first, those beyond a limit behind all others."""
        return sorted(
            self.trials("COMPLETE"),
            key=lambda trial: (beyond(trial) > 0, -self.sign * (trial.value or 0.0), trial.number),
        )

    def own(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Without those that repeat another one with another seed."""
        return [trial for trial in trials if "repeats" not in trial.user_attrs]

    def claim(self, plan: Plan) -> Claim | None:
        """The next trial to train: one that a killed process has left, or a new one; None where others train
        the last ones.

        Raises:
            Hopeless: the first trials have all failed.
        """
        with self.lock:
            self._refuse_hopeless()
            for trial in self.trials("RUNNING"):
                lock = self._lock_of(trial.number)
                if lock and (claim := self._started(trial.number, plan, lock)):
                    return claim
            if not self.trials("WAITING") and len(self.own(self.trials())) >= plan.trials:
                if self.own(self.trials("RUNNING")):
                    return None
                self._enqueue_repeats(plan)
                if not self.trials("WAITING"):
                    return None
            lock = self._lock_of(self._next_number())
            assert lock, "nobody trains what has not been drawn"
            self.study.sampler = self._sampler(plan, self._next_number())
            if not self.trials("WAITING"):
                self._enqueue_fine_choices(plan)
            return self._started(self.study.ask().number, plan, lock)

    def is_over(self) -> bool:
        """Whether no trial runs or waits."""
        return not self.trials("RUNNING", "WAITING")

    def _next_number(self) -> int:
        return min((t.number for t in self.trials("WAITING")), default=len(self.trials()))

    def _lock_of(self, number: int) -> FileLock | None:
        """The lock of a trial, if no other process has it."""
        (self.folder / str(number)).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / str(number) / ".worker", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def _started(self, number: int, plan: Plan, lock: FileLock) -> Claim | None:
        """The trial with all its values; one that ends its process again and again fails instead."""
        frozen, folder = self.trials()[number], self.folder / str(number)
        last = folder / "checkpoints" / LAST
        state = str(last.stat().st_mtime_ns) if last.is_file() else ""
        before, starts = frozen.user_attrs.get("starts", ("", 0))
        starts = starts + 1 if state == before else 1
        if starts > STARTS:
            self.failed(number, f"its process was killed {STARTS} times before it had a new checkpoint.", 0.0)
            lock.release()
            return None
        trial = self.optuna.trial.Trial(self.study, frozen._trial_id)
        trial.set_user_attr("starts", (state, starts))
        values = {one.name: one.suggest(trial) for one in self._space(plan, frozen)}
        overrides = [override(name, value) for name, value in values.items()]
        if "seed" in frozen.user_attrs:
            overrides.append(f"seed={frozen.user_attrs['seed']}")
        return Claim(number, folder, overrides, lock)

    def _sampler(self, plan: Plan, number: int) -> BaseSampler:
        """What draws trial `number`, from a seed of its own: processes draw different values."""
        seed = zlib.crc32(f"{plan.seed} {number}".encode())
        if plan.draw == "tpe":
            return self.optuna.samplers.TPESampler(seed=seed, multivariate=True)
        return self.optuna.samplers.RandomSampler(seed=seed)

    def _is_fine(self, plan: Plan, number: int) -> bool:
        return plan.draw == "coarse_to_fine" and plan.trials // 2 <= number < plan.trials

    def _space(self, plan: Plan, trial: FrozenTrial) -> list[Dimension]:
        """The whole space, or that of the best quarter of the coarse trials."""
        if not self._is_fine(plan, trial.number):
            return list(plan.space)
        good = self._good(plan)
        return [one.around([t.params[one.name] for t in good if one.name in t.params]) for one in plan.space]

    def _good(self, plan: Plan) -> list[FrozenTrial]:
        coarse = [trial for trial in self.ranked() if trial.number < plan.trials // 2]
        return coarse[: max(2, len(coarse) // 4)] if len(coarse) > 2 else []

    def _enqueue_fine_choices(self, plan: Plan) -> None:
        """Fine trials take choices from those of the best, too; Optuna keeps all choices in its space."""
        number, good = len(self.trials()), self._good(plan)
        if self._is_fine(plan, number) and good:
            like = good[number % len(good)]
            fixed = {one.name: like.params[one.name] for one in plan.space if one.choices}
            if fixed:
                self.study.enqueue_trial(fixed)

    def _enqueue_repeats(self, plan: Plan) -> None:
        """The best trials within the limits with further seeds, once all have come to their end."""
        known = {(t.user_attrs.get("repeats"), t.user_attrs.get("seed")) for t in self.trials()}
        within = [trial for trial in self.own(self.ranked()) if beyond(trial) <= 0]
        for trial in within[: plan.best]:
            for seed in range(plan.seed + 1, plan.seed + plan.seeds):
                if (trial.number, seed) not in known:
                    about = {"repeats": trial.number, "seed": seed}
                    self.study.enqueue_trial(trial.params, user_attrs=about)

    def _refuse_hopeless(self) -> None:
        failed = self.trials("FAIL")
        if len(failed) >= HOPELESS and not self.trials("COMPLETE", "PRUNED"):
            raise Hopeless(
                f"All {len(failed)} trials have failed, the last one so: {failed[-1].user_attrs['error']} "
                f"Mend that, and start anew: {self.folder} is left as it is."
            )

    def is_behind(self, number: int, epoch: int, value: float, after: int, keep: int) -> bool:
        """Notes a validation score, and says whether successive halving stops the trial at it.

        One that repeats another with another seed never is: their mean would be that of the lucky ones.
        """
        with self.lock:
            trial = self.trials()[number]
            self.study._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
            if "repeats" in trial.user_attrs:
                return False
            pruner = self.optuna.pruners.SuccessiveHalvingPruner(min_resource=after, reduction_factor=keep)
            return bool(pruner.prune(self.study, self.study.get_trials(deepcopy=True)[number]))

    def completed(self, number: int, value: float, seconds: float, excess: dict[str, float]) -> None:
        """`excess` says of each limit by what share of it the trial is beyond it, below 0 for within."""
        with self.lock:
            self._note(number, seconds=seconds)
            trial = self.optuna.trial.Trial(self.study, self.trials()[number]._trial_id)
            for limit, beyond in excess.items():
                trial.set_constraint(limit, beyond)
            self.study.tell(number, value)

    def failed(self, number: int, why: str, seconds: float, pruned: bool = False) -> None:
        states = self.optuna.trial.TrialState
        with self.lock:
            self._note(number, error=why, seconds=seconds)
            self.study.tell(number, state=states.PRUNED if pruned else states.FAIL)

    def _note(self, number: int, **about: Any) -> None:
        trial = self.trials()[number]
        for name, value in about.items():
            self.study._storage.set_trial_user_attr(trial._trial_id, name, value)

    def importances(self) -> dict[str, float]:
        """The share of each option in what separates good trials from others (Watanabe et al. 2023,
        PED-ANOVA); nothing where too few trials tell."""
        if len(self.trials("COMPLETE")) < 4:
            return {}
        try:
            return dict(self.optuna.importance.get_param_importances(self.study))
        except (ValueError, RuntimeError):  # all scores are the same
            return {}


def beyond(trial: FrozenTrial) -> float:
    """By how much a trial is beyond its limits; above 0 where it is."""
    return max(trial.constraints.values(), default=-1.0)
