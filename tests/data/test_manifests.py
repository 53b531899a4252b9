"""Manifests: JSONL and CSV there and back, every bad row by its line, and the corpus that is made of them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import sine, write_wav

from lightning_audio import build
from lightning_audio.config import compose_config
from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.manifest import Manifest
from lightning_audio.data.manifests import (
    describe_unused,
    read_manifest,
    read_manifests,
    unused_columns,
    write_manifest,
)
from lightning_audio.data.splits import hold_out, refuse_leaks
from lightning_audio.errors import UserError


@pytest.fixture(autouse=True)
def _audio(tmp_path: Path) -> None:
    """Files that rows can name: nothing here reads them."""
    for name in ("a.wav", "b.wav", "c.wav"):
        (tmp_path / name).touch()


def manifest(folder: Path, *rows: Any, name: str = "clips.jsonl") -> Path:
    """One row a line; strings as they are, everything else as JSON."""
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def refusal(read: Callable[[], Any]) -> list[str]:
    """The lines of the error."""
    with pytest.raises(UserError) as error:
        read()
    return str(error.value).splitlines()


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    a, b, c = (str(tmp_path / name) for name in ("a.wav", "b.wav", "c.wav"))
    text = "naïve \u2028 \u0085 “text”\n"
    clips = [
        Clip("a", a, labels=()),
        Clip("b", b, 1.25, 0.1, ("dog", "bell"), text, "val", 3, "r 1"),
        Clip("c", c, labels=("rain",), split="train", fold=0, group="7"),
    ]
    write_manifest(clips[::-1], tmp_path / "clips.jsonl")
    assert read_manifest(tmp_path / "clips.jsonl") == clips


def test_a_manifest_of_nemo_is_read(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        {"audio_filepath": "a.wav", "offset": 0.5, "duration": 2, "text": "yes", "speaker": 17},
        {"audio_filepath": str(tmp_path / "b.wav"), "duration": 1.5, "text": "", "offset": None},
    )
    assert read_manifest(path) == [
        Clip("clips-000001", str(tmp_path / "a.wav"), 0.5, 2.0, (), "yes", group="17"),
        Clip("clips-000002", str(tmp_path / "b.wav"), 0.0, 1.5, (), ""),
    ]


NAMES = {
    "path,label,start,duration": "a.wav,dog,0.5,2",
    "audio_filepath,category,offset,duration": "a.wav,dog,0.5,2",
    "File,Class,Begin,End": "a.wav,dog,0.5,2.5",
    "filename,LABEL,start_time,end_time": "a.wav,dog,0.5,2.5",
    "filepath,tags,start_seconds,end_seconds": "a.wav,dog,0.5,2.5",
    "Audio,labels,Start Time,End Time": "a.wav,dog,0.5,2.5",
    "audio_file,label,Begin Time (s),End Time (s)": "a.wav,dog,0.5,2.5",  # as Raven writes them
    "wav_file,label,start_sec,stop": "a.wav,dog,0.5,2.5",
    "path,label,start_s,duration_s": "a.wav,dog,0.5,2",
    "wav,event_label,onset,offset": "a.wav,dog,0.5,2.5",  # DCASE: the offset is the end
    "file_name,event-labels,onset,duration": "a.wav,dog,0.5,2",
    "path,file,label,class,start,begin,end,duration": "a.wav,a.wav,dog,dog,0.5,0.50,2.5,2",  # all agree
}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("header", NAMES)
def test_columns_have_the_names_that_people_give_them(header: str, kind: str, tmp_path: Path) -> None:
    cells = NAMES[header].split(",")
    lines: list[Any] = [dict(zip(header.split(","), cells, strict=True))]
    if kind != "jsonl":
        lines = [line.replace(",", "\t" if kind == "tsv" else ",") for line in (header, NAMES[header])]
    clip = read_manifest(manifest(tmp_path, *lines, name=f"m.{kind}"))[0]
    assert (clip.path, clip.labels) == (str(tmp_path / "a.wav"), ("dog",))
    assert (clip.start, clip.duration) == (0.5, 2.0)


@pytest.mark.parametrize("name", ["split", "Set", "subset", "PARTITION"])
@pytest.mark.parametrize(
    ("value", "split"),
    [("Training", "train"), ("dev", "val"), ("valid", "val"), ("testing", "test"), ("evaluation", "test")],
)
def test_splits_have_the_names_that_people_give_them(
    name: str, value: str, split: str, tmp_path: Path
) -> None:
    row = {"path": "a.wav", "Transcription": "yes", name: value}
    clip = read_manifest(manifest(tmp_path, row))[0]
    assert (clip.split, clip.text) == (split, "yes")


@pytest.mark.parametrize("name", ["speaker", "Speaker_ID", "client_id", "group"])
def test_speakers_have_the_names_that_people_give_them(name: str, tmp_path: Path) -> None:
    table = manifest(tmp_path, f"path,sentence,{name}", "a.wav,yes,17", name="m.csv")
    assert read_manifest(table)[0].group == "17"


def test_columns_that_nothing_reads_are_named(tmp_path: Path) -> None:
    rows = [{"path": "a.wav", "label": "dog", "end_ms": 100, "speaker": 3}, {"path": "b.wav", "Lable": "cat"}]
    path = manifest(tmp_path, *rows)
    assert unused_columns(path) == ["end_ms", "lable"]
    assert unused_columns(path, ()) == ["end_ms", "speaker", "lable"]
    assert "end_ms" in describe_unused(path)
    assert "lable (label?)" in describe_unused(path)
    assert describe_unused(manifest(tmp_path, {"path": "a.wav", "label": "dog"}, name="n.jsonl")) == ""


@pytest.mark.parametrize(
    "header", ["path,label,label", "path,Label,label ", "path,start time,start_time,label"]
)
def test_two_columns_of_one_name_are_refused(header: str, tmp_path: Path) -> None:
    path = manifest(tmp_path, header, "a.wav,dog,cat,x"[: 3 + 4 * header.count(",")], name="m.csv")
    with pytest.raises(UserError, match=r"m\.csv has two columns named `(label|start_time)`: take one out"):
        read_manifest(path)


def test_a_tsv_has_no_quoting(tmp_path: Path) -> None:
    rows = ["path\ttext\tid", 'a.wav\t"Hello" he said\t1', 'a.wav\t"open\t2', 'a.wav\t5" pipe\t3']
    for name in ("m.tsv", "m.txt"):
        clips = read_manifest(manifest(tmp_path, *rows, name=name))
        assert [clip.text for clip in clips] == ['"Hello" he said', '"open', '5" pipe']


def test_a_group_that_no_table_has_is_refused(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label,session", "a.wav,dog,1", "b.wav,dog,2", name="m.csv")
    made = Manifest("cache", file=str(path), group=["sesion"])
    with pytest.raises(UserError, match=r"data\.group=sesion names no column \(did you mean 'session'\?\)"):
        made.clips()
    clips = Manifest("cache", file=str(path), group="Session", test_share=0.5).rows()
    assert [clip.group for clip in clips] == ["1", "2"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_only_a_newline_ends_a_row(separator: str, tmp_path: Path) -> None:
    text = f"one{separator}two"
    path = manifest(tmp_path, {"path": "a.wav", "text": text}, {"path": "b.wav", "text": "three"})
    assert separator.encode() in path.read_bytes()
    assert [clip.text for clip in read_manifest(path)] == [text, "three"]
    table = manifest(tmp_path, "path,text", f"a.wav,{text}", "b.wav,three", name="clips.csv")
    assert [clip.text for clip in read_manifest(table)] == [text, "three"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_of_windows_empty_lines_and_a_byte_order_mark_do_no_harm(
    mark: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_bytes(mark + b'{"path": "a.wav", "text": ""}\r\n\r\n  \n{"path": "b.wav", "text": ""}')
    assert [clip.id for clip in read_manifest(path)] == ["clips-000001", "clips-000004"]
    table = tmp_path / "clips.csv"
    table.write_bytes(mark + b"path,label\r\na.wav,dog\r\n\r\n , \r\nb.wav,dog")
    assert [clip.id for clip in read_manifest(table)] == ["clips-000002", "clips-000005"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_gives_what_json_gives(delimiter: str, mark: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "path": "a.wav",
            "labels": ["dog", "bell"],
            "text": 'it said: "a, b; c"',
            "split": "dev",
            "speaker": "7",
        },
        {"path": "b.wav", "labels": ["rain"], "text": "two\nlines", "start": 0.5, "duration": 2.0, "fold": 1},
        {"path": "c.wav", "labels": [], "text": "ünï", "group": "g", "id": "last"},
    ]
    columns = [
        " path",
        "Labels",
        "text",
        "split",
        "speaker",
        "start",
        "duration",
        "fold",
        "group",
        "id",
        "note",
    ]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        file.write(mark)
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        for row in rows:
            cells = {**row, "labels": " | ".join(row["labels"]), "note": "x"}
            if "id" not in row:
                cells["id"] = f"t-{rows.index(row)}"
            writer.writerow([cells.get(column.strip().lower(), "") for column in columns])
    expected = read_manifest(
        manifest(tmp_path, *({"id": f"t-{number}", **row} for number, row in enumerate(rows)))
    )
    assert read_manifest(tmp_path / "t.csv") == expected
    assert [clip.labels for clip in expected] == [(), ("dog", "bell"), ("rain",)]
    assert [clip.split for clip in expected] == [None, "val", None]


@pytest.mark.parametrize(
    ("field", "cell", "options", "labels"),
    [
        ("labels", "dog;bell", {}, ("dog", "bell")),
        ("labels", "dog|bell", {}, ("dog", "bell")),
        ("labels", '"[""dog"", ""a;b""]"', {}, ("dog", "a;b")),
        ("labels", "dog+bell+dog", {"separator": "+"}, ("dog", "bell")),
        ("labels", "dog", {}, ("dog",)),
        ("labels", "", {}, ()),
        ("label", "dog;bell", {}, ("dog;bell",)),
        ("label", "7", {}, ("7",)),
    ],
)
def test_labels_of_a_cell(field: str, cell: str, options: dict, labels: tuple, tmp_path: Path) -> None:
    path = manifest(tmp_path, f"path,{field}", f"a.wav,{cell}", name="clips.csv")
    assert read_manifest(path, **options)[0].labels == labels


def test_a_label_may_stand_alone(tmp_path: Path) -> None:
    rows: list[dict] = [
        {"id": "a", "labels": "dog"},
        {"id": "b", "label": "dog"},
        {"id": "c", "labels": ["dog", 3]},
    ]
    clips = read_manifest(manifest(tmp_path, *({"path": "a.wav"} | row for row in rows)))
    assert [clip.labels for clip in clips] == [("dog",), ("dog",), ("dog", "3")]


BAD = {
    '{"path": "a.wav"': "it is no JSON (",
    "[1, 2]": "it is no JSON object",
    '"a text"': "it is no JSON object",
    '{"text": "yes"}': "it names no audio file, as `path` or `audio_filepath`",
    '{"path": "", "text": "yes"}': "it names no audio file, as `path` or `audio_filepath`",
    '{"path": 7, "text": "yes"}': "the audio path 7 is no text",
    '{"path": "d.wav", "text": "yes"}': "there is no audio file ",
    '{"path": "a.wav"}': "neither `label`, `labels` nor `text` is there",
    '{"path": "a.wav", "label": {"dog": 1}}': "the labels [{'dog': 1}] are no names",
    '{"path": "a.wav", "label": ""}': "a label is empty",
    '{"path": "a.wav", "text": 7}': "text 7 is no text",
    '{"path": "a.wav", "text": "", "duration": "long"}': "duration 'long' is no number",
    '{"path": "a.wav", "text": "", "start": [1]}': "start [1] is no number",
    '{"path": "a.wav", "text": "", "offset": -0.5}': "start -0.5 is not a time",
    '{"path": "a.wav", "text": "", "duration": 0}': "duration 0.0 is not a time above 0",
    '{"path": "a.wav", "text": "", "duration": NaN}': "duration nan is not a time",
    '{"path": "a.wav", "text": "", "start": Infinity}': "start inf is not a time",
    '{"path": "a.wav", "text": "", "split": "evel"}': "split 'evel' is none of train, val, test",
    '{"path": "a.wav", "text": "", "Set": "small"}': "set 'small' is none of train, val, test",
    '{"path": "a.wav", "text": "", "start": 2, "end": 1.5}': "its end 1.5 is not behind its start 2.0",
    '{"path": "a.wav", "text": "", "end": 1.5, "duration": 1}': "duration 1.0 and end 1.5 contradict each",
    '{"path": "a.wav", "file": "b.wav", "text": ""}': "`path` and `file` contradict each other",
    '{"path": "a.wav", "label": "dog", "category": "cat"}': "`label` and `category` contradict each other",
    '{"path": "a.wav", "text": "yes", "sentence": "no"}': "`text` and `sentence` contradict each other",
    '{"path": "a.wav", "text": "", "start": 1, "offset": 2}': "`start` and `offset` contradict each other",
    '{"path": "a.wav", "text": "", "split": "dev", "subset": "test"}': "`split` and `subset` contradict",
    '{"path": "a.wav", "text": "a", "text": "b"}': "it has `text` twice",
    '{"path": "a.wav", "Label": "a", "label": "b"}': "it has `label` twice",
    '{"path": "a.wav", "text": "", "channel": "left"}': "channel 'left' is neither mean nor a number",
    '{"path": "a.wav", "text": "", "fold": "one"}': "fold 'one' is no number",
    '{"path": "a.wav", "text": "", "fold": 1.5}': "fold 1.5 is no whole number",
    '{"path": "a.wav", "text": "", "fold": true}': "fold True is no number",
    '{"path": "a.wav", "text": "", "id": ["x"]}': "its id ['x'] is no name",
    '{"path": "a.wav", "text": "", "id": "good"}': "its id 'good' stands in clips.jsonl, line 1 too",
    '{"path": "d.wav", "label": "", "fold": "x"}': "d.wav; a label is empty",
}


def test_every_bad_row_is_named_at_once_with_its_line_and_what_is_wrong(tmp_path: Path) -> None:
    good = {"path": "a.wav", "label": "dog", "id": "good"}
    path = manifest(tmp_path, good, *BAD, good | {"id": "good too"})
    first, *rows = refusal(lambda: read_manifest(path))
    assert first == f"{len(BAD)} bad rows in {path}: mend them or take them out."
    assert len(rows) == len(BAD)
    for number, (row, problem) in enumerate(zip(rows, BAD.values(), strict=True), start=2):
        assert row.startswith(f"  clips.jsonl, line {number}: ")
        assert problem in row


def test_ten_kinds_of_bad_row_of_a_table_give_ten_messages(tmp_path: Path) -> None:
    rows = {
        "d.wav,dog,,,,1": "there is no audio file",
        ",dog,,,,2": "it names no audio file",
        "a.wav,,,,,3": "a label is empty",
        "a.wav,dog,x,,,4": "start 'x' is no number",
        "a.wav,dog,-1,,,5": "start -1.0 is not a time",
        "a.wav,dog,0,0,,6": "duration 0.0 is not",
        "a.wav,dog,0,1,tset,7": "split 'tset' is none of",
        "a.wav,dog,0,1,test": "it has 5 cells where the first line has 6",
        '"a\nb.wav",dog,0,1,test,9': "there is no audio file",
        "a.wav,dog,0,1,test,0": "its id '0' stands in clips.csv, line 2 too",
        "a.wav,d\udce9j\udce0,0,1,test,11": "it is not UTF-8",
    }
    path = tmp_path / "clips.csv"
    text = "\n".join(["path,label,start,duration,split,id", "a.wav,dog,,,,0", *rows])
    path.write_bytes(text.encode(errors="surrogateescape"))
    first, *found = refusal(lambda: read_manifest(path))
    assert first.startswith(f"{len(rows)} bad rows")
    lines = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14]  # the row of line 11 goes on in line 12
    for row, line, problem in zip(found, lines, rows.values(), strict=True):
        assert row.startswith(f"  clips.csv, line {line}: ")
        assert problem in row


def test_of_many_bad_rows_fifty_are_listed(tmp_path: Path) -> None:
    path = manifest(tmp_path, *["nonsense"] * 63)
    lines = refusal(lambda: read_manifest(path))
    assert lines[0].startswith("63 bad rows")
    assert (len(lines), lines[-1]) == (52, "  and 13 more")


def test_bad_rows_of_all_files_are_told_together(tmp_path: Path) -> None:
    train = manifest(tmp_path, {"path": "a.wav", "text": "", "id": "x"}, "nonsense", name="train.jsonl")
    test = manifest(
        tmp_path,
        {"path": "a.wav", "text": "", "split": "train"},
        {"path": "a.wav", "text": "", "id": "x"},
        name="test.jsonl",
    )
    first, *rows = refusal(lambda: read_manifests([(train, "train"), (test, "test")]))
    assert first.startswith(f"3 bad rows in {train}, {test}")
    assert rows[0].startswith("  train.jsonl, line 2: it is no JSON")
    assert rows[1] == "  test.jsonl, line 1: split 'train' stands in the manifest of test"
    assert rows[2] == "  test.jsonl, line 2: its id 'x' stands in train.jsonl, line 1 too"


def test_what_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_bytes(b'{"path": "a.wav", "text": ""}\n{"path": "b.wav", "text": "\xe9t\xe9 ..."}\n')
    assert refusal(lambda: read_manifest(path))[1:] == ["  clips.jsonl, line 2: it is not UTF-8"]


def test_a_manifest_without_clips_or_columns_or_not_there_is_one_sentence(tmp_path: Path) -> None:
    assert "holds no clips" in refusal(lambda: read_manifest(manifest(tmp_path)))[0]
    table = manifest(tmp_path, "sound,label", "a.wav,dog", name="clips.csv")
    assert (
        "has no column `path`, `audio_filepath`, `file` or the like"
        in refusal(lambda: read_manifest(table))[0]
    )
    assert "There is no manifest" in refusal(lambda: read_manifest(tmp_path / "none.jsonl"))[0]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "path,label\na.wav,x\n".encode("utf-16"), "is UTF-16, .*: save it as UTF-8"),
        ("a.json", b'[\n{"path": "a.wav", "label": "x"}\n]', "is one JSON list: write each"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_manifest(tmp_path / name)


def test_a_comma_in_a_label_is_told(tmp_path: Path) -> None:
    """As the table of FSD50K has it: fname,labels,mids,split."""
    rows = "".join(f'{n}.wav,"Guitar,Music",/m/0,train\n' for n in range(3))
    for n in range(3):
        (tmp_path / f"{n}.wav").touch()
    (tmp_path / "dev.csv").write_text(f"fname,labels,mids,split\n{rows}")

    def made(**options: Any) -> Manifest:
        return Manifest(str(tmp_path / "cache"), file=str(tmp_path / "dev.csv"), **options)

    assert any("3 clips have a comma in a label, such as 'Guitar,Music'" in told for told in made().remarks())
    assert made(separator=",").clips()[0].labels == ("Guitar", "Music")
    assert not any("comma" in told for told in made(separator=",").remarks())


def test_an_open_quote_does_not_hide_the_rows_behind_it(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label", 'a.wav,"dog', "b.wav,dog", "c.wav,dog", name="clips.csv")
    assert (
        "line 2: it is no CSV (unexpected end of data): is a quote left open?"
        in refusal(lambda: read_manifest(path))[1]
    )


# The corpus.


def rows_of(speakers: int, fields: dict | None = None) -> list[dict]:
    return [
        {"path": f"{s}-{label}-{n}.wav", "label": label, "speaker": f"s{s}", "id": f"{s}-{label}-{n}"}
        | (fields or {})
        for s in range(speakers)
        for label in ("bell", "dog")
        for n in range(3)
    ]


def corpus(folder: Path, rows: list[dict], **options: Any) -> Manifest:
    for row in rows:
        (folder / row["path"]).touch()
    return Manifest(str(folder / "cache"), file=str(manifest(folder, *rows)), **options)


def test_without_a_split_whole_speakers_are_tested_on(tmp_path: Path) -> None:
    clips = corpus(tmp_path, rows_of(10)).clips()
    refuse_leaks(clips)
    assert Counter((clip.split, clip.labels[0]) for clip in clips) == {
        ("train", "bell"): 24,
        ("train", "dog"): 24,
        ("test", "bell"): 6,
        ("test", "dog"): 6,
    }
    assert corpus(tmp_path, rows_of(10)[::-1]).clips() == clips
    assert corpus(tmp_path, rows_of(10), split_seed=3).clips() != clips
    free = corpus(tmp_path, rows_of(10), group=None, test_share=0.5).clips()
    assert {clip.group for clip in free} == {None}
    assert abs(Counter(clip.split for clip in free)["test"] - 30) <= 6


def test_own_folds_are_made_and_each_is_tested_on_once(tmp_path: Path) -> None:
    tested: Counter[str] = Counter()
    for fold in (1, 2, 3):
        made = corpus(tmp_path, rows_of(7), num_folds=3, fold=fold)
        assert made.folds == (1, 2, 3)
        clips = made.clips()
        refuse_leaks(clips)
        tested.update(clip.id for clip in clips if clip.split == "test")
    assert tested == dict.fromkeys((row["id"] for row in rows_of(7)), 1)
    with pytest.raises(UserError, match=r"7 groups of clips in .* do not make 8 folds"):
        corpus(tmp_path, rows_of(7), num_folds=8).clips()
    with pytest.raises(UserError, match=r"There is no fold 4"):
        corpus(tmp_path, rows_of(7), num_folds=3, fold=4).clips()


def test_folds_and_splits_of_the_rows_are_kept(tmp_path: Path) -> None:
    folded = [row | {"fold": number % 2 + 5} for number, row in enumerate(rows_of(4))]
    made = corpus(tmp_path, folded, fold=6)
    assert made.folds == (5, 6)
    assert all((clip.split == "test") == (clip.fold == 6) for clip in made.clips())
    split = [row | {"split": ("train", "dev", "test")[n % 3]} for n, row in enumerate(folded)]
    made = corpus(tmp_path, split, group=[])
    assert made.folds == ()
    assert Counter(clip.split for clip in made.clips()) == {"train": 8, "val": 8, "test": 8}


@pytest.mark.parametrize("field", ["split", "fold"])
def test_a_split_or_fold_of_some_rows_is_refused(field: str, tmp_path: Path) -> None:
    rows = rows_of(2)
    rows[0][field] = rows[1][field] = {"split": "test", "fold": 1}[field]
    with pytest.raises(UserError, match=rf"10 of 12 clips have no {field}, such as .*: give all of them"):
        corpus(tmp_path, rows).clips()
    rows = [row | {field: rows[0][field]} for row in rows]
    with pytest.raises(UserError, match=rf"has {field}s of its own: set data\.num_folds=null"):
        corpus(tmp_path, rows, num_folds=2).clips()


def test_stretches_of_one_file_are_not_parted_where_the_split_is_made(tmp_path: Path) -> None:
    rows = [
        {"path": f"{file}.wav", "start": start, "duration": 1, "label": ("bell", "dog")[file % 2]}
        for file in range(10)
        for start in range(4)
    ]
    clips = corpus(tmp_path, rows).clips()
    refuse_leaks(clips)
    splits = {clip.path: clip.split for clip in clips}
    assert all(splits[clip.path] == clip.split for clip in clips)
    assert Counter(splits.values()) == {"train": 8, "test": 2}


@pytest.mark.parametrize("field", ["split", "fold"])
def test_the_same_audio_in_two_places_is_told(field: str, tmp_path: Path) -> None:
    places = {"split": ("train", "test"), "fold": (1, 2)}[field]
    rows = [{"path": f"{n // 2}.wav", "label": "ab"[n % 2], field: places[n // 2 % 2]} for n in range(8)]
    assert corpus(tmp_path, rows).remarks() == [], "twice within one place"
    (told,) = corpus(tmp_path, [*rows, {"path": "0.wav", "label": "a", field: places[1]}]).remarks()
    assert re.match(r"2 clips stand in two splits or folds, such as .*0\.wav from 0 s: what is learned", told)


def test_a_file_that_goes_by_several_names_is_one(tmp_path: Path) -> None:
    """Its stretches would stand in train and test else."""
    for name in ("long.wav", *(f"{n}.wav" for n in range(8))):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "alias.wav").symlink_to(tmp_path / "long.wav")
    names = ["long.wav", "folder/../long.wav", "alias.wav"]
    cut = [{"path": names[n % 3], "start": n, "duration": 1, "label": "ab"[n % 2]} for n in range(30)]
    rows = cut + [{"path": f"{n}.wav", "label": "ab"[n % 2]} for n in range(8)]
    for seed in range(10):
        clips = parted(tmp_path, rows, split_seed=seed)
        assert len({clip.split for clip in clips if "long" in clip.path or "alias" in clip.path}) == 1
        assert {clip.group for clip in clips if clip.start} == {"alias.wav"}


def test_one_file_for_each_split_and_one_speaker_for_all(tmp_path: Path) -> None:
    """As the phone prompts come: their only speaker divides nothing."""
    row = {"path": "a.wav", "text": "yes", "speaker": "allison"}
    files: dict[str, Any] = {
        split: str(manifest(tmp_path, row, name=f"{split}.jsonl")) for split in ("train", "val", "test")
    }
    clips = Manifest(str(tmp_path), **files).clips()
    assert [(clip.id, clip.split, clip.group) for clip in clips] == [
        ("test-000001", "test", None),
        ("train-000001", "train", None),
        ("val-000001", "val", None),
    ]
    two = manifest(tmp_path, row, row | {"speaker": "bob"}, name="train.jsonl")
    with pytest.raises(UserError, match=r"allison \(test and train and val\).*set data\.group"):
        refuse_leaks(Manifest(str(tmp_path), **files | {"train": str(two)}).clips())


def test_audio_may_lie_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = manifest(tmp_path / "lists", *({"path": f"{n}.wav", "label": n} for n in "abc"))
    with pytest.raises(UserError, match="3 bad rows"):
        Manifest(str(tmp_path), file=str(path)).clips()
    made = Manifest(str(tmp_path), file=str(path), audio=str(tmp_path))
    with pytest.raises(UserError, match=r"data\.test_share=0\.2 of 3 groups .* is less than one"):
        made.clips()
    assert made.root == tmp_path


@pytest.mark.parametrize(
    ("options", "said_of_it"),
    [
        ({}, "data.file=FILE alone"),
        ({"file": "a.csv", "train": "a.csv"}, "data.file=FILE alone"),
        ({"train": "a.csv"}, "data.train=FILE and data.test=FILE"),
        ({"train": "a.csv", "val": "a.csv"}, "data.train=FILE and data.test=FILE"),
        ({"file": "a.csv", "test_share": 1.0}, "data.test_share=1.0 is no share"),
        ({"file": "a.csv", "num_folds": 1}, "data.num_folds=1 are too few"),
    ],
)
def test_options_that_do_not_fit(options: dict, said_of_it: str) -> None:
    with pytest.raises(UserError, match=said_of_it):
        Manifest("cache", **options)


def test_an_unknown_option_is_named_with_those_that_there_are() -> None:
    options = {"_target_": "lightning_audio.data.corpora.manifest.Manifest", "cache": "c", "file": "a.csv"}
    with pytest.raises(UserError, match=r"data\.shares is no option.*file"):
        build.instantiate(options | {"shares": 1}, "data")


def test_a_run_can_be_made_of_a_table(tmp_path: Path) -> None:
    """From CSV to batches, with the labels and the rate that the configuration says."""
    rows = []
    for number in range(20):
        name = f"{number}.wav"
        write_wav(tmp_path / name, sine(300 + 600 * (number % 2), 0.2, 8000), 8000)
        rows.append(f"{name};{('low', 'high')[number % 2]};p{number // 2}")
    path = manifest(tmp_path, "path;label;group", *rows, name="clips.csv")
    overrides = ["data=manifest", f"data.file={path}", "data.sample_rate=8000", "loader.val_fraction=0.25"]
    data = build.datamodule(compose_config(overrides))
    data.prepare_data()
    data.setup()
    assert data.labels == ("high", "low")
    counts = {split: len(clips) for split, clips in data.splits.items()}
    assert (sum(counts.values()), min(counts.values()) >= 2) == (20, True)
    batch = next(iter(data.loader("test")))
    assert batch.lengths.tolist() == [1600] * counts["test"]
    assert {*batch.targets.tolist()} == {0, 1}


def test_the_phone_prompts_are_read(real_data: Callable[[str], Path]) -> None:
    folder = real_data("phone-prompts-en") / "phone-prompts-en"
    files: dict[str, Any] = {split: str(folder / f"{split}.jsonl") for split in ("train", "val", "test")}
    clips = Manifest("cache", **files).clips()
    assert Counter(clip.split for clip in clips) == {"train": 375, "val": 51, "test": 56}
    assert all(clip.text and clip.duration and clip.group is None for clip in clips)


def test_returns_end_the_rows_of_old_spreadsheets(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "m.csv").write_bytes(b"path,label,id\ra.wav,dog,\ra.wav,e\xcc\x81,b\r")
    clips = read_manifest(tmp_path / "m.csv")
    assert [(clip.id, clip.labels) for clip in clips] == [("b", ("\u00e9",)), ("m-000002", ("dog",))]


def test_a_quote_left_open_in_the_first_line_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('path,"label\na.wav,dog\n', encoding="utf-8")
    with pytest.raises(UserError, match="is a quote left open"):
        read_manifest(tmp_path / "m.csv")


def parted(folder: Path, rows: Sequence[Any], **options: Any) -> Sequence[Clip]:
    (folder / "clips.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Manifest(str(folder / "cache"), file=str(folder / "clips.jsonl"), **options).clips()


def test_rows_of_one_file_are_one_group_unless_the_table_says_otherwise(tmp_path: Path) -> None:
    rows = [
        {"path": f"{name}.wav", "start": n, "duration": 1, "label": "dog", "split": split}
        for name, split in (("a", "train"), ("b", "train"), ("c", None))
        for n in range(4)
    ]
    for n, row in enumerate(rows[8:]):
        row["split"] = ("train", "test")[n % 2]
    groups = {(clip.path, clip.split): clip.group for clip in parted(tmp_path, rows)}
    a, b, c = (str(tmp_path / name) for name in ("a.wav", "b.wav", "c.wav"))
    # The table itself parts c; a validation draw does not part the others.
    assert groups == {(a, "train"): "a.wav", (b, "train"): "b.wav", (c, "train"): None, (c, "test"): None}
    refuse_leaks(parted(tmp_path, rows))
    for seed in range(10):
        drawn = hold_out(parted(tmp_path, rows), 0.4, seed, root=tmp_path)
        assert {len({clip.split for clip in drawn if clip.path == path}) for path in (a, b)} == {1}
        assert len({clip.split for clip in drawn if clip.path == c} - {"test"}) == 1
    rows = [{"path": "a.wav", "start": n, "duration": 1, "label": "ab"[n % 2]} for n in range(40)]
    one = parted(tmp_path, rows)
    assert {clip.group for clip in one} == {None}
    assert Counter(clip.split for clip in one)["test"] in range(4, 13)


def test_adding_rows_anywhere_moves_none_of_the_old_ones(tmp_path: Path) -> None:
    """Their ids change, for those are made of their lines; where they stand does not."""
    names = [f"{n}.wav" for n in range(120)]
    for name in names:
        (tmp_path / name).touch()
    rows = [{"path": name, "label": ("bell", "dog")[n % 2]} for n, name in enumerate(names)]
    before = {clip.path: clip.split for clip in parted(tmp_path, rows[1::2] + rows[0:60:2])}
    after = {clip.path: clip.split for clip in parted(tmp_path, rows)}
    assert {path: after[path] for path in before} == before
    assert Counter(after.values())["test"] in range(18, 31)


def test_each_channel_may_be_a_clip(tmp_path: Path) -> None:
    stereo = np.stack([sine(300, 0.1, 8000), sine(600, 0.1, 8000)], axis=1)
    write_wav(tmp_path / "a.wav", stereo, 8000)
    write_wav(tmp_path / "b.wav", sine(300, 0.1, 8000), 8000)
    rows = [
        {"path": "a.wav", "label": "x", "id": "a", "split": "train"},
        {"path": "b.wav", "label": "x", "id": "b", "split": "test", "channel": None},
        {"path": "a.wav", "label": "x", "id": "c", "split": "train", "Channel": "1", "speaker": "7"},
        {"path": "c.wav", "label": "x", "id": "d", "split": "train", "channel": "mean"},
    ]
    clips = {clip.id: (clip.channel, clip.group) for clip in parted(tmp_path, rows, channel="each")}
    assert clips == {
        **{"a#0": (0, "a.wav"), "a#1": (1, "a.wav"), "b": (0, None)},
        **{"c": (1, "7"), "d": ("mean", None)},
    }
    assert {clip.channel for clip in parted(tmp_path, rows, channel=0)} == {0, 1, "mean"}
    with pytest.raises(UserError, match=r"data\.channel=left is no channel: set it to mean, each, or"):
        parted(tmp_path, rows, channel="left")
