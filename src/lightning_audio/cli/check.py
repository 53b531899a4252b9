"""Looks at every clip of a corpus before you train: what there is, and what would spoil a score.

lightning-audio check experiment=esc10_cnn2d
lightning-audio check data=audio_folder data.root=recordings --json report.json

Ends with exit status 1 where something is to be mended, with 0 where there are only remarks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lightning_audio import build, config
from lightning_audio.cli import arguments
from lightning_audio.data.clip import Clip, visible
from lightning_audio.data.clip_table import ClipTable
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.datamodule import clips_of
from lightning_audio.data.info import DataInfo
from lightning_audio.data.inspect.clips import ClipReport, inspect_clip, summary
from lightning_audio.data.inspect.findings import Finding, Inspection
from lightning_audio.data.inspect.transcripts import Transcripts
from lightning_audio.data.targets import Tokens, normalizer_of
from lightning_audio.data.threads import in_threads
from lightning_audio.data.wave_store import progress
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.inference.formats import refuse_output
from lightning_audio.io import terminal, to_json, write_atomically
from lightning_audio.reports.tables import print_table
from lightning_audio.tasks.transcription import Transcription

MOST_SHOWN = {True: 20, False: 5}  # items of a grave finding, and of a remark


def check(cfg: DictConfig) -> dict[str, Any]:
    """The report on the corpus of a configuration: summary, findings and every clip.

    Raises:
        UserError: the corpus is not there, or its table is bad.
    """
    corpus = build.corpus(cfg)
    corpus.prepare()
    runs = [_clips(cfg), *(_clips(cfg, fold) for fold in corpus.folds if fold != corpus.fold)]
    labels = corpus.labels or tuple(sorted({label for clip in runs[0] for label in clip.labels}))
    heard = list(progress(in_threads(inspect_clip, runs[0], ahead=4), "Listening", len(runs[0])))

    def name(clip: Clip) -> str:
        path = Path(clip.path)
        shown = path.relative_to(corpus.root) if path.is_relative_to(corpus.root) else path
        start = f" from {clip.start:g} s" if clip.start else ""
        return f"{shown}{start}" if clip.channel is None else f"{shown}{start}, channel {clip.channel}"

    transcripts, spoken = _transcripts(cfg, runs[0], heard, corpus, name)
    train = [clip for clip in runs[0] if clip.split == "train"]
    drawn = [train[position] for position in corpus.draw(train, np.random.default_rng(cfg.seed))]
    findings = [Finding("remark", False, remark) for remark in corpus.remarks()]
    findings += [*spoken, *Inspection(heard, runs, labels, corpus.sample_rate, name, drawn).findings()]
    if not any(finding.kind == "untaught_label" and finding.grave for finding in findings):
        findings = [*_misfit(cfg, runs[0], labels), *findings]
    findings.sort(key=lambda finding: not finding.grave)
    return {
        "corpus": type(corpus).__name__,
        "root": str(corpus.root),
        "sample_rate": corpus.sample_rate,
        **summary(heard, runs[0], labels),
        "transcripts": transcripts,
        "findings": [asdict(finding) for finding in findings],
        "clips": [_row(one) for one in heard],
    }


def _clips(cfg: DictConfig, fold: int | None = None) -> Sequence[Clip]:
    """The clips of the run that tests on this fold, as training splits them."""
    if fold is not None:
        cfg = cfg.copy()
        cfg.data.fold = fold
    return clips_of(build.corpus(cfg), cfg.loader.val_fraction, cfg.seed)


def _misfit(cfg: DictConfig, clips: Sequence[Clip], labels: Sequence[str]) -> list[Finding]:
    """What the task says of clips that it can't learn from; of single transcripts, `_transcripts` does."""
    spoken = any(clip.text is not None for clip in clips)
    if not labels and not issubclass(build.task_class(cfg).encoding, Tokens):
        mend = "; there are transcripts: set task=ctc" if spoken else ": add some, or set another task"
        return [Finding("misfit", True, f"No clip has a label, which is what this task learns{mend}.")]
    kind, task = build.task_class(cfg).encoding, OmegaConf.to_container(cfg.task, resolve=True)
    options = kind.options(cast(dict[str, Any], task), {"scored_as": build.corpus(cfg).scored_as})
    try:
        encoding = kind(labels, clips, **options)
        used = _of_splits(clips)
        unfit = encoding.unfit(used)
        encoding.encode(used.take(~used.column("id").mapped(unfit.__contains__, bool)))
    except UserError as error:
        return [Finding("misfit", True, str(error))]
    return []


def _transcripts(
    cfg: DictConfig,
    clips: Sequence[Clip],
    heard: Sequence[ClipReport],
    corpus: Corpus,
    name: Callable[[Clip], str],
) -> tuple[dict[str, Any], list[Finding]]:
    """Counts and findings of clips with transcripts, read as the task reads them, or else as CTC does."""
    if all(clip.text is None for clip in clips):
        return {}, []
    seconds = {one.clip.id: one.seconds for one in heard if not one.problem}
    learned = issubclass(build.task_class(cfg).encoding, Tokens)
    options = cfg.task if learned else OmegaConf.load(config.CONF / "task" / "ctc.yaml")
    text = cast(dict[str, Any], OmegaConf.to_container(options.text, resolve=True))
    unfit: dict[str, str] = {}
    misfit = []
    if learned and any(clip.text and clip.split == "train" for clip in clips):
        tokens = Tokens((), clips, text)
        unfit = tokens.unfit(_of_splits(clips))
        try:
            unfit |= _too_few_frames(cfg, tokens, clips, unfit, seconds, corpus.sample_rate)
        except UserError as error:  # front end, network and task do not go together
            misfit = [Finding("misfit", True, str(error))]
    unit = "phones" if corpus.scored_as else "characters"
    found = Transcripts(clips, normalizer_of(text).leniently, seconds, unfit, name, unit)
    return found.counts(), [*misfit, *found.findings()]


def _too_few_frames(
    cfg: DictConfig,
    tokens: Tokens,
    clips: Sequence[Clip],
    unfit: Mapping[str, str],
    seconds: Mapping[str, float],
    sample_rate: int,
) -> dict[str, str]:
    """The clips whose tokens need more frames than front end and network make of their audio."""
    rows = _of_splits(clips)
    rows = rows.take(rows.column("id").mapped(lambda name: name in seconds and name not in unfit, bool))
    facts = tokens.facts()
    info = DataInfo(tuple(facts.pop("labels")), sample_rate, 1.0, encoding=facts)
    whole = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    task = build.assemble({part: whole[part] for part in build.ANSWERING}, info)
    if not rows or not isinstance(task, Transcription):
        return {}
    names = [*rows.column("id")]
    frames = task.output_lengths(torch.tensor([round(seconds[name] * sample_rate) for name in names]))
    needed = task.frames_needed(tokens.encode(rows)).tolist()
    return {
        name: f"it needs {least} frames, and its audio gives {there}"
        for name, least, there in zip(names, needed, frames.tolist(), strict=True)
        if least > there
    }


def _of_splits(clips: Sequence[Clip]) -> ClipTable:
    """The clips that are in a split."""
    table = ClipTable.of(clips)
    return table.take(~table.column("split").lacks())


def _row(one: ClipReport) -> dict[str, Any]:
    row = {**asdict(one.clip), **asdict(one)}
    return {key: value for key, value in row.items() if key != "clip" and value is not None}


def print_report(report: dict[str, Any], console: Console) -> None:
    """What is to be mended and what to know of, then what there is as tables."""
    head = f"{report['corpus']} in {report['root']}, to be read at {report['sample_rate']} Hz"
    console.print(head, soft_wrap=True)
    for finding in report["findings"]:
        print_finding(finding, console)
    splits = report["splits"].items()
    tables = {
        "Splits": [
            {"split": name, "clips": str(split["clips"]), "hours": f"{split['hours']:.3g}"}
            | ({"groups": str(split["groups"])} if split["groups"] else {})
            for name, split in splits
        ],
        "Transcripts": [
            {"split": name} | {key: str(value) for key, value in row.items() if key != "groups"}
            for name, row in report["transcripts"].items()
        ],
        "Seconds of a clip": [
            {"split": name} | {key: f"{seconds:.2f}" for key, seconds in split["seconds"].items()}
            for name, split in splits
        ],
        "Files": [{key: str(value) for key, value in row.items()} for row in report["sources"]],
        "Folds": [{"fold": fold, "clips": str(n)} for fold, n in report["folds"].items()],
        "Clips of each label": [
            {"label": visible(label)} | {split: str(n) for split, n in row.items()}
            for label, row in report["labels"].items()
        ],
    }
    for title, rows in tables.items():
        if rows:
            print_table(rows, title, console)
    grave = sum(finding["grave"] for finding in report["findings"])
    remarks = len(report["findings"]) - grave
    console.print(f"{grave or 'Nothing'} to mend, {remarks or 'no'} remark{'' if remarks == 1 else 's'}.")


def print_finding(finding: dict[str, Any], console: Console) -> None:
    items, most = finding["items"], MOST_SHOWN[finding["grave"]]
    lines = [f"{'To mend' if finding['grave'] else 'Remark'}: {finding['sentence']}"]
    lines += [f"  {item}" for item in items[:most]]
    lines += [f"  and {len(items) - most} more (--json FILE names them)"] if len(items) > most else []
    console.print("\n".join(lines), soft_wrap=True)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Prints what was found in a corpus; exits with 1 where something has to be mended."""
    options = arguments.check(argv)
    cfg = config.compose_config(options.overrides)
    if config.is_sweep(options.overrides):
        raise UserError("One corpus is checked at a time: give every option one value.")
    refuse_output(options.json, [place for place in cfg.data.values() if isinstance(place, str)])
    report = check(cfg)
    print_report(report, terminal())
    if options.json:
        write_atomically(options.json, to_json(report, indent=1) + "\n")
    sys.exit(1 if any(finding["grave"] for finding in report["findings"]) else 0)


if __name__ == "__main__":
    main()
