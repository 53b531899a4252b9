"""The program that aligns: words of one file or of a manifest, and every mistake its one sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import sine, write_wav
from torch import nn

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.cli import align, arguments
from lightning_audio.cli.align import main
from lightning_audio.data.batch import Batch
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import decode, to_int16
from lightning_audio.data.info import DataInfo
from lightning_audio.decoding.alignment import FRAMES_ALONE, BoundaryRule, boundary_errors, fit_boundary_rule
from lightning_audio.errors import UserError
from lightning_audio.inference.known_text import beside_truth
from lightning_audio.inference.transcribe import posteriors, transcribe
from lightning_audio.tasks.ctc import CTC
from lightning_audio.text.tokenizers import fit_tokenizer
from lightning_audio.training import saved_config

RATE = 8000
ALPHABET = " abcdeno"
STEPS = ["unicode", "numbers", "lower", "punctuation", "spaces"]
ANSWERING = {
    "frontend": {
        "_target_": "lightning_audio.frontend.log_mel.LogMel",
        "n_fft": 256,
        "hop_length": 80,
        "n_mels": 16,
        "top_db": None,
    },
    "normalize": "per_feature",
    "network": {
        "_target_": "lightning_audio.networks.bilstm.BiLSTM",
        "channels": 4,
        "hidden": 8,
        "layers": 1,
    },
    "task": {"_target_": "lightning_audio.tasks.ctc.CTC", "text": {"steps": STEPS, "tokenizer": {}}},
}


def babble(seconds: float, seed: int = 0) -> np.ndarray:
    """int16 samples `(T,)`: tones of random frequencies and levels, five a second."""
    rng = np.random.default_rng(seed)
    tones = [
        sine(rng.uniform(100, 3500), 0.2, RATE, rng.uniform(0.01, 0.5)) for _ in range(round(5 * seconds))
    ]
    return to_int16(np.concatenate(tones))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checkpoint of an untrained recogniser that hears something in everything."""
    vocabulary = fit_tokenizer([ALPHABET]).state()
    info = DataInfo(tuple(ALPHABET), RATE, 1.0, encoding={"vocabulary": vocabulary})
    torch.manual_seed(0)
    built = build.assemble(ANSWERING, info)
    samples = torch.from_numpy(babble(10.0))[None]
    built.fit_normalizer([Batch(samples, torch.tensor([samples.shape[1]]), torch.zeros(1))])
    head = built.network.get_submodule("head")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():  # otherwise it hears nothing but one output
        head.weight *= 10.0
        head.bias[1 + ALPHABET.index(" ")] += 4.0
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    torch.save({"state_dict": built.state_dict(), "lightning_audio": built.description}, path)
    return str(path)


@pytest.fixture(scope="module")
def task(run: str) -> CTC:
    found = load(run)
    assert isinstance(found, CTC)
    return found


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "tones.wav", sine(300, 2.0, RATE), RATE)


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that the program ends with."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_words_of_one_file_as_ctm(run: str, wav: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([run, str(wav), "A bad, dead bee!"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[4] for row in rows] == ["a", "bad", "dead", "bee"]
    assert {tuple(row[:2]) for row in rows} == {("tones", "1")}
    times = [float(time) for row in rows for time in (row[2], float(row[2]) + float(row[3]))]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= 2.0


def test_text_is_normalised_as_the_run_learned_it(
    run: str, wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([run, str(wav), "1 bad", "--format", "jsonl"])
    row = json.loads(capsys.readouterr().out)
    assert row["text"] == "one bad"
    (segment,) = row["segments"]
    assert [word["text"] for word in segment["words"]] == ["one", "bad"]
    assert "".join(token["text"] for token in segment["words"][0]["tokens"]) == "one"
    assert row["seconds"] == 2.0


def test_what_is_decoded_is_aligned_as_its_text_is(task: CTC, run: str, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "babble.wav", babble(6.0, seed=1), RATE)
    (found,) = transcribe(task, [(str(path), decode(path, RATE))])
    assert len(found.words) > 1
    main([run, str(path), found.text, "--format", "jsonl", "--output", str(tmp_path / "out.jsonl")])
    again = json.loads((tmp_path / "out.jsonl").read_text())["segments"][0]["words"]
    assert [word["text"] for word in again] == [word.text for word in found.words]
    for edge in ("start", "end"):
        expected = [getattr(word, edge) for word in found.words]
        assert [word[edge] for word in again] == pytest.approx(expected, abs=1e-5)


def manifest(folder: Path, rows: Sequence[Mapping[str, object]]) -> str:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_manifest_gives_a_file_for_each_recording(run: str, wav: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "other.wav", sine(500, 1.0, RATE), RATE)
    rows: list[dict[str, object]] = [
        {"audio_filepath": "tones.wav", "offset": 1.0, "duration": 0.8, "text": "dead bee"},
        {"audio_filepath": "tones.wav", "offset": 0.0, "duration": 0.9, "text": "a bad"},
        {"audio_filepath": "other.wav", "text": "one"},
    ]
    main([run, "--manifest", manifest(tmp_path, rows), "--format", "srt", "--output", str(tmp_path / "out")])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["other.srt", "tones.srt"]
    text = (tmp_path / "out" / "tones.srt").read_text()
    assert re.findall(r"^[a-z ]+$", text, re.MULTILINE) == ["a bad", "dead bee"]
    # Times are those of the file.
    second = text.split("\n\n")[1].splitlines()[1].partition(" --> ")[0]
    assert "00:00:01,000" <= second < "00:00:01,800"


def test_a_text_that_was_hardly_said_is_warned_of(
    task: CTC, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_wav(tmp_path / "babble.wav", babble(6.0, seed=1), RATE)
    (found,) = transcribe(task, [(str(path), decode(path, RATE))])
    main([run, str(path), found.text])
    assert "warning" not in capsys.readouterr().err
    tone = write_wav(tmp_path / "tone.wav", sine(300, 2.0, RATE), RATE)
    main([run, str(tone), "a bad bee"])
    assert f"warning: the text of {tone} fits its audio badly (score 0.000" in capsys.readouterr().err


def test_channels_are_aligned_apart(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stereo = np.stack([babble(2.0), babble(2.0, seed=1)], axis=1)
    soundfile.write(tmp_path / "call.wav", stereo, RATE)
    soundfile.write(tmp_path / "second.wav", stereo[:, 1], RATE)
    row = {"audio_filepath": "call.wav", "text": "a bad bee"}
    main(
        [
            run,
            "--manifest",
            manifest(tmp_path, [{**row, "channel": 0, "id": "0"}, {**row, "channel": 1, "id": "1"}]),
        ]
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [["call", "1"]] * 3 + [["call", "2"]] * 3
    main([run, str(tmp_path / "second.wav"), "a bad bee"])
    alone = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[2:] for line in lines[3:]] == [line[2:] for line in alone]


def test_bad_rows_are_named_and_the_others_aligned(
    run: str, wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(tmp_path / "short.wav", sine(500, 0.1, RATE), RATE)
    write_wav(tmp_path / "odd.wav", sine(500, 1.0, RATE), RATE)
    (tmp_path / "noise.wav").write_bytes(b"no audio at all")
    rows: list[dict[str, object]] = [
        {"audio_filepath": "tones.wav", "text": "a bad bee"},
        {"audio_filepath": "short.wav", "text": "a bad bee", "id": "hurry"},
        {"audio_filepath": "odd.wav", "text": "a zoo", "id": "animals"},
        {"audio_filepath": "odd.wav", "offset": 0.4, "text": "bee", "id": "bees"},
        {"audio_filepath": "odd.wav", "label": "zoo", "id": "untold"},
        {"audio_filepath": "gone.wav", "text": "bee"},
        {"audio_filepath": "noise.wav", "text": "bee", "id": "noise"},
        {"audio_filepath": "noise.wav", "offset": 1, "text": "bee", "id": "noise too"},
    ]
    with pytest.raises(SystemExit) as ended:
        main([run, "--manifest", manifest(tmp_path, rows)])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert [line.split()[4] for line in printed.out.splitlines()] == ["bee", "a", "bad", "bee"]
    errors = [line for line in printed.err.splitlines() if not line.startswith("warning")]
    assert len(errors) == 6
    assert "tokens of hurry need 10 frames and its audio gives 3" in "".join(errors)
    assert "The text of animals has the character 'z'" in "".join(errors)
    assert "The text of untold has no word to align" in "".join(errors)
    assert errors[0].startswith("error: texts.jsonl, line 6: there is no audio file")
    assert "".join(errors).count("noise.wav: it cannot be decoded") == 1
    assert errors[-1] == "error: 6 of 8 texts could not be aligned: they are named above."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a bad zebra", "has the character 'z', which the run does not know"),
        ("?!", "has no word to align"),
        ("", "has no word to align"),
        ("a bad bee " * 20, "frames and its audio gives 51: check that the text belongs to the audio"),
    ],
)
def test_texts_that_cannot_be_aligned(
    text: str, sentence: str, run: str, wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = fails([run, str(wav), text], capsys)
    assert sentence in error
    assert str(wav) in error


def test_files_and_options_that_do_not_fit(
    run: str, wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no such file" in fails([run, str(tmp_path / "no.wav"), "bad"], capsys)
    assert "--reach -1" in fails([run, str(wav), "bad", "--reach", "-1"], capsys)
    assert "There is no checkpoint" in fails([str(tmp_path / "no"), str(wav), "bad"], capsys)
    labelled = manifest(tmp_path, [{"id": "x", "audio_filepath": "tones.wav", "label": "bee"}])
    assert "has no texts: add them to its rows" in fails([run, "--manifest", labelled], capsys)
    write_wav(tmp_path / "other.wav", sine(500, 1.0, RATE), RATE)
    both = [{"audio_filepath": name, "text": "bee"} for name in ("tones.wav", "other.wav")]
    error = fails([run, "--manifest", manifest(tmp_path, both), "--format", "vtt"], capsys)
    assert "name a folder with --output" in error
    table = manifest(tmp_path, both)
    for output in (table, str(tmp_path / "folder" / ".." / "texts.jsonl")):
        error = fails([run, "--manifest", table, "--format", "jsonl", "--output", output], capsys)
        assert "is read, and would be written over" in error
    assert len(Path(table).read_text().splitlines()) == 2


@pytest.mark.parametrize("arguments", [["a.wav"], [], ["a.wav", "bad", "--manifest", "m.jsonl"]])
def test_either_a_text_or_a_manifest(
    arguments: list[str], run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([run, *arguments])
    assert "give either AUDIO and its TEXT, or --manifest FILE" in capsys.readouterr().err


def test_a_run_that_knows_no_words_is_refused(
    tiny_run: Path, wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "give one of speech recognition (task=ctc)" in fails([str(tiny_run), str(wav), "bad"], capsys)


def test_a_long_recording_is_aligned_in_windows_as_it_is_whole(task: CTC) -> None:
    """The same rows, but for those near a seam, where the network has heard less of what is around."""
    samples = babble(9.0, seed=2)
    whole, windows = posteriors(task, samples, 100.0), posteriors(task, samples, 4.0)
    assert windows.shape == whole.shape
    assert np.abs(np.exp(windows) - np.exp(whole)).max() < 0.1
    assert np.median(np.abs(np.exp(windows) - np.exp(whole))) < 1e-4


def test_truth_is_held_against_what_is_aligned(task: CTC, wav: Path) -> None:
    clip = Clip(id="one", path=str(wav), text="a bad bee")
    truth = {"one": [("a", 0.1, 0.2), ("bad", 0.3, 0.9), ("bee", 1.0, 1.9)]}
    pairs = beside_truth(task, [clip], truth, FRAMES_ALONE)
    assert [(word.text, times) for word, times in pairs] == [(word, (s, e)) for word, s, e in truth["one"]]
    fitted = beside_truth(task, [clip], truth, fit_boundary_rule(pairs))
    assert np.mean(boundary_errors(fitted)) <= np.mean(boundary_errors(pairs)) + 0.02
    with pytest.raises(UserError, match="true words of one"):
        beside_truth(task, [clip], {"one": [("b", 0.0, 1.0)]}, FRAMES_ALONE)


def test_an_extent_is_fitted_on_validation_and_taken_from_then_on(
    speech_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(speech_run, run)
    align.main([str(run), "--fit"])
    assert "Fitted on validation" in capsys.readouterr().out
    task = load(run)
    assert isinstance(task, CTC)
    data = build.datamodule(saved_config.load_config(run), task.description["facts"])
    data.prepare_data()
    data.setup()
    truth = data.corpus.boundaries()  # type: ignore[attr-defined]
    expected = fit_boundary_rule(beside_truth(task, data.splits["val"].clips, truth, FRAMES_ALONE))
    options = arguments.align([str(run), "one.wav", "1"])
    assert align.boundary_rule_of(options) == expected
    assert align.boundary_rule_of(arguments.align([str(run), "one.wav", "1", "--shift", "0.5"])).shift == 0.5
    assert align.boundary_rule_of(arguments.align([str(speech_run), "one.wav", "1"])) == BoundaryRule()
    for damaged in ("{", '{"shift": "late"}', '{"shfit": 0}', "[]"):
        (run / align.EXTENT).write_text(damaged)
        with pytest.raises(UserError, match=r"extent\.json is damaged .* run align --fit again"):
            align.boundary_rule_of(options)
