"""A run goes without a few files that can't be read: it says so, keeps the list, and counts them by split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from lightning_audio import build
from lightning_audio.cli.evaluate import evaluate
from lightning_audio.config import compose_config
from lightning_audio.data.datamodule import AudioDataModule, clips_of
from lightning_audio.data.quarantine import QUARANTINE, Quarantined, as_jsonl, read_quarantine, refuse_many
from lightning_audio.errors import UserError
from lightning_audio.training.run import print_run, train

LOUD = "Attention: 1 of 20 test clips cannot be read and count in no score above"


def configured(cache: Path, *more: str) -> Any:
    return compose_config([*TINY, f"paths.cache={cache}", "loader.val_fraction=0.2", *more])


def spoiled(cfg: Any) -> dict[str, str]:
    """Spoils a clip of each split; their ids by split."""
    corpus = build.corpus(cfg)
    corpus.prepare()
    clips = clips_of(corpus, cfg.loader.val_fraction, cfg.seed)
    chosen = {split: next(c for c in clips if c.split == split) for split in ("train", "val", "test")}
    for clip in chosen.values():
        Path(clip.path).write_bytes(b"RIFF and nothing more")
    return {split: clip.id for split, clip in chosen.items()}


def test_a_run_with_a_few_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = configured(tmp_path / "cache", "loader.max_bad_fraction=0.05")
    bad, run = spoiled(cfg), tmp_path / "run"
    content = train(cfg, run)
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if "in quarantine" in line]
    assert line.startswith("3 of 100 clips are in quarantine (1 test, 1 train, 1 val): ")
    listed = [json.loads(row) for row in (run / QUARANTINE).read_text().splitlines()]
    assert {row["id"] for row in listed} == set(bad.values())
    assert all(row["reason"].startswith("it cannot be decoded") and row["path"] in line for row in listed)
    assert content["data"]["quarantine"] == {"train": 1, "val": 1, "test": 1}
    assert sum(content["data"]["clips"].values()) == 97
    assert content["scores"]["test/accuracy"]["n"] == content["data"]["clips"]["test"]
    tested = [json.loads(row)["id"] for row in (run / "predictions.jsonl").read_text().splitlines()]
    assert bad["test"] not in tested
    print_run(run, content)
    assert LOUD in capsys.readouterr().out
    evaluate(run, [], run / "evaluation")
    printed = capsys.readouterr().out
    assert LOUD in printed
    assert "The same numbers as when it was trained." in printed
    assert (run / "evaluation" / QUARANTINE).read_bytes() == (run / QUARANTINE).read_bytes()


def test_the_split_is_that_of_the_whole_corpus(tmp_path: Path) -> None:
    """Validation clips are drawn, labels counted and leaks looked for before bad clips are left out."""

    def split() -> tuple[dict[str, set[str]], AudioDataModule]:
        data = build.datamodule(cfg)
        data.prepare_data()
        data.setup()
        return {name: {clip.id for clip in part.clips} for name, part in data.splits.items()}, data

    cfg = configured(tmp_path, "loader.max_bad_fraction=0.03")
    whole, data = split()
    assert data.describe_quarantined() == ""
    assert "quarantine" not in data.facts()
    bad = spoiled(cfg)
    lacking, other = split()
    assert {name: whole[name] - lacking[name] for name in whole} == {name: {bad[name]} for name in whole}
    assert all(lacking[name] < whole[name] for name in whole)
    assert other.labels == data.labels
    assert sum(data.info.class_counts) - sum(other.info.class_counts) == 1
    assert other.facts()["hash"] != data.facts()["hash"]


def test_above_the_share_nothing_is_trained(tmp_path: Path) -> None:
    cfg = configured(tmp_path / "cache", "loader.max_bad_fraction=0.02")
    spoiled(cfg)
    with pytest.raises(
        UserError, match=r"^3 of 100 clips cannot be read, .*max_bad_fraction=0\.02 .* without 2: .*\)\.$"
    ):
        train(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_that_is_none_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^loader\.max_bad_fraction={share} is out of range"):
        build.datamodule(configured(tmp_path, f"loader.max_bad_fraction={share}"))


@pytest.mark.parametrize(
    ("bad", "clips", "share", "goes_on"),
    [
        (0, 40, 0.0, True),
        (1, 40, 0.01, False),
        (1, 100, 0.01, True),
        (2, 100, 0.01, False),
        (29, 100, 0.29, True),
        (30, 100, 0.29, False),
        (4, 400, 0.01, True),
        (3, 3, 1.0, False),
    ],
)
def test_the_budget_counts_all_clips(bad: int, clips: int, share: float, goes_on: bool) -> None:
    quarantined = [Quarantined(str(n), f"{n}.wav", "it is empty") for n in range(bad)]
    if goes_on:
        refuse_many(quarantined, clips, share, Path(QUARANTINE))
    else:
        with pytest.raises(UserError, match=f"^{bad} of {clips} clips"):
            refuse_many(quarantined, clips, share, Path(QUARANTINE))


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    quarantined = (
        Quarantined("a\u2028b", "ä.wav", 'it "ends"\nearly'),
        Quarantined("c", "c.wav", "it is empty"),
    )
    (tmp_path / QUARANTINE).write_text(as_jsonl(quarantined), encoding="utf-8")
    assert read_quarantine(tmp_path / QUARANTINE) == quarantined
    assert read_quarantine(tmp_path / "nowhere") == ()
