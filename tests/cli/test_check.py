"""`check` recovers what was planted: every kind of bad file by its name, leaks, duplicates, odd clips."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import sine, write_wav

from lightning_audio.cli import check as program
from lightning_audio.config import compose_config
from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.esc50 import ESC50
from lightning_audio.data.inspect.clips import ClipReport, inspect_clip, summary
from lightning_audio.data.inspect.findings import Inspection

RATE = 8000


def noise(number: int, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(number).normal(0, 0.1, round(seconds * rate))


def healthy(root: Path, clips_per_label: int = 25) -> Path:
    for label in ("bird", "cow"):
        for number in range(clips_per_label):
            write_wav(root / label / f"{number:02d}.wav", noise(hash((label == "cow", number)) % 2**31), RATE)
    return root


composed = cache(compose_config)  # which takes much longer than the few clips here


def report_on(corpus: str, validation: float = 0.0, **options: str) -> dict[str, Any]:
    cfg = composed((f"data={corpus}",)).copy()
    cfg.data.update(options, sample_rate=RATE)
    cfg.loader.val_fraction = validation
    return program.check(cfg)


def folder(root: Path, validation: float = 0.0) -> dict[str, Any]:
    return report_on("audio_folder", validation, root=str(root))


def table(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The report on a manifest of these rows, which is written beside their audio."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return report_on("manifest", file=str(path))


def found(report: dict[str, Any]) -> dict[str, list[str]]:
    return {finding["kind"]: list(finding["items"]) for finding in report["findings"]}


def grave(report: dict[str, Any]) -> set[str]:
    return {finding["kind"] for finding in report["findings"] if finding["grave"]}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with one file of each kind among healthy ones, and the report on it."""
    root = healthy(tmp_path_factory.mktemp("spoilt") / "recordings")
    cow = root / "cow"
    (cow / "empty.wav").touch()
    (cow / "text.wav").write_text("this is no audio at all, whatever its name says")
    (cow / "cut.flac").write_bytes(b"fLaC and nothing more")
    write_wav(cow / "no_samples.wav", np.zeros(0), RATE)
    write_wav(cow / "not_numbers.wav", np.array([0.1, np.nan, 0.2]), RATE, "FLOAT")
    write_wav(cow / "silent.wav", np.zeros(RATE), RATE)
    write_wav(cow / "still.wav", 5e-4 * sine(440, 1.0, RATE, 1.0), RATE)
    write_wav(cow / "clipped.wav", np.clip(2 * sine(100, 0.5, RATE, 1.0), -1, 1), RATE)
    write_wav(cow / "stereo.wav", np.stack([noise(1), noise(2)], axis=1), RATE)
    write_wav(cow / "slow.wav", noise(3, rate=4000), 4000)
    write_wav(cow / "fast.ogg", noise(4, rate=44100), 44100)
    write_wav(cow / "short.wav", noise(5, seconds=0.02), RATE)
    write_wav(cow / "long.wav", noise(6, seconds=8.0), RATE)
    samples, _ = soundfile.read(root / "bird" / "03.wav", dtype="int16")
    write_wav(root / "bird" / "again.flac", samples, RATE)
    shutil.copy(root / "bird" / "04.wav", root / "bird" / "copy of 04.wav")
    return root, folder(root)


def test_every_bad_file_is_named_with_its_reason(spoilt: tuple[Path, dict]) -> None:
    items = dict(item.split(": ", 1) for item in found(spoilt[1])["unreadable"])
    assert items == {
        "cow/cut.flac": items["cow/cut.flac"],
        "cow/empty.wav": "it is empty",
        "cow/no_samples.wav": "it holds no samples",
        "cow/not_numbers.wav": "it holds samples that are no numbers (NaN or infinite)",
        "cow/text.wav": "it cannot be decoded (Format not recognised)",
    }
    assert items["cow/cut.flac"].startswith("it cannot be decoded (")


def test_every_odd_clip_is_named_with_its_number(spoilt: tuple[Path, dict]) -> None:
    remarks = found(spoilt[1])
    assert remarks["silent"] == ["cow/silent.wav: 0.00000", "cow/still.wav: 0.00052"]
    # Where 2 sin > 1, two thirds of the time.
    name, share = remarks["clipped"][0].split(": ")
    assert (name, len(remarks["clipped"])) == ("cow/clipped.wav", 1)
    assert float(share.rstrip("%")) == pytest.approx(200 / 3, abs=2)
    assert remarks["short"] == ["cow/short.wav: 0.0200 s"]
    assert remarks["long"] == ["cow/long.wav: 8.0 s"]
    assert remarks["low_rate"] == ["cow/slow.wav: 4000 Hz"]


def test_the_same_audio_is_found_whatever_its_name_and_format(spoilt: tuple[Path, dict]) -> None:
    _, report = spoilt
    splits = {row["id"]: row["split"] for row in report["clips"]}
    pairs = [("bird/03.wav", "bird/again.flac"), ("bird/04.wav", "bird/copy of 04.wav")]
    remarks = found(report)
    for pair in pairs:
        kind = "within_split" if len({splits[name] for name in pair}) == 1 else "across_splits"
        item = " = ".join(f"{name} ({splits[name]}, bird)" for name in pair)
        assert item in remarks[f"duplicate_{kind}"]
    named = [*remarks.get("duplicate_across_splits", []), *remarks.get("duplicate_within_split", [])]
    assert len(named) == 2


def test_the_sums_are_those_of_the_files(spoilt: tuple[Path, dict]) -> None:
    root, report = spoilt
    clips = report["clips"]
    assert len(clips) == sum(len(list((root / label).iterdir())) for label in ("bird", "cow"))
    assert sum(split["clips"] for split in report["splits"].values()) == len(clips)
    assert {(row["rate"], row["channels"], row["format"]): row["clips"] for row in report["sources"]} == {
        (8000, 1, "WAV PCM_16"): 50 + 6,
        (8000, 1, "FLAC PCM_16"): 1,
        (8000, 2, "WAV PCM_16"): 1,
        (4000, 1, "WAV PCM_16"): 1,
        (44100, 1, "OGG VORBIS"): 1,
    }
    assert sum(report["labels"]["cow"].values()) == len(list((root / "cow").iterdir()))
    for name, split in report["splits"].items():
        seconds = [row["seconds"] for row in clips if row["split"] == name and "problem" not in row]
        assert split["hours"] == pytest.approx(sum(seconds) / 3600)
        assert (split["seconds"]["min"], split["seconds"]["max"]) == (min(seconds), max(seconds))
        assert split["seconds"]["50%"] == pytest.approx(np.median(seconds), abs=1e-3)


def test_nothing_is_said_of_a_healthy_folder_and_the_status_is_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = healthy(tmp_path / "r")
    with pytest.raises(SystemExit) as ended:
        program.main(["data=audio_folder", f"data.root={root}", f"data.sample_rate={RATE}"])
    printed = capsys.readouterr()
    assert ended.value.code == 0
    assert printed.out.endswith("Nothing to mend, no remarks.\n")
    assert "Traceback" not in printed.err


def test_the_program_prints_and_writes_what_is_to_be_mended_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = healthy(tmp_path / "r")
    for number in range(7):
        (root / "cow" / f"[bold]{number}.wav").touch()
        write_wav(root / "bird" / f"short{number}.wav", noise(100 + number, 0.01), RATE)
    written = tmp_path / "made" / "report.json"
    arguments = ["data=audio_folder", f"data.root={root}", "--json", str(written), f"data.sample_rate={RATE}"]
    with pytest.raises(SystemExit) as ended:
        program.main(arguments)
    printed = capsys.readouterr().out
    assert ended.value.code == 1
    assert "To mend: 7 clips can't be read: mend or remove them.\n" in printed
    assert all(f"  cow/[bold]{number}.wav: it is empty\n" in printed for number in range(7))
    assert "  and 2 more (--json FILE names them)\n" in printed
    assert printed.endswith("1 to mend, 1 remark.\n")
    report = json.loads(written.read_text(), parse_constant=pytest.fail)
    assert len(found(report)["unreadable"]) == len(found(report)["short"]) == 7
    assert len(report["clips"]) == 64
    assert {"id", "path", "split", "labels", "rate", "channels", "seconds", "peak", "clipped"} <= report[
        "clips"
    ][0].keys()


def test_leaks_and_the_same_audio_in_two_splits_are_grave(tmp_path: Path) -> None:
    rows = [
        {
            "path": f"{n}.wav",
            "label": ("bird", "cow")[n % 2],
            "split": ("train", "test")[n % 4 == 0],
            "group": f"g{n}",
        }
        for n in range(60)
    ]
    for n in range(60):
        write_wav(tmp_path / f"{n}.wav", noise(n), RATE)
    shutil.copy(tmp_path / "4.wav", tmp_path / "5.wav")  # test and train, of two labels
    shutil.copy(tmp_path / "1.wav", tmp_path / "2.wav")  # both train
    rows[8]["group"] = rows[9]["group"] = "shared"
    report = table(tmp_path / "m.jsonl", rows)
    assert grave(report) == {"leak", "duplicate_across_splits"}
    named = found(report)
    assert named["leak"] == ["shared (test and train)"]
    assert named["duplicate_across_splits"] == ["4.wav (test, bird) = 5.wav (train, cow)"]
    assert named["duplicate_within_split"] == ["1.wav (train, cow) = 2.wav (train, bird)"]
    assert named["untested_label"] == ["cow"]


def test_what_is_validated_on_counts_as_a_split(tmp_path: Path) -> None:
    root = healthy(tmp_path / "r")
    for name in ("00", "01", "02", "03"):
        shutil.copy(root / "cow" / f"{name}.wav", root / "cow" / f"{name} again.wav")
    without, report = folder(root), folder(root, 0.3)
    assert abs(report["splits"]["val"]["clips"] - 0.3 * without["splits"]["train"]["clips"]) < 6
    splits = {row["id"]: row["split"] for row in report["clips"]}
    apart = [n for n in ("00", "01", "02", "03") if splits[f"cow/{n}.wav"] != splits[f"cow/{n} again.wav"]]
    named = found(report).get("duplicate_across_splits", [])
    assert [item.split("/")[1].split(".")[0] for item in named] == [f"{n} again" for n in apart]


def test_folds_are_held_apart_in_every_run(tmp_path: Path) -> None:
    """Twins in folds 2 and 3 train together while fold 1 is tested on, but not in the other runs."""
    rows = [{"path": f"{n}.wav", "label": ("bird", "cow")[n % 2], "fold": n // 2 % 3 + 1} for n in range(60)]
    for n in range(60):
        write_wav(tmp_path / f"{n}.wav", noise(n), RATE)
    shutil.copy(tmp_path / "2.wav", tmp_path / "4.wav")
    shutil.copy(tmp_path / "3.wav", tmp_path / "9.wav")
    report = table(tmp_path / "m.jsonl", rows)
    assert report["folds"] == {"1": 20, "2": 20, "3": 20}
    assert found(report) == {
        "duplicate_across_splits": ["2.wav (fold 2, bird) = 4.wav (fold 3, bird)"],
        "duplicate_within_split": ["3.wav (fold 2, cow) = 9.wav (fold 2, cow)"],
    }


def test_stretches_of_a_file(tmp_path: Path) -> None:
    write_wav(tmp_path / "long.wav", noise(0, 10.0), RATE)
    rows = [
        {"start": 0.0, "duration": 1.0, "split": "train"},
        {"start": 0.5, "duration": 1.0, "split": "test"},
        {"start": 9.5, "duration": 1.0, "split": "train"},
        {"start": 10.5, "duration": 1.0, "split": "train"},
    ]
    rows = [{"path": "long.wav", "label": "cow", **row} for row in rows]
    report = table(tmp_path / "m.jsonl", rows)
    named = found(report)
    assert named["overlap_across_splits"] == ["long.wav (train, cow) and long.wav from 0.5 s (test, cow)"]
    assert named["ends_early"] == ["long.wav from 9.5 s: 0.50 s of 1.0 s"]
    assert named["unreadable"] == ["long.wav from 10.5 s: it ends at 10 s, before the start at 10.5 s"]
    rows[1]["start"] = 1.0
    report = table(tmp_path / "m.jsonl", rows)
    assert found(report)["file_across_splits"] == ["long.wav (train, cow)"]
    assert grave(report) == {"unreadable", "misfit"}  # one label


def test_answers_that_the_task_can_not_learn_are_grave(tmp_path: Path) -> None:
    rows = [
        {"path": f"{n}.wav", "labels": ["bird", "cow"][: n % 3], "split": ("train", "test")[n % 2]}
        for n in range(60)
    ]
    for n in range(60):
        write_wav(tmp_path / f"{n}.wav", noise(n), RATE)
    report = table(tmp_path / "m.jsonl", rows)
    assert grave(report) == {"misfit"}
    assert "takes exactly one of the 2 labels" in report["findings"][0]["sentence"]
    assert report["labels"] == {"bird": {"train": 20, "test": 20}, "cow": {"train": 10, "test": 10}}
    texts = [{"path": row["path"], "split": row["split"], "text": "two words"} for row in rows]
    texts[0]["text"] = " "
    report = table(tmp_path / "t.jsonl", texts)
    assert "No clip has a label" in report["findings"][0]["sentence"]
    assert {name: split["words"] for name, split in report["splits"].items()} == {"train": 58, "test": 60}
    assert found(report)["empty_text"] == ["0.wav: ' '"]


def spoken(folder: Path, rows: Sequence[Mapping[str, Any]], *overrides: str) -> dict[str, Any]:
    """The report on a manifest of transcripts, of half a second each."""
    (folder / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for n, row in enumerate(rows):
        write_wav(folder / row["path"], noise(n, 0.5), RATE)
    cfg = composed(("data=manifest", *overrides)).copy()
    cfg.data.update(file=str(folder / "m.jsonl"), sample_rate=RATE)
    return program.check(cfg)


SPEECH = ("task=ctc", "network=bilstm", "frontend=speech_8k")


@pytest.mark.parametrize("overrides", [SPEECH, ()])
def test_transcripts_are_counted_and_what_spoils_them_is_named(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    texts = {
        "train": ["one two", "Two", "one one", "", "two words " * 9],
        "val": ["one"],
        "test": ["Two!", "three \u00e9", "on", ""],
    }
    rows = [
        {
            "path": f"{split}{n}.wav",
            "text": text,
            "split": split,
            "speaker": f"{split}{n % 2}",
            "mood": "good",
        }
        for split, said in texts.items()
        for n, text in enumerate(said)
    ]
    report = spoken(tmp_path, rows, *overrides)
    counts = report["transcripts"]
    assert counts["test"] == {
        "utterances": 4,
        "words": 4,
        "different words": 4,
        "characters": 12,
        "unknown characters": "h\u00e9",
        "seconds": 2.0,
        "groups": 2,
    }
    assert (counts["train"]["words"], counts["train"]["different words"]) == (23, 3)
    named = found(report)
    assert named["text_of_training_in_test"] == ["test0.wav: two"]
    assert "text_of_training_in_val" not in named
    assert named["fast_text"] == ["train4.wav: 178 a second"]
    assert "mood" in next(f["sentence"] for f in report["findings"] if f["kind"] == "remark")
    if not overrides:
        assert grave(report) == {"misfit"}
        assert "set task=ctc" in report["findings"][0]["sentence"]
        return
    assert grave(report) == {"unscorable"}
    bad = dict(item.split(": ", 1) for item in named["unscorable"])
    assert bad["train3.wav (train)"] == "it has no text"
    assert bad["test1.wav (test)"] == "the character 'h' of 'three \u00e9' is in no training text"
    assert "frames, and its audio gives" in bad["train4.wav (train)"]
    assert len(bad) == 3


def test_labels_that_look_alike_or_are_not_trained_and_one_file_are_told(tmp_path: Path) -> None:
    write_wav(tmp_path / "long.wav", noise(0, 30.0), RATE)
    rows = [
        {"path": "long.wav", "start": n / 2, "end": n / 2 + 0.5, "label": ("Dog", "dog ", "cat")[n % 3]}
        for n in range(60)
    ]
    report = table(tmp_path / "m.jsonl", rows)
    assert found(report)["alike_labels"] == ["'Dog' and 'dog'"]
    assert "one_file" in found(report)
    assert "All 60 clips are of one file, long.wav" in json.dumps(report["findings"])
    rows = [row | {"split": ("train", "test")[n % 2], "label": "ab"[n % 2]} for n, row in enumerate(rows)]
    report = table(tmp_path / "m.jsonl", rows)
    assert grave(report) == {"untaught_label"}


def clips_of(counts: dict[str, dict[str, int]]) -> list[Clip]:
    return [
        Clip(f"{split}-{label}-{n}", f"{split}-{label}-{n}.wav", labels=(label,), split=split)
        for split, labels in counts.items()
        for label, number in labels.items()
        for n in range(number)
    ]


def inspected(clips: list[Clip], labels: tuple[str, ...]) -> dict[str, Any]:
    heard = [ClipReport(clip, None, RATE, 1, "WAV", 1.0, 0.5, 0.0, clip.id) for clip in clips]
    findings = Inspection(heard, [clips], labels, RATE, lambda clip: clip.path).findings()
    return {finding.kind: (finding.grave, finding.items) for finding in findings}


def test_classes_that_are_missing_rare_or_uneven() -> None:
    counts = {"train": {"a": 100, "b": 9, "c": 10, "d": 20}, "test": {"a": 5, "b": 5, "d": 5}}
    assert inspected(clips_of(counts), tuple("abcd")) == {
        "untested_label": (False, ("c",)),
        "few_clips": (False, ("b (9)",)),
        "imbalance": (False, ()),
    }
    counts = {"train": {"a": 10}, "test": {"a": 5, "b": 5}}
    assert inspected(clips_of(counts), ("a", "b")) == {"untaught_label": (True, ("b",))}
    counts = {"train": {"a": 10}, "test": {"a": 5}}
    assert inspected(clips_of(counts), ("a", "z"))["untaught_label"] == (False, ("z",))
    assert inspected(clips_of({"train": {"a": 10}}), ("a",))["no_split"] == (True, ())


def test_the_balance_is_that_of_an_epoch() -> None:
    clips = clips_of({"train": {"a": 300, "b": 20}, "test": {"a": 5, "b": 5}})
    heard = [ClipReport(clip, None, RATE, 1, "WAV", 1.0, 0.5, 0.0, clip.id) for clip in clips]
    found = {
        number: {
            finding.kind
            for finding in Inspection(
                heard, [clips], ("a", "b"), RATE, lambda clip: clip.id, drawn
            ).findings()
        }
        for number, drawn in enumerate((None, [*clips[:25], *clips[300:320]]))
    }
    assert found == {0: {"imbalance"}, 1: set()}


def test_one_recording_in_train_test_and_in_no_split_is_across_splits() -> None:
    clips = [
        replace(clip, split=split)
        for clip, split in zip(clips_of({"train": {"a": 3}}), (None, "train", "test"), strict=True)
    ]
    heard = [ClipReport(clip, None, RATE, 1, "WAV", 1.0, 0.5, 0.0, "same") for clip in clips]
    findings = Inspection(heard, [clips], ("a",), RATE, lambda clip: clip.id).findings()
    assert [f.items for f in findings if f.kind == "duplicate_across_splits"] == [
        ("train-a-0 (no split, a) = train-a-1 (train, a) = train-a-2 (test, a)",)
    ]


def test_listening_gives_the_numbers_of_the_file(tmp_path: Path) -> None:
    samples = np.array([0, 16384, -32768, 32767, 100] * 200, dtype=np.int16)
    heard = inspect_clip(Clip("a", str(write_wav(tmp_path / "a.wav", samples, 1000))))
    assert (heard.rate, heard.channels, heard.format, heard.seconds) == (1000, 1, "WAV PCM_16", 1.0)
    assert (heard.peak, heard.clipped, heard.problem) == (1.0, 0.4, None)
    flac = inspect_clip(Clip("b", str(write_wav(tmp_path / "a.flac", samples, 1000))))
    assert flac.digest == heard.digest
    half = inspect_clip(Clip("c", str(tmp_path / "a.wav"), start=0.5))
    assert (half.seconds, half.digest == heard.digest) == (0.5, False)
    assert inspect_clip(Clip("d", str(tmp_path / "none.wav"))).problem == "there is no such file"
    assert summary([heard], [Clip("a", "", split="train")], ())["splits"]["train"]["clips"] == 1  # type: ignore[index]


def test_a_split_whose_transcripts_have_no_word_is_grave(tmp_path: Path) -> None:
    texts = {"train": ["one two", "two one", "one"], "val": ["one"], "test": ["", "[noise]"]}
    rows = [
        {"path": f"{split}{n}.wav", "text": text, "split": split}
        for split, said in texts.items()
        for n, text in enumerate(said)
    ]
    report = spoken(tmp_path, rows, *SPEECH)
    assert grave(report) == {"no_words_in_test"}
    assert "No test transcript has a word" in report["findings"][0]["sentence"]


def test_channels_that_cancel_faint_and_loud_files_are_named(tmp_path: Path) -> None:
    root = healthy(tmp_path / "recordings")
    left = noise(1)
    write_wav(root / "cow" / "inverted.wav", np.stack([left, -0.98 * left], 1), RATE)
    write_wav(root / "cow" / "faint.wav", 2e-4 * left, RATE, "PCM_24")
    write_wav(root / "cow" / "loud.wav", 2 * left / np.abs(left).max(), RATE, "FLOAT")
    write_wav(root / "cow" / "thousands.wav", 20_000 * left, RATE, "FLOAT")
    report = folder(root)
    items = found(report)
    assert items["cancelling"] == [
        "cow/inverted.wav: its 2 channels cancel each other, their mean keeps -40 dB: take one of them"
    ]
    assert [item.split(":")[0] for item in items["faint"]] == ["cow/faint.wav"]
    assert "its peak is 2 times full scale" in items["over_full_scale"][0]
    assert "divide them by 32768" in items["unreadable"][0]
    assert grave(report) == {"unreadable", "faint"}
    for number in range(3):
        write_wav(root / "dog" / f"{number}.wav", np.stack([noise(number), -noise(number)], 1), RATE)
    report = folder(root)
    assert "cancelling" in grave(report)
    assert "These are all clips of dog." in next(
        finding["sentence"] for finding in report["findings"] if finding["kind"] == "cancelling"
    )


def test_a_corpus_that_is_not_there_or_several_values_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in {
        ("data=audio_folder", f"data.root={tmp_path}/none"): "There is no folder",
        ("seed=0,1",): "One corpus is checked at a time",
        ("data=audio_folder", "data.group=(a)"): "An override can't be read",
        ("data=manifest", f"data.file={tmp_path}/m.jsonl", "--json", f"{tmp_path}/m.jsonl"): "written over",
    }.items():
        with pytest.raises(SystemExit) as ended:
            program.main(list(arguments))
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert said in error
        assert error.count("\n") == 1


def test_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: lightning-audio check ")


def test_esc10_has_nothing_to_mend(real_data: Callable[[str], Path]) -> None:
    root = str(real_data("ESC-50") / "ESC-50")
    runs = [ESC50(root, "cache", subset="esc10", fold=fold).clips() for fold in (1, 2)]
    heard = [inspect_clip(clip) for clip in runs[0][::16]]
    findings = Inspection(heard, runs, ("dog",), 44100, lambda clip: clip.id).findings()
    assert not [finding for finding in findings if finding.grave]
    assert {(one.rate, one.channels, one.format) for one in heard} == {(44100, 1, "OGG VORBIS")}
