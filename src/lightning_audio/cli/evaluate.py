"""Scores a trained run on its test split again: the same numbers, from the checkpoint alone.

lightning-audio evaluate logs/demo/2026-01-31_12-00-00_a1b2 [data.root=elsewhere ...]
lightning-audio evaluate logs/prompts_bilstm/2026-... --lm lm.arpa --tune --nbest 16
lightning-audio evaluate logs/digits_bilstm/2026-..._sweep --lm-from-training
lightning-audio evaluate logs/esc10_cnn2d/2026-... --split val --noise white --snr 20,10,0 --speed 0.9,1.1
lightning-audio evaluate logs/esc10_cnn2d/2026-... --room 0.3,0.8 --codec mp3@32k,opus@12k,telephone
lightning-audio evaluate RUN OTHER_RUN ...      (an ensemble; of folders of folds, one for each fold)
lightning-audio evaluate model.onnx --run RUN   (what `export` made of it)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from lightning_audio import build
from lightning_audio.checkpoint import find_checkpoint, read
from lightning_audio.cli import arguments, ensembles
from lightning_audio.cli.decoder_options import (
    DECODING,
    description,
    of_fold,
    refuse_foreign_model,
    tuned,
    warn_of_one_model,
    with_own_model,
)
from lightning_audio.cli.robustness import OPTIONS, is_asked, measure_robustness, planned_curves
from lightning_audio.cli.search import decoder_of, transcribing
from lightning_audio.data.clip import SPLITS
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.export.agreement import answer_by
from lightning_audio.export.card import SUFFIX
from lightning_audio.export.runtime import Runtime
from lightning_audio.inference.formats import refuse_output
from lightning_audio.io import sha256_of
from lightning_audio.metrics.base import Metric
from lightning_audio.metrics.intervals import Score
from lightning_audio.metrics.transcripts import word_counts
from lightning_audio.reports.cross_validation import (
    check_folds,
    print_fold_report,
    summarise_folds,
    write_fold_report,
)
from lightning_audio.reports.results import (
    EXPORTED,
    METRICS,
    RunResult,
    changed_results,
    read_metrics,
    read_run,
    write_metrics,
)
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.transcription import Transcription
from lightning_audio.training import saved_config
from lightning_audio.training.run import print_run, quiet, report_quarantined, test
from lightning_audio.training.scoring import in_place_of, keep_split, shown
from lightning_audio.training.trainer import build_trainer


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Scores a run, runs that answer together, or all folds, into a folder beside what training left."""
    options = arguments.evaluate(argv)
    if (options.run.suffix == SUFFIX) != (options.exported_from is not None):
        raise UserError("An exported file is scored on the data of its run: give both, FILE.onnx --run RUN.")
    if options.exported_from is not None:
        output = options.output or options.exported_from / EXPORTED
        exported = Runtime(options.run)
        refuse_other_run(exported, options.exported_from)
        evaluate(options.exported_from, options.overrides, output, options, exported=exported)
        return
    places, overrides = ensembles.runs_first([str(options.run), *options.overrides])
    runs = ensembles.members(places)
    groups = ensembles.by_fold(runs) if len(runs) > 1 else [runs]
    several = len(groups) < len(runs)
    output = options.output or places[0] / ("ensemble" if several else "evaluation")
    if len(groups) > 1:
        evaluate_folds(groups, overrides, output, options)
    else:
        evaluate(runs[0], overrides, output, options, runs[1:])
        if several and options.split == "test":
            ensembles.compare_with_best(output, runs)


def refuse_place(output: Path) -> None:
    """Raises UserError where results can't be written to a folder, or a run has its own there."""
    refuse_output(output, folder=True)
    if (output / saved_config.CONFIG_FILE).is_file():
        raise UserError(f"{output} is a run, whose own results would be written over: give another --output.")


def refuse_other_run(exported: Runtime, run_folder: Path) -> None:
    """Raises UserError where a file was exported from weights that a run does not have: its scores would
    stand as those of the run."""
    told = exported.card.get("checkpoint")
    files = [*(run_folder / "checkpoints").glob("*.ckpt")]
    if told and files and told["sha256"] not in map(sha256_of, files):
        raise UserError(
            f"{exported.file} was exported from {told['name']} of the run {exported.card['run']}, which "
            f"{run_folder} does not have: name that run by --run, or export again."
        )


def evaluate_folds(
    groups: Sequence[Sequence[Path]],
    overrides: Sequence[str],
    output: Path,
    options: argparse.Namespace | None = None,
) -> None:
    """`evaluate` of a cross-validation, each fold's run or ensemble to a folder in `output`; then the mean
    and the pooled scores as `folds` gives them.

    Raises:
        UserError: as of `evaluate`, or the runs are not those of all folds.
    """
    options = options or arguments.evaluate([str(output)])
    if options.split != "test" or is_asked(options):
        raise UserError(f"Of folds the test is scored: --split, {OPTIONS} take one run.")
    check_folds([RunResult(runs[0], read_metrics(runs[0])) for runs in groups])
    warn_of_one_model(options)
    names = [runs[0].name for runs in groups]
    if len(set(names)) < len(names):  # as of a multirun for each fold: one would be written over another
        names = [f"fold_{read_metrics(runs[0])['data']['fold']}" for runs in groups]
    folders = [output / name for name in names]
    for runs, folder in zip(groups, folders, strict=True):
        own = of_fold(options, read_metrics(runs[0])["data"]["fold"])
        metrics = evaluate(runs[0], overrides, folder, own, runs[1:])
    summary = summarise_folds([read_run(folder) for folder in folders], metrics)
    write_fold_report(output, summary)
    print_fold_report(summary)
    print(f"Folder: {output}")


def evaluate(
    run_folder: Path,
    overrides: Sequence[str],
    output: Path,
    options: argparse.Namespace | None = None,
    others: Sequence[Path] = (),
    exported: Runtime | None = None,
) -> list[Metric]:
    """Prints the scores of a run, writes them to `output`, and says whether they are those of its training.

    `options` are those of the command line, by default none; `others` runs that answer together with it,
    `exported` what answers in its place. Returns the metrics that it was scored by. Raises UserError where it
    is no run folder, its classes are not those of the data, or options do not fit.
    """
    options = options or arguments.evaluate([str(run_folder)])
    quiet()
    refuse_place(output)
    run_folder, *others = ensembles.highest_rate_first([run_folder, *others])
    cfg = saved_config.changed(saved_config.saved_config(run_folder, options.allow), overrides)
    task = ensembles.load_all([run_folder, *others], allow=options.allow)
    facts: dict[str, object] = answer_by(task, exported) if exported else {}
    if options.tune:
        transcribing(task, "--tune is")
    decoder = None if options.lm_from_training else decoder_of(options, task)
    data = build.prepared(cfg, task.description["facts"])
    if tuple(data.labels) != task.labels:
        raise UserError(f"The labels of {data.corpus.root} are not those that {run_folder} was trained on.")
    task.check(data)
    if cfg.channels_last:  # as in training: another layout rounds otherwise
        task.network.to(memory_format=torch.channels_last)
    refuse_foreign_model(decoder, task, data)
    output.mkdir(parents=True, exist_ok=True)
    if options.lm_from_training:
        decoder = decoder_of(with_own_model(options, task, data, output), task)
    report_quarantined(data, output)
    tell_changes(run_folder, data)
    together = {"ensemble": [str(run) for run in (run_folder, *others)]} if others else {}
    facts |= {"data": data.facts(), **together}
    if isinstance(task, Transcription):
        (output / DECODING).unlink(missing_ok=True)  # of a tuning that these scores are not of
        if options.tune:
            decoder = tuned(decoder, task, data, output)
        task.decoder = decoder or task.decoder
        facts["decoding"] = description(task.decoder)
    scores = scored(cfg, task, data, output, options)
    facts |= told_hotwords(task)
    print_run(output, write_metrics(output, scores, **facts))
    if not (overrides or decoder or others):
        tell_differences(run_folder, scores)
    return task.metrics


def told_hotwords(task: AudioTask) -> dict[str, object]:
    """Of the words that the search favoured, how often they were said, found, and found for nothing."""
    hotwords = getattr(task.decoder, "hotwords", None) if isinstance(task, Transcription) else None
    if not hotwords:
        return {}
    counts = word_counts(task.rows, hotwords.words)  # type: ignore[arg-type]
    print(
        f"Hotwords: {counts['found']} of {counts['said']} that were said were found, and {counts['false']} "
        f"that were not, in {len(task.rows)} utterances."  # type: ignore[arg-type]
    )
    return {"hotwords": counts}


def tell_differences(run_folder: Path, scores: dict[str, Score]) -> None:
    """Says whether the scores are those of the training, where that tested.

    Values decide. Intervals differ, too, where an older version computed them in another way.
    """
    scores = {name: score for name, score in scores.items() if name.startswith("test/")}
    trained = read_metrics(run_folder)["scores"] if (run_folder / METRICS).is_file() else {}
    if not trained.keys() & scores.keys():
        return
    was = {name: trained.get(name, {}).get("value") for name in scores}
    if changed := [name for name, score in scores.items() if was[name] != score.value]:
        differing = ", ".join(f"{name} {scores[name].value:.4f} (was {was[name]})" for name in changed)
        print(f"Differs from when it was trained: {differing}.")
        return
    anew = [name for name, score in scores.items() if trained[name] != score.as_dict()]
    more = f"; intervals of {', '.join(anew)} computed anew" if anew else ""
    print(f"The same numbers as when it was trained{more}.")


def scored(
    cfg: DictConfig,
    task: AudioTask,
    data: AudioDataModule,
    output: Path,
    options: argparse.Namespace,
) -> dict[str, Score]:
    """The scores of the split that is asked for, as a test scores it; disturbed, too, where asked."""
    trainer, split = build_trainer(cfg, output, data, task), options.split
    curves = planned_curves(options, task)
    if split not in data.splits or not data.splits[split].clips:
        raise UserError(f"There are no clips of {split}: --split train or test has some.")
    with shown(task, split):
        if split == "test":
            scores = test(trainer, task, data, output)
        else:
            data = in_place_of("test", data, split)
            trainer.test(task, data, verbose=False)
            scores = keep_split(trainer, task, data, "test", split, output)
        if curves:
            measure_robustness(trainer, task, data, curves, output, scores)
    return scores


def tell_changes(run_folder: Path, data: AudioDataModule) -> None:
    """Says where the clips of a split are not those of the training, of which some may then be tested, and
    where the run's predictions are not those that it was scored by."""
    state = read(find_checkpoint(run_folder)).get(type(data).__qualname__, {})
    told = state.get("identity", {}) if isinstance(state, dict) else {}
    if other := [split for split in SPLITS if split in told and told[split] != data.identity[split]]:
        print(
            f"The clips of {' and '.join(other)} are not those that {run_folder} was trained with: some that "
            "it learned from may be tested.",
            flush=True,
        )
    if (run_folder / METRICS).is_file() and (problem := changed_results(run_folder)):
        print(problem, flush=True)


if __name__ == "__main__":
    main()
