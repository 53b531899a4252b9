"""The tables of scores are made of runs: what is kept, how seeds and folds are one row, what anchors say."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lightning_audio.data.corpora.esc50 import ESC50
from lightning_audio.data.corpora.sharded import Sharded
from lightning_audio.data.corpora.speech_commands import SpeechCommands
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.targets import ClassIndex
from lightning_audio.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    if not BENCHMARKS.is_dir():
        pytest.skip("benchmarks/ is not part of the package")
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def entry(value: float, seed: int = 0, **facts: Any) -> dict[str, Any]:
    score = {"value": value, "low": value - 0.02, "high": value + 0.03, "n": 400}
    command = "make train EXP=esc10_cnn2d"
    known = {"experiment": "esc10_cnn2d", "command": command, "seed": seed, "minutes": 5.0 + seed}
    return {**known, "commit": "abc", "versions": {}, "scores": {"test/accuracy": score}, **facts}


def test_a_run_is_one_row_with_its_interval(tmp_path: Path) -> None:
    import tables

    tables.keep([entry(0.9)], tmp_path)
    tables.keep([entry(0.93)], tmp_path)  # the same command and seed, run again
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- scores -->\nold\n<!-- end of scores -->\nbehind\n", encoding="utf-8")
    tables.write_tables([page], tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "| esc10_cnn2d | `make train EXP=esc10_cnn2d` | accuracy 93.0 (91.0 to 96.0) | 5.0 |" in text
    assert text.startswith("before\n")
    assert text.endswith("behind\n")
    assert "old" not in text


def test_seeds_are_one_row_with_mean_and_spread(tmp_path: Path) -> None:
    import tables

    tables.keep([entry(0.90, 0), entry(0.92, 1), entry(0.97, 2)], tmp_path)
    tables.keep([entry(0.5, 0, command='make train EXP=esc10_cnn2d ARGS="x=1"')], tmp_path)
    first, other = tables.kept(tmp_path)
    assert tables.cell(other if len(first) < len(other) else first, "test/accuracy") == "93.0 ± 3.6, 3 seeds"
    assert "| 6.0 |" in tables.written(tables.kept(tmp_path))  # the mean of their minutes


def test_folds_and_transcripts_have_their_own_cells() -> None:
    import tables

    folds = entry(0.93, mean={"test/accuracy": 0.925}, deviation={"test/accuracy": 0.02})
    assert tables.cell([folds], "test/accuracy") == "92.5 ± 2.0, pooled 93.0 (91.0 to 96.0)"
    rates = {
        f"test/{name}": {"value": value, "low": value, "high": value, "n": 9}
        for name, value in (("wer", 0.3), ("cer", 0.1))
    }
    text = tables.written([[folds], [entry(0, scores=rates)]])
    assert "| 30.0 (30.0 to 30.0) | 10.0 (10.0 to 10.0) |" in text
    assert text.index("pooled") < text.index("WER")


def test_what_a_run_says_of_itself_is_kept(tiny_run: Path) -> None:
    import tables

    found = tables.entry_of(tiny_run)
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert found["scores"] == metrics["scores"]
    assert found["minutes"] == metrics["seconds"] / 60
    assert found["command"].startswith("make train EXP=demo")
    assert found["seed"] == 0


def test_a_row_does_not_tell_where_another_run_lies(tiny_run: Path, tmp_path: Path) -> None:
    import shutil

    import tables

    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / ".hydra").mkdir(exist_ok=True)
    told = ["experiment=esc10_yamnet", "init=/home/me/logs/a=b", "init_scale=2", "+task.teacher=logs/run"]
    (run / ".hydra" / "overrides.yaml").write_text("\n".join(f"- {line}" for line in told))
    expected = 'make train EXP=esc10_yamnet ARGS="+task.teacher=RUN init=RUN init_scale=2"'
    assert tables.entry_of(run)["command"] == expected


def test_scores_that_were_edited_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    import shutil

    import tables

    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    text = (run / "metrics.json").read_text()
    metrics = json.loads(text)
    metrics["scores"]["test/accuracy"]["value"] = 0.999
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="edited or damaged"):
        tables.entry_of(run)


def test_anchors_are_put_beside_the_score() -> None:
    import reproduce

    lines = reproduce.compared(entry(0.93), [[entry(0.91)]])
    assert lines[0].startswith("test/accuracy 93.0 (91.0 to 96.0) is as 91.4: EnvNet-v2")
    assert lines[1].startswith("test/accuracy 93.0 (91.0 to 96.0) is as 95.7: people")
    assert lines[2] == "kept so far: test/accuracy 91.0 (89.0 to 94.0)"
    assert reproduce.compared(entry(0.80), [])[0].startswith(
        "test/accuracy 80.0 (78.0 to 83.0) is below 91.4"
    )
    assert reproduce.compared(entry(0.80, experiment="demo"), []) == [
        "Nothing is published or kept that this could be compared with."
    ]
    assert reproduce.runs_folds("esc50_resnet")
    assert not reproduce.runs_folds("speech_commands_bc_resnet")


def test_every_anchor_is_of_an_experiment() -> None:
    import reproduce

    names = {path.stem for path in (BENCHMARKS.parent / "conf" / "experiment").glob("*.yaml")}
    for anchor in json.loads(reproduce.ANCHORS.read_text(encoding="utf-8")):
        assert anchor["experiment"] in names
        assert 0 < anchor["value"] < 1


def test_a_made_esc50_is_read_as_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import made_releases

    monkeypatch.setattr(made_releases, "_sounds", lambda *args, **options: [b""] * 64)
    assert made_releases.esc50(tmp_path / "ESC-50") == 2000
    clips = ESC50(str(tmp_path / "ESC-50"), str(tmp_path)).clips()
    assert len(clips) == 2000
    assert np.bincount([clip.fold or 0 for clip in clips])[1:].tolist() == [400] * 5
    assert len({clip.labels for clip in clips}) == 50


@pytest.mark.slow
def test_a_made_speech_commands_is_read_as_the_release(tmp_path: Path) -> None:
    import made_releases

    assert made_releases.speech_commands(tmp_path / "sc", seconds=0.05) == 105_829
    clips = SpeechCommands(str(tmp_path / "sc"), str(tmp_path), variant=35).clips()
    assert len(clips) == 105_829
    assert {clip.split for clip in clips} == {"train", "val", "test"}


def test_the_clock_counts_what_a_part_calls_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import recipes

    now = [0.0]

    def work(seconds: float) -> None:
        now[0] += seconds

    class Parts:
        def outer(self) -> None:
            work(3)
            self.inner()
            work(4)

        def inner(self) -> None:
            work(5)

    monkeypatch.setattr(recipes, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock, parts = recipes.Clock(), Parts()
    clock.watch(parts, "inner", "inner")
    clock.watch(parts, "outer", "outer")
    for _ in range(2):
        parts.outer()
        work(2)
        parts.inner()
        clock.end_step()
    assert clock.steps == 2 * [{"outer": 7, "inner": 10, recipes.REST: 2}]


def test_made_clips_of_test_have_the_labels_of_train(tmp_path: Path) -> None:
    import scale

    ClassIndex(scale.LABELS, scale.Made(str(tmp_path), 640).clips())


def test_a_clip_of_shards_takes_few_bytes(tmp_path: Path) -> None:
    """Ten million of them start within 2 GB, of which a gigabyte are imports."""
    import scale

    count = 100_000
    scale.shards(str(tmp_path), count)
    data = AudioDataModule(
        Sharded("shards", str(tmp_path / "cache"), scale.SAMPLE_RATE), ClassIndex, shards=f"{tmp_path}/set"
    )
    tracemalloc.start()
    data.prepare_data()
    data.setup()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    next(iter(data.train_dataloader()))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / count < 60
    assert (most - kept) / count < 25


@pytest.mark.slow
def test_the_script_for_a_gpu_goes_through(tmp_path: Path) -> None:
    """On a CPU, too, and with `--quick`; a run that is killed and resumed ends with the same weights."""
    script = [sys.executable, str(BENCHMARKS / "gpu.py"), "--quick", "--results", str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (kept,) = (json.loads(file.read_text()) for file in tmp_path.glob("*.json"))
    titles = [report["title"].partition(",")[0] for report in kept["reports"]]
    assert titles == ["BC-ResNet tau 1", "BC-ResNet tau 1", "CTC", "A run"]
    assert list(kept["reports"][-1]["seconds"]) == ["in one go", "killed and resumed"]
