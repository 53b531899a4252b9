"""TIMIT on trees made up here, in its layout and in those of mirrors; phones from waveform to score."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import sine
from test_speech_corpora import sphere, write

from lightning_audio import build
from lightning_audio.cli import align, check
from lightning_audio.config import compose_config
from lightning_audio.data.clip_table import validated
from lightning_audio.data.corpora.timit import PHONES, SPLIT_OF, TO_39, TO_48, Timit
from lightning_audio.data.decode import decode
from lightning_audio.data.info import DataInfo
from lightning_audio.data.splits import refuse_leaks
from lightning_audio.errors import UserError
from lightning_audio.metrics.base import values
from lightning_audio.metrics.transcripts import Transcripts, per
from lightning_audio.training.run import train

RATE = 16000
SAID = (
    *(("h#", 0, 2000), ("ao", 2000, 3500), ("q", 3500, 3700), ("kcl", 3700, 4300), ("k", 4300, 5000)),
    *(("ux", 5000, 6600), ("h#", 6600, 8000)),
)
TRAINED = ("FCJF0", "MDAC0")


def release(root: Path, suffix: str = ".WAV", lower: bool = False) -> Path:
    """One sentence of each tested and validated speaker, two of those trained on, and what is left out."""
    speakers: dict[str, tuple[str, tuple[str, ...]]] = {
        name.upper(): ("TEST", ("SX37",)) for name in SPLIT_OF
    }
    speakers |= {"FAKS1": ("TEST", ("SI943",))} | dict.fromkeys(TRAINED, ("TRAIN", ("SI648", "SX37")))
    for speaker, (split, sentences) in speakers.items():
        for sentence in ("SA1", *sentences):
            parts = (split, "DR1", speaker, f"{sentence}.PHN")
            table = root.joinpath(*(part.lower() if lower else part for part in parts))
            write(table, [f"{start} {end} {phone}" for phone, start, end in SAID])
            table.with_suffix(suffix).touch()
    return root


def corpus(root: Path, **options: Any) -> Timit:
    return Timit(str(root), str(root.parent / "cache"), **options)


def test_the_folding_is_that_of_lee_and_hon() -> None:
    assert set(TO_48) == set(PHONES.split())
    assert (len(TO_48), len({*TO_48.values()} - {""}), len({*TO_39.values()} - {""})) == (61, 48, 39)
    classes = {phone: {name for name, one in TO_39.items() if one == phone} for phone in {*TO_39.values()}}
    assert {frozenset(found) for found in classes.values() if len(found) > 1} == {
        frozenset(names.split())
        for names in (
            *(
                "aa ao",
                "ah ax ax-h",
                "er axr",
                "hh hv",
                "ih ix",
                "l el",
                "m em",
                "n en nx",
                "ng eng",
                "sh zh",
            ),
            *("uw ux", "sil cl vcl epi h# pau bcl dcl gcl pcl tcl kcl"),
        )
    }
    assert TO_39["q"] == TO_48["q"] == ""
    assert all(TO_39[TO_48[phone]] == TO_39[phone] for phone in TO_48 if TO_48[phone])


@pytest.mark.parametrize(
    ("within", "suffix", "lower"),
    [
        ("", ".WAV", False),
        ("", ".wav", True),
        ("data", ".WAV.wav", False),
        ("timit", ".flac", True),
    ],
)
def test_every_layout_gives_the_same_sentences(within: str, suffix: str, lower: bool, tmp_path: Path) -> None:
    root = tmp_path / "TIMIT"
    release(root / within, suffix, lower)
    clips = validated(corpus(root).clips(), "TIMIT")
    refuse_leaks(clips)
    assert Counter(clip.split for clip in clips) == {"train": 4, "val": 50, "test": 24}
    assert {clip.id for clip in clips if clip.split == "train"} == {
        f"{speaker.lower()}-{sentence}" for speaker in TRAINED for sentence in ("si648", "sx37")
    }
    assert all(clip.group == clip.id.partition("-")[0] and Path(clip.path).is_file() for clip in clips)
    assert {clip.text for clip in clips} == {"sil ao cl k uw sil"}  # the glottal stop goes


def test_of_two_copies_the_one_of_the_release_is_read(tmp_path: Path) -> None:
    root = release(release(tmp_path / "TIMIT"), ".WAV.wav")
    assert {Path(clip.path).name for clip in corpus(root).clips()} == {"SX37.WAV", "SI648.WAV"}


def test_a_sphere_file_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    clip = corpus(release(tmp_path / "TIMIT")).clips()[0]
    samples = (sine(440, 0.5, RATE) * 32767).astype(np.int16)
    Path(clip.path).write_bytes(sphere(samples))
    np.testing.assert_array_equal(decode(clip.path, RATE), samples)


def test_boundaries_are_those_of_the_text(tmp_path: Path) -> None:
    timit = corpus(release(tmp_path / "TIMIT"))
    found = timit.boundaries()
    assert found["mdab0-sx37"] == [
        (TO_48[phone], start / RATE, end / RATE) for phone, start, end in SAID if phone != "q"
    ]
    assert all(" ".join(phone for phone, *_ in found[clip.id]) == clip.text for clip in timit.clips())
    assert timit.remarks() == ["TIMIT has 462 training speakers, and 2 are there."]


def test_what_is_wrong_with_a_release_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no TRAIN/DR1/SPEAKER/SENTENCE\.PHN in .*LDC93S1 alone"):
        corpus(tmp_path / "nothing").clips()
    root = release(tmp_path / "TIMIT")
    with pytest.raises(UserError, match="48 or on 61 phones, not 39"):
        corpus(root, phones=39)
    table = root / "TEST" / "DR1" / "MDAB0" / "SX37.PHN"
    for line, message in (
        ("0 2000", r"SX37\.PHN is damaged at line 1, which is not `START END PHONE`"),
        ("0 2000 xx", r"SX37\.PHN names the phone 'xx' in line 1, which is none of TIMIT's 61"),
    ):
        write(table, [line])
        with pytest.raises(UserError, match=message):
            corpus(root).clips()
    write(table, ["0 2000 h#"])
    table.with_suffix(".WAV").unlink()
    with pytest.raises(UserError, match="1 of 78 audio files that TIMIT lists are not there, such as"):
        corpus(root).clips()
    shutil.rmtree(table.parent)
    with pytest.raises(UserError, match=r"lacks 1 of the 74 speakers .* such as MDAB0: the release is not"):
        corpus(root).clips()


def test_phones_are_scored_as_39_classes() -> None:
    """By hand: `ao` for `aa` is no error, of six phones one is left out and one is another."""
    info = DataInfo(("aa",), RATE, 1.0, encoding={"scored_as": TO_39})
    reference, hypothesis = info.as_scored("h# aa q kcl t ix sh"), info.as_scored("pau ao pcl d ih")
    assert (reference, hypothesis) == ("sil aa sil t ih sh", "sil aa sil d ih")
    scored = values([per], Transcripts([{"reference": reference, "hypothesis": hypothesis}]))
    assert scored == {"per": pytest.approx(2 / 6)}
    assert DataInfo.from_facts(info.facts()).as_scored("zh q") == "sh"


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A release with audio: noise, in which each phone is a tone."""
    root, rng = release(tmp_path / "TIMIT"), np.random.default_rng(0)
    for path in root.rglob("*.WAV"):
        samples = rng.normal(0, 0.01, SAID[-1][2])
        for phone, start, end in SAID:
            tone = sine(300 + 60 * (PHONES.split().index(phone)), (end - start) / RATE, RATE, 0.3)
            samples[start:end] += tone * (phone != "h#")
        path.write_bytes(sphere((samples * 32767).astype(np.int16)))
    return root


def options(root: Path) -> list[str]:
    tiny = ("network.hidden=8", "network.layers=1", "trainer=cpu", "trainer.max_epochs=1", "logger=none")
    paths = (f"paths.data={root.parent}", f"paths.cache={root.parent / 'cache'}")
    return ["experiment=timit_bilstm_ctc", *tiny, *paths]


def test_the_experiment_trains_on_61_phones_and_scores_39(
    spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = compose_config(options(spoken))
    results = train(cfg, tmp_path / "run")
    assert results["data"]["clips"] == {"train": 4, "val": 50, "test": 24}
    assert results["data"]["labels"] == sorted({f"▁{phone}" for phone, *_ in SAID})
    assert results["scores"]["test/per"]["n"] == 24 * 6
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert {row["reference"] for row in rows} == {"sil aa sil k uw sil"}
    assert {word for row in rows for word in row["hypothesis"].split()} <= {*TO_39.values()}
    capsys.readouterr()
    align.main([str(tmp_path / "run"), "--fit"])
    printed = capsys.readouterr().out
    assert "Fitted on validation: --shift" in printed
    assert "within 20 ms" in printed


def test_check_knows_its_phones(spoken: Path) -> None:
    report = check.check(compose_config(options(spoken)))
    assert {name: row["words"] for name, row in report["transcripts"].items()} == {
        "train": 4 * 7,
        "val": 50 * 7,
        "test": 24 * 7,
    }
    kinds = {finding["kind"] for finding in report["findings"] if finding["grave"]}
    assert not kinds & {"unscorable", "misfit"}
    assert "fast_text" not in {finding["kind"] for finding in report["findings"]}  # 14 phones a second


def test_phones_that_the_normaliser_changes_are_one_sentence(spoken: Path) -> None:
    cfg = compose_config([*options(spoken), "task.text.steps=[abbreviations,spaces]"])
    with pytest.raises(UserError, match=r"'h' is in transcripts and not in the map .*steps=\[spaces\]"):
        build.prepared(cfg)
