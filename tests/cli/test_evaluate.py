"""evaluate gives the numbers of the training again, from the run folder alone, wherever that lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from lightning_audio.cli.evaluate import evaluate, main
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.training.run import train

SAME = "The same numbers as when it was trained."


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture
def moved(tiny_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_run, tmp_path / "moved run")
    return tmp_path / "moved run"


def test_the_same_numbers_as_in_training(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (moved / "metrics.json").read_bytes()
    main([str(moved)])
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(SAME)
    tested = {n: score for n, score in metrics_of(moved)["scores"].items() if n.startswith("test/")}
    assert metrics_of(moved / "evaluation")["scores"] == tested
    assert metrics_of(moved / "evaluation")["data"] == metrics_of(moved)["data"]
    assert f"{100 * metrics_of(moved)['scores']['test/accuracy']['value']:.1f} (" in printed
    predictions = [folder / "predictions.jsonl" for folder in (moved, moved / "evaluation")]
    assert predictions[0].read_bytes() == predictions[1].read_bytes()
    assert (moved / "metrics.json").read_bytes() == before, "the run itself stays as it was"


def test_the_chosen_checkpoint_and_averaged_shifts_are_scored_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the last weights but the best, not one view of a clip but three."""
    chosen = ("loader.val_fraction=0.25", "task.shifts=3", "trainer.max_epochs=3")
    trained = train(compose_config([*TINY, *chosen]), tmp_path)
    assert trained["checkpoint"] == "best.ckpt"
    evaluate(tmp_path, [], tmp_path / "again")
    assert SAME in capsys.readouterr().out
    tested = {name: score for name, score in trained["scores"].items() if name.startswith("test/")}
    assert metrics_of(tmp_path / "again")["scores"] == tested


def test_other_data_gives_other_numbers_elsewhere(
    moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(moved), "data.fold=2", "--output", str(tmp_path / "fold2")])
    assert SAME not in capsys.readouterr().out
    assert metrics_of(tmp_path / "fold2")["data"]["fold"] == 2
    rows = (tmp_path / "fold2" / "predictions.jsonl").read_text().splitlines()
    assert {json.loads(row)["fold"] for row in rows} == {2}
    assert not (moved / "evaluation").exists()


def test_a_difference_is_named(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = metrics_of(moved)
    changed["scores"]["test/accuracy"]["value"] = 0.123
    (moved / "metrics.json").write_text(json.dumps(changed))
    evaluate(moved, [], moved / "evaluation")
    assert "Differs from when it was trained: test/accuracy" in capsys.readouterr().out


def test_predictions_edited_by_hand_are_told(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (moved / "predictions.jsonl").read_text().splitlines()
    (moved / "predictions.jsonl").write_text("\n".join(rows[1:]))
    main([str(moved)])
    told = capsys.readouterr().out
    assert f"{moved / 'predictions.jsonl'} has been edited or damaged" in told
    assert told.rstrip().endswith(SAME), "what is evaluated is the checkpoint"


def test_a_key_that_nothing_reads_is_refused(moved: Path) -> None:
    with pytest.raises(UserError, match=r"'data\.folt=2' changes no option of the run"):
        evaluate(moved, ["data.folt=2"], moved / "evaluation")


def test_clips_that_are_not_those_of_the_training_are_told(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(tiny_run, [], tmp_path / "same")
    assert "trained with" not in capsys.readouterr().out
    evaluate(tiny_run, ["data.fold=2"], tmp_path / "other")
    assert "The clips of train and test are not those that" in capsys.readouterr().out


def test_a_run_is_not_written_over_by_its_evaluation(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = metrics_of(moved)
    with pytest.raises(SystemExit):
        main([str(moved), "--split", "train", "--output", str(moved)])
    assert "whose own results would be written over" in capsys.readouterr().err
    assert metrics_of(moved) == before
