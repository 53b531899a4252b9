"""The files of a run folder, its pictures and tables."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from lightning_audio.errors import UserError, unusable
from lightning_audio.io import terminal, write_atomically
from lightning_audio.metrics.classification import confusion_matrix, per_class
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports.plots import confusion_figure, write_png
from lightning_audio.reports.results import (
    commit,
    print_report,
    read_metrics,
    read_predictions,
    read_run,
    versions,
    write_metrics,
    write_predictions,
)
from lightning_audio.reports.tables import markdown_table, per_class_table, print_table, write_csv

ACCURACY = Score(0.93, 0.9, 0.95, 80)


def console() -> Console:
    return terminal(width=80, record=True, file=io.StringIO())


def test_predictions_come_back_as_written(tmp_path: Path) -> None:
    text = 'Zürich 音声 "quoted"\nnext\u2028line\x85end'
    rows = [
        {"id": "a", "reference": text, "hypothesis": "", "score": 0.5, "group": None, "fold": 1},
        {"id": "b|c", "reference": "x", "hypothesis": "y", "score": np.float32(0.25), "scores": {"x": 0.75}},
    ]
    write_predictions(tmp_path / "predictions.jsonl", rows)
    assert read_predictions(tmp_path / "predictions.jsonl") == rows
    assert "音声" in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8")


def test_broken_predictions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_predictions(path)
    whole = '{"id": "a", "reference": "dog", "hypothesis": "cat"}'
    for second in ('{"id": ', '{"id": "b"}', "[]", "[" * 9_000):
        path.write_text(f"{whole}\n{second}\n")
        with pytest.raises(UserError, match=r"(?i)line 2 of"):
            read_predictions(path)


@pytest.mark.parametrize(
    "content",
    ["{}", '{"scores": [1]}', '{"scores": {"x": {"value": "1"}}}', '{"scores": {}, "data": 3}'],
)
def test_metrics_of_another_form_are_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json does not hold the scores of a run: put it back"):
        read_metrics(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "sub" / "file.txt"
    write_atomically(path, "old")

    def full_disk(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("lightning_audio.io.os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("file.txt", "old")]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EINVAL, errno.EFBIG])
def test_a_place_that_takes_no_file_is_one_sentence(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc, disks that allow fewer characters in names, a limit of the shell's on the size of files."""

    def refuse(path: Path, *_: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match="new") as refused:
        write_atomically(tmp_path / "new.json", "new")
    told = f"{tmp_path / 'new.json'} can't be used ({os.strerror(number)}): name another place"
    assert str(unusable(refused.value)).startswith(told)


def test_metrics_hold_what_the_design_says(tmp_path: Path) -> None:
    facts = {"seconds": 90.0, "clips_per_second": np.float64(50), "loader_wait": 0.02, "data": {"hash": "ab"}}
    written = write_metrics(tmp_path, {"test/accuracy": ACCURACY}, **facts)
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert content == written == read_metrics(tmp_path)
    assert content["scores"] == {"test/accuracy": {"value": 0.93, "low": 0.9, "high": 0.95, "n": 80}}
    assert {key: content[key] for key in facts} == facts
    assert set(content) == {"scores", *facts, "versions", "commit", "sha256"}
    assert content["versions"] == versions()
    assert {"python", "torch", "torchaudio", "pytorch_lightning", "lightning_audio"} <= set(versions())


def test_a_second_writing_keeps_the_facts_of_the_first(tmp_path: Path) -> None:
    write_metrics(tmp_path, {"val/accuracy": ACCURACY}, seconds=60.0, versions={"torch": "1"}, commit="c")
    content = write_metrics(tmp_path, {"test/accuracy": ACCURACY}, evaluated=1)
    assert list(content["scores"]) == ["val/accuracy", "test/accuracy"]
    assert (content["seconds"], content["versions"], content["commit"]) == (60.0, {"torch": "1"}, "c")
    assert content["evaluated"] == 1


def test_predictions_that_were_not_scored_are_refused(tmp_path: Path) -> None:
    rows = [{"id": str(i), "reference": "dog", "hypothesis": "cat", "score": 0.5} for i in range(3)]
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, rows)
    content = write_metrics(tmp_path, {"test/accuracy": ACCURACY})
    assert content["predictions_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_run(tmp_path).predictions == rows
    path.write_text(path.read_text().replace('"cat"', '"dog"', 1))  # one answer put right by hand
    write_metrics(tmp_path, {"val/accuracy": ACCURACY})  # is of no test: it vouches for no predictions
    with pytest.raises(UserError, match=rf"{re.escape(str(path))} has been edited or damaged .*SHA-256"):
        read_run(tmp_path)
    old = {key: value for key, value in content.items() if "sha256" not in key}
    (tmp_path / "metrics.json").write_text(json.dumps(old))
    assert len(read_run(tmp_path).predictions) == 3, "runs of earlier versions say nothing of them"


def test_scores_that_are_not_as_they_were_written_are_refused(tmp_path: Path) -> None:
    write_predictions(tmp_path / "predictions.jsonl", [])
    path = tmp_path / "metrics.json"
    written = write_metrics(tmp_path, {"test/accuracy": ACCURACY}, seconds=0.1, folds=[1, 2])
    path.write_text(json.dumps(written))  # the same without its line breaks
    assert read_run(tmp_path).scores == {"test/accuracy": ACCURACY}
    path.write_text(json.dumps(written).replace("0.93", "0.98"))
    with pytest.raises(UserError, match=rf"{re.escape(str(path))} has been edited or damaged .*SHA-256"):
        read_run(tmp_path)


def test_commit_says_whether_files_differ(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert commit() is None
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command], check=True)
    clean = commit()
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "new.py").touch()
    assert commit() == f"{clean}-dirty"


def test_the_report_fits_80_columns_and_keeps_the_folder_whole(tmp_path: Path) -> None:
    folder = tmp_path / ("[deep] folder " * 8)
    facts = {"seconds": 90, "clips_per_second": 123.4, "loader_wait": 0.034}
    content = write_metrics(folder, {"test/accuracy": ACCURACY}, **facts)
    screen = console()
    print_report(folder, content, screen)
    lines = screen.export_text().splitlines()
    assert f"Run folder: {folder}" in lines
    assert max(len(line) for line in lines if "Run folder" not in line) <= 80
    text = "\n".join(lines)
    for expected in ("93.0 (90.0 to 95.0)", "1.5", "123", "3.4 % of the time"):
        assert expected in text


def test_tables_keep_brackets_and_bars() -> None:
    rows = [{"label": "[red]", "n": "1"}, {"label": "a|b", "more": "2"}]
    screen = console()
    print_table(rows, "title", screen)
    assert "[red]" in screen.export_text()
    assert markdown_table(rows) == (
        "| label | n | more |\n| --- | --- | --- |\n| [red] | 1 |  |\n| a\\|b |  | 2 |\n"
    )


def test_the_table_per_class(tmp_path: Path) -> None:
    classes = per_class(confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], 2), ["a, b", "c"])
    write_csv(tmp_path / "classes.csv", classes)
    with (tmp_path / "classes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"label": "a, b", "precision": "1.0", "recall": "0.5", "f1": str(2 / 3), "n": "2"}
    assert "| c | 66.7 | 100.0 | 80.0 | 2 |" in markdown_table(per_class_table(classes))


@pytest.mark.parametrize("classes", [2, 10, 50])
def test_the_confusion_matrix_is_drawn(tmp_path: Path, classes: int) -> None:
    confusion = np.eye(classes, dtype=int) * 8
    confusion[0, -1] = 4
    figure = confusion_figure(confusion, [f"vacuum_cleaner {i}" for i in range(classes)])
    write_png(figure, tmp_path / "confusion.png")
    image = imread(tmp_path / "confusion.png")
    assert min(image.shape[:2]) > 300
    dark_blue = (image[..., 2] > image[..., 0] + 0.2).mean()
    assert dark_blue > 0.5 / classes * 0.3
    assert [file.name for file in tmp_path.iterdir()] == ["confusion.png"]


def test_names_are_printed_as_they_are() -> None:
    name, screen = "a:dog:[b]/:100:.wav", console()
    print_table([{name: name}], name, screen)
    screen.print(name)
    assert screen.export_text().count(name) == 4


def test_a_terminal_that_can_encode_little_gets_plain_characters() -> None:
    raw = io.BytesIO()
    output = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    print_table([{"fold": "mean", "accuracy": "96.8 ± 2.7"}], "5 folds", terminal(file=output, width=40))
    output.flush()
    lines = [line.rstrip() for line in raw.getvalue().decode("ascii").splitlines()]
    assert lines == [
        "5 folds",
        "+--------------------+",
        "| fold | accuracy    |",
        "|------+-------------|",
        "| mean | 96.8 +- 2.7 |",
        "+--------------------+",
    ]


def test_the_path_of_the_page_is_a_link_where_a_terminal_shows_links(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("")
    content: dict[str, Any] = {"scores": {}}
    for terminal_too in (True, False):
        out = io.StringIO()
        print_report(tmp_path, content, terminal(file=out, width=80, force_terminal=terminal_too))
        assert ((tmp_path / "report.html").as_uri() in out.getvalue()) == terminal_too
        assert str(tmp_path / "report.html") in out.getvalue()
