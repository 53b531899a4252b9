"""Looks for good settings: many runs whose options are drawn, by as many processes as this is started in.

lightning-audio sweep experiment=demo sweep=random
lightning-audio sweep experiment=demo sweep=optuna 'optimizer.lr=tag(log,interval(1e-4,1e-1))'
lightning-audio sweep experiment=demo sweep=optuna search.trials=50    # a second time: helps with the first
lightning-audio sweep resume=SWEEP_FOLDER search.trials=100
"""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lightning_audio import build
from lightning_audio.cli.train import launch, run_one
from lightning_audio.config import Command
from lightning_audio.errors import (
    Interrupted,
    UserError,
    cli_errors,
    did_you_mean,
    is_full,
    masked,
    outlive_terminal,
)
from lightning_audio.io import read_json, to_json, write_atomically
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports import sweep as reports
from lightning_audio.reports.html.several import write_sweep
from lightning_audio.reports.results import METRICS, PRUNED, number_text, read_metrics, write_failure
from lightning_audio.training import run_folder, slurm
from lightning_audio.training.launch import run_folder_of
from lightning_audio.training.resume import composed, latest, resumed_folder
from lightning_audio.training.saved_config import HYDRA, MULTIRUN_FILE
from lightning_audio.training.search_space import from_override, read_space
from lightning_audio.training.study import Claim, Hopeless, Plan, Study, beyond
from lightning_audio.training.trials import LIMITS, ProcessLostError, measured, runs_alone, train_apart

SWEEP_FILE = "search.json"
OWN = ("search.trials", "resume", "hydra.sweep.dir")  # options that make no other sweep
WAIT = 1.0  # seconds until a process that has nothing to do looks again


@dataclass
class Sweep:
    """A sweep as one of its processes sees it.

    Attributes:
        folder: of the sweep.
        arguments: of the command line of each trial, without what is drawn.
        monitor: the validation score that trials are compared by, and `min` or `max`.
    """

    folder: Path
    arguments: list[str]
    monitor: tuple[str, str]
    plan: Plan
    study: Study


def search(arguments: Sequence[str]) -> Path | None:
    """Starts, joins or resumes a sweep, and works on it until it is over; its folder.

    Without `search` in the configuration, every combination of the values that are listed is run, once.

    Raises:
        UserError: an option does not fit, all trials fail, or some have failed.
    """
    command = Command.read(arguments)
    single, drawn = _split(command)
    if resumed := _resumed(command, single):
        command, (single, drawn) = resumed, _split(resumed)
    asked = composed(Command.read(single))
    if not asked.cfg.search:
        if any("interval(" in line for line in drawn):
            raise UserError(f"{drawn[0]} is drawn at random: add sweep=random, or list the values to try.")
        return launch(["-m", *arguments])
    folder = _folder(asked.cfg, asked.whole, [*single, *drawn])
    sweep = _prepared(folder, asked.cfg, single, drawn)
    print(f"{folder}: {sweep.plan.trials} trials, drawn by {sweep.plan.draw}", flush=True)
    try:
        _work(sweep)
    except Hopeless:  # its table ends it: the same command then begins another one
        reports.write_sweep_report(folder, _table(sweep))
        raise
    return _finished(sweep)


def _split(command: Command) -> tuple[list[str], list[str]]:
    """The options with one value, flags among them, and those with several, which are drawn from."""
    parsed = OverridesParser.create().parse_overrides(list(command.overrides))
    drawn = [str(one.input_line) for one in parsed if one.is_sweep_override()]
    return [a for a in command.arguments if a not in (*drawn, "-m", "--multirun")], drawn


def _resumed(command: Command, single: list[str]) -> Command | None:
    """The command that started the sweep which `resume` names, with what is changed now."""
    (wanted,) = [a.partition("=")[2] for a in single if a.startswith("resume=")][-1:] or [""]
    if not wanted:
        return None
    if wanted == "latest":
        cfg = composed(Command.read(single)).cfg
        folder = latest(Path(cfg.paths.logs) / cfg.name, SWEEP_FILE)
    else:
        folder = resumed_folder(OmegaConf.create({"resume": wanted}), SWEEP_FILE)
    stored = _about(folder / SWEEP_FILE)
    given = [a for a in command.arguments if not a.startswith("resume=")]
    new = {a.split("=")[0] for a in given}
    kept = [a for a in (*stored["arguments"], stored["trials"]) if a.split("=")[0] not in new]
    if unknown := [a.split("=")[0] for a in kept if ":***@" in a]:
        raise UserError(
            f"{folder / SWEEP_FILE} keeps no password of {unknown[0]}: give {unknown[0]}=ADDRESS beside "
            "resume."
        )
    place = str(folder).replace("'", "\\'")
    return Command.read([*kept, *given, f"hydra.sweep.dir='{place}'"])


def _folder(cfg: DictConfig, whole: Any, arguments: Sequence[str]) -> Path:
    """The folder of the sweep: the newest that the same command has begun and not ended, or a new one.

    Raises:
        UserError: it is given, and another sweep is in it.
    """
    parent = Path(cfg.paths.logs) / cfg.name
    run_folder.refuse_unwritable(Path(cfg.paths.logs))
    parent.mkdir(parents=True, exist_ok=True)
    command = [masked(a) for a in arguments if a.split("=")[0] not in OWN]
    given = next((a for a in arguments if a.startswith("hydra.sweep.dir=")), None)
    with FileLock(parent / ".sweeps.lock"):  # two that start together are one sweep
        if given:
            folder = Path(str(whole.hydra.sweep.dir)).absolute()
            file = folder / SWEEP_FILE
            other = file.is_file() and sorted(_about(file)["arguments"]) != sorted(command)
            if other or (folder / MULTIRUN_FILE).is_file():
                raise UserError(
                    f"{folder} holds another sweep than this: leave out hydra.sweep.dir, or give it a new "
                    "folder."
                )
        else:
            files = parent.glob(f"*/{SWEEP_FILE}")
            begun = [file.parent for file in files if _is_of(file, command)]
            folder = run_folder.newest(one for one in begun if not (one / "sweep.json").is_file()) or Path(
                str(whole.hydra.sweep.dir)
            )
        about = {"arguments": command, "trials": f"search.trials={cfg.search.get('trials')}"}
        write_atomically(folder.absolute() / SWEEP_FILE, to_json(about))
    return folder.absolute()


def _about(file: Path) -> dict[str, Any]:
    """The options of the command that started a sweep, but for those that make no other one."""
    found: dict[str, Any] = read_json(file, dict, "remove it; its trials stay")
    if not {"arguments", "trials"} <= found.keys():
        raise UserError(f"{file} does not say how its sweep was started: remove it; its trials stay.")
    return found


def _is_of(file: Path, command: Sequence[str]) -> bool:
    """Whether this command, in any order, started a sweep; of one whose file is damaged nobody knows."""
    with contextlib.suppress(UserError):
        return sorted(_about(file)["arguments"]) == sorted(command)
    return False


def _prepared(folder: Path, cfg: DictConfig, single: list[str], drawn: list[str]) -> Sweep:
    """Looks at all that can be wrong before a trial starts; the data are made ready meanwhile."""
    found = OmegaConf.to_container(cfg.search, resolve=True)
    assert isinstance(found, dict)
    options: dict[str, Any] = {str(key): value for key, value in found.items()}
    space = {**(options.pop("space", None) or {})}
    own = [from_override(one) for one in OverridesParser.create().parse_overrides(drawn)]
    space = {name: node for name, node in space.items() if node is not None}
    dimensions = [one for one in read_space(space, cfg) if one.name not in {o.name for o in own}] + own
    limits = {name: most for name, most in (options.pop("limits", None) or {}).items() if most is not None}
    named = {**dict.fromkeys(limits, LIMITS), **dict.fromkeys(options, ("trials", "draw", "best", "seeds"))}
    if unknown := [(name, known) for name, known in named.items() if name not in known]:
        name, known = unknown[0]
        raise UserError(
            f"search: {name} is no option{did_you_mean(name, known)}: there are {', '.join(known)}."
        )
    if odd := [name for name, most in limits.items() if type(most) not in (int, float) or not most > 0]:
        raise UserError(f"search.limits.{odd[0]}={limits[odd[0]]} is no limit: set it above 0, or to null.")
    if missing := [name for name in ("trials", "draw", "best", "seeds") if name not in options]:
        raise UserError(f"search.{missing[0]} is missing: begin with `defaults: [random, _self_]`.")
    plan = Plan(dimensions, limits=limits, seed=cfg.seed, **options)
    arguments = [a for a in single if a.split("=")[0] not in ("resume", "hydra.sweep.dir", "search.trials")]
    for values in zip(*(one.examples() for one in dimensions), strict=True):
        composed(Command.read([*arguments, *values]))
    data, task = build.data_and_task(cfg)
    if not data.has_validation:
        if cfg.loader.val_fraction or not data.validates:
            raise UserError(
                "A sweep compares by validation, and this run has none: set loader.val_fraction=0.2."
            )
        print("No validation clips: a fifth of the training clips is kept for it.", flush=True)
        arguments.append("loader.val_fraction=0.2")
    return Sweep(folder, arguments, task.monitor, plan, Study(folder, task.monitor[1]))


def _work(sweep: Sweep) -> None:
    """Trains trials until there are none left; waits for those of others, which may be killed."""
    while True:
        try:
            claim = sweep.study.claim(sweep.plan)
            if claim is None and sweep.study.is_over():
                return
            if claim is None:
                time.sleep(WAIT)
                continue
            try:
                _train(sweep, claim)
            finally:
                claim.lock.release()
        except OSError as error:
            if is_full(error):
                raise UserError(_full(sweep)) from error
            raise
        except Interrupted as stopped:
            requeued = "" if str(stopped) else slurm.requeue(stopped.signum)  # a trial does so itself
            hint = f"resume with the same command, or resume={sweep.folder}"
            raise Interrupted(stopped.signum, f"{requeued}: {hint}") from None


def _full(sweep: Sweep) -> str:
    return f"The disk of {sweep.folder} is full: free some space; the same command then resumes the sweep."


def _train(sweep: Sweep, claim: Claim) -> None:
    """One trial; what goes wrong with it costs the others nothing."""
    place, start = str(claim.folder).replace("'", "\\'"), time.perf_counter()
    arguments = [*sweep.arguments, *claim.overrides, f"hydra.run.dir='{place}'"]
    why = ""
    try:
        asked = composed(Command.read(arguments))
        run_folder_of(asked.whole, many=False)
        if not (claim.folder / METRICS).is_file():  # of a process that was killed when all was written
            if runs_alone(asked.cfg.trainer):
                run_one(Command.read(arguments), asked, quiet=True)
            else:
                train_apart(arguments, claim)
    except UserError as error:
        if isinstance(error.__cause__, OSError) and is_full(error.__cause__):
            raise UserError(_full(sweep)) from error
        why = str(error)
    except ProcessLostError as lost:  # who is free next takes it over, as that of a worker that was killed
        print(f"trial {claim.number}  {lost}: it is resumed", flush=True)
        return
    except Exception as error:  # of any kind: the others go on
        if isinstance(error, Interrupted) or (isinstance(error, OSError) and is_full(error)):
            raise
        traceback.print_exception(error)
        why = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    what = f"trial {claim.number}  {' '.join(claim.overrides)}"
    if why:
        _note_failed(claim, why)
        sweep.study.failed(claim.number, why, seconds, pruned=why.startswith(PRUNED))
        print(f"{what}  {why}", flush=True)
        return
    name, values = sweep.monitor[0], read_metrics(claim.folder)
    if name not in values["scores"]:
        raise UserError(f"{name} is no score of metrics.json, by which a sweep compares: set task.monitor.")
    value = values["scores"][name]["value"]
    excess = measured(claim.folder, values, sweep.plan.limits)
    sweep.study.completed(claim.number, value, values.get("seconds") or seconds, excess)
    print(f"{what}  {name} {number_text(name, value)}", flush=True)


def _note_failed(claim: Claim, why: str) -> None:
    """Leaves what the table tells, where the configuration of the trial did not fit already."""
    if not (claim.folder / METRICS).is_file():
        write_failure(claim.folder, why)
    if not (file := claim.folder / HYDRA / "overrides.yaml").is_file():
        write_atomically(file, OmegaConf.to_yaml(OmegaConf.create(claim.overrides)))


def _table(sweep: Sweep) -> reports.SweepSummary:
    return reports.summarise_sweep(reports.run_folders(sweep.folder), sweep.monitor[0])


def _finished(sweep: Sweep) -> Path:
    """Writes and prints the table of all trials, and which is the best."""
    summary = _table(sweep)
    best, notes = _winner(sweep)
    numbers = [row["run"] for row in summary.rows]
    found = numbers.index(best) if best in numbers else None
    summary = replace(summary, best=found, notes=(*notes, *_costs(sweep)))
    reports.write_sweep_report(sweep.folder, summary)
    reports.print_sweep_report(summary)
    print(f"Report: {write_sweep(sweep.folder, summary)}")
    print(f"Folder: {sweep.folder}")
    if summary.best is None:
        raise UserError("No trial came to its end within the limits: the table above says why.")
    return sweep.folder


def _winner(sweep: Sweep) -> tuple[int | None, list[str]]:
    """The best trial by its mean over seeds, and what is to be known of it."""
    study, name = sweep.study, sweep.monitor[0]
    ranked = study.ranked()
    within = [t for t in study.own(ranked) if beyond(t) <= 0]
    seeds = {
        t.number: [o.value or 0.0 for o in ranked if t.number in (o.number, o.user_attrs.get("repeats"))]
        for t in within[: sweep.plan.best]
    }
    if not seeds:
        return None, ["No trial came to its end within the limits."]
    means = {number: sum(values) / len(values) for number, values in seeds.items()}
    best = max(means, key=lambda number: study.sign * means[number])
    score = Score(**read_metrics(sweep.folder / str(best))["scores"][name])
    low, high = (number_text(name, end) for end in (score.low, score.high))
    over, count = "", len(seeds[best])
    if count > 1:
        ends = [number_text(name, end(seeds[best])) for end in (min, max)]
        over = f", mean of {count} seeds ({ends[0]} to {ends[1]}) {number_text(name, means[best])}"
    if count < sweep.plan.seeds:
        over += f", {sweep.plan.seeds - count} of {sweep.plan.seeds} seeds came to no end and do not count"
    limits = "".join(f", {limit} <= {most:g}" for limit, most in sweep.plan.limits.items())
    found = f"Best: trial {best} by {name} {number_text(name, score.value)} ({low} to {high}){over}{limits}."
    return best, [found, f"lightning-audio evaluate {sweep.folder / str(best)} tests it, once."]


def _costs(sweep: Sweep) -> list[str]:
    study = sweep.study
    hours = {
        state: sum(t.user_attrs.get("seconds", 0.0) for t in study.trials(state)) / 3600
        for state in ("COMPLETE", "PRUNED", "FAIL")
    }
    counts = {state: len(study.trials(state)) for state in hours}
    said = [f"{sum(hours.values()):.2g} hours of training in {sum(counts.values())} trials"]
    for state, what in {"PRUNED": "stopped early", "FAIL": "failed"}.items():
        if counts[state]:
            said.append(f"{counts[state]} {what} ({hours[state]:.2g} hours)")
    shares = study.importances()
    matters = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    return [f"Cost: {', '.join(said)}.", *([f"What separates the good trials: {matters}."] if shares else [])]


@cli_errors
def main() -> None:
    outlive_terminal()
    with slurm.requeued():
        search(sys.argv[1:])


if __name__ == "__main__":
    main()
