"""Speech recognition from the command line: training, scores with beams and language models, transcripts."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import TINY_SPEECH, sine, write_wav

from lightning_audio import build, config
from lightning_audio.checkpoint import load
from lightning_audio.cli import doctor, ngram, predict
from lightning_audio.cli.evaluate import main as evaluate
from lightning_audio.data.token_rows import TokenRows
from lightning_audio.metrics.base import named_metrics, scores
from lightning_audio.metrics.transcripts import Transcripts
from lightning_audio.reports.results import read_metrics, read_predictions
from lightning_audio.tasks.ctc import CTC
from lightning_audio.tasks.transcription import Transcription
from lightning_audio.text.tokenizers import fit_tokenizer

KEYS = {*"0123456789", "star", "pound"}


def error_of(program: object, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        program(argv)  # type: ignore[operator]
    assert exit_.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def model(speech_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word n-gram model of the training transcripts of the run."""
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    ngram.main([str(speech_run), "--order", "2", "--output", str(path)])
    return path


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of a tone."""
    return write_wav(tmp_path_factory.mktemp("audio") / "tone.wav", sine(700.0, 0.5, 8000), 8000)


def test_a_run_leaves_scores_that_follow_from_its_predictions(speech_run: Path) -> None:
    rows = read_predictions(speech_run / "predictions.jsonl")
    assert len(rows) == 4
    assert {word for row in rows for word in row["reference"].split()} <= KEYS
    written = read_metrics(speech_run)["scores"]
    found = scores(named_metrics(Transcripts, Transcription.usual_metrics), Transcripts(rows))
    expected = {f"test/{name}": score.as_dict() for name, score in found.items()}
    assert {name: score for name, score in written.items() if name.startswith("test/")} == expected
    for name in ("alignments.txt", "confusions.csv", "worst.csv"):
        assert (speech_run / name).is_file()


def test_evaluate_gives_the_numbers_of_training(
    speech_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate([str(speech_run), "--output", str(tmp_path)])
    assert "The same numbers as when it was trained." in capsys.readouterr().out
    before, after = (read_metrics(folder)["scores"] for folder in (speech_run, tmp_path))
    assert {name: before[name] for name in after} == after


def test_a_beam_finds_what_scores_at_least_as_well_as_the_best_path(speech_run: Path, tmp_path: Path) -> None:
    evaluate([str(speech_run), "--beam", "16", "--nbest", "4", "--output", str(tmp_path)])
    greedy = {row["id"]: row for row in read_predictions(speech_run / "predictions.jsonl")}
    for row in read_predictions(tmp_path / "predictions.jsonl"):
        assert row["score"] >= greedy[row["id"]]["score"] - 1e-6
        assert 1 <= len(row["nbest"]) <= 4
        assert row["nbest"][0]["text"] == row["hypothesis"]
        scores = [other["score"] for other in row["nbest"]]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == row["score"]


def test_weights_are_tuned_on_validation_and_kept(
    speech_run: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lexicon = tmp_path / "keys.txt"
    lexicon.write_text("\n".join(sorted(KEYS)), encoding="utf-8")
    options = ["--lm", str(model), "--lexicon", str(lexicon), "--beam", "4", "--tune"]
    evaluate([str(speech_run), *options, "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "decoding.json").read_text(encoding="utf-8"))
    told = read_metrics(tmp_path / "out")["decoding"]
    assert (told["search"], told["lm"], told["beam"]) == ("beam", str(model.resolve()), 4)
    assert all(told[name] == found[name] for name in ("lm_weight", "word_bonus"))
    best = min(found["tried"], key=lambda row: (row["wer"], row["cer"]))
    assert (found["lm_weight"], found["word_bonus"]) == (best["lm_weight"], best["word_bonus"])
    printed = capsys.readouterr().out
    assert f"--lm-weight {found['lm_weight']:g} --word-bonus {found['word_bonus']:g}" in printed
    said = {
        w for row in read_predictions(tmp_path / "out/predictions.jsonl") for w in row["hypothesis"].split()
    }
    assert said <= KEYS  # the lexicon holds
    evaluate([str(speech_run), "--output", str(tmp_path / "out")])
    assert read_metrics(tmp_path / "out")["decoding"] == {"search": "greedy"}
    assert not (tmp_path / "out" / "decoding.json").exists(), "that is not how these scores were found"


def test_a_run_makes_a_model_of_its_own_training_text(
    speech_run: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--unit", "words", "--order", "2"]
    evaluate([str(speech_run), "--lm-from-training", *words, "--output", str(tmp_path / "words")])
    assert (tmp_path / "words" / "lm.arpa").read_text() == model.read_text()
    told = read_metrics(tmp_path / "words")["decoding"]
    assert (told["lm"], told["unit"]) == (str((tmp_path / "words" / "lm.arpa").resolve()), "words")
    evaluate([str(speech_run), "--lm-from-training", "--output", str(tmp_path / "tokens")])
    assert "ngram 6=" in (tmp_path / "tokens" / "lm.arpa").read_text()
    said = error_of(evaluate, [str(speech_run), "--lm-from-training", "--lm", str(model)], capsys)
    assert "two language models" in said


def test_folds_decode_with_models_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One model for all holds what other folds test on: it is told."""
    module = sys.modules["lightning_audio.cli.evaluate"]
    folders = [tmp_path / "0", tmp_path / "1"]
    taken: list[tuple[str, str]] = []
    monkeypatch.setattr(module.ensembles, "members", lambda places: folders)
    monkeypatch.setattr(module.ensembles, "by_fold", lambda runs: [[run] for run in runs])
    monkeypatch.setattr(module, "read_metrics", lambda folder: {"data": {"fold": int(folder.name) + 1}})
    for name in ("check_folds", "summarise_folds", "write_fold_report", "print_fold_report", "read_run"):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(module, "RunResult", lambda *_: None)

    def scored(
        run: Path,
        overrides: list[str],
        output: Path,
        options: Namespace,
        others: list[Path],
    ) -> None:
        taken.append((str(options.lm), str(options.lexicon)))

    monkeypatch.setattr(module, "evaluate", scored)
    evaluate([str(tmp_path), "--lm", "lm-{fold}.arpa", "--lexicon", "{fold}/words.txt"])
    assert taken == [("lm-1.arpa", "1/words.txt"), ("lm-2.arpa", "2/words.txt")]
    assert "warning" not in capsys.readouterr().err
    evaluate([str(tmp_path), "--lm", "lm.arpa"])
    assert "warning: lm.arpa decodes every fold" in capsys.readouterr().err
    assert taken[2:] == [("lm.arpa", "None")] * 2


def test_a_beam_alone_is_tuned_without_a_weight_of_a_model(
    speech_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate([str(speech_run), "--beam", "4", "--tune", "--output", str(tmp_path)])
    assert "Tuned on validation: --word-bonus" in capsys.readouterr().out
    tried = json.loads((tmp_path / "decoding.json").read_text(encoding="utf-8"))["tried"]
    assert {row["lm_weight"] for row in tried} == {0}


def test_a_model_of_other_words_is_refused(
    speech_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.txt").write_text("WHAT IS SAID HERE\nIS SAID ELSEWHERE\n", encoding="utf-8")
    lm = tmp_path / "other.arpa"
    ngram.main([str(tmp_path / "other.txt"), "--output", str(lm), "--order", "2"])
    said = error_of(evaluate, [str(speech_run), "--lm", str(lm), "--unit", "words"], capsys)
    assert "knows no word of the training transcripts, such as" in said
    assert not (speech_run / "evaluation").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["{audio}", "--output", "{audio}"], "is named as audio"),
        (["{audio}", "--output", "{file}/x.txt"], "can't be made, since"),
        (["{audio}", "--window", "nan"], "Pieces of nan s hold no speech"),
        (["{audio}", "--window", "0"], "Pieces of 0 s hold no speech"),
        (["{audio}", "--beam", "4", "--length-norm", "nan"], "do not fit: give numbers"),
    ],
)
def test_predict_writes_over_nothing_and_takes_only_numbers(
    options: list[str],
    sentence: str,
    speech_run: Path,
    spoken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    before = spoken.read_bytes()
    places = {"audio": spoken, "file": tmp_path / "file"}
    given = [option.format_map(places) for option in options]
    assert sentence in error_of(predict.main, [str(speech_run), *given], capsys)
    assert spoken.read_bytes() == before


def test_evaluate_refuses_a_file_for_a_folder(
    speech_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    said = error_of(evaluate, [str(speech_run), "--output", str(tmp_path / "file")], capsys)
    assert "is a file: give another --output" in said
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--lm", "nowhere.arpa"], "There is no language model nowhere.arpa"),
        (["--lm-weight", "1"], "--lm-weight belongs to a language model"),
        (["--beam", "2", "--nbest", "3"], "beam=2 and nbest=3 do not fit"),
        (["--tune"], "The best path has no weights to tune"),
    ],
)
def test_decoder_options_that_do_not_fit(
    speech_run: Path, options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in error_of(evaluate, [str(speech_run), *options, "--output", str(tmp_path)], capsys)


def test_a_beam_is_not_for_runs_that_name_sounds(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "are for runs that transcribe" in error_of(evaluate, [str(tiny_run), "--beam", "4"], capsys)


def test_predict_writes_what_the_task_says(
    speech_run: Path, spoken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict.main([str(speech_run), str(spoken)])
    task = load(speech_run)
    assert isinstance(task, CTC)
    (answer,) = task.predict(spoken)
    assert capsys.readouterr().out == f"{spoken}\t{answer.hypothesis}\n"
    samples, rate = soundfile.read(spoken, dtype="int16")
    assert task.predict(np.asarray(samples), sample_rate=rate)[0].hypothesis == answer.hypothesis


@pytest.mark.parametrize("form", ["jsonl", "srt", "vtt", "ctm", "textgrid", "text"])
def test_predict_writes_every_format_of_transcripts(
    form: str, speech_run: Path, spoken: Path, tmp_path: Path
) -> None:
    predict.main([str(speech_run), str(spoken), "--format", form, "--output", str(tmp_path / "out.txt")])
    assert (tmp_path / "out.txt").is_file()


def test_subtitles_of_each_channel_are_refused_before_the_work(
    speech_run: Path,
    spoken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, rate = soundfile.read(spoken)
    soundfile.write(tmp_path / "call.wav", np.stack([samples, samples], 1), rate)
    options = [str(speech_run), str(tmp_path / "call.wav"), "--channel", "each", "--format", "srt"]
    predict.main([*options, "--output", str(tmp_path / "subtitles")])
    assert {file.name for file in (tmp_path / "subtitles").iterdir()} == {"call#0.srt", "call#1.srt"}
    monkeypatch.setattr(predict, "transcribe", None)
    assert "makes a file for each recording, and there are 2" in error_of(predict.main, options, capsys)


def test_predict_gives_each_segment_its_n_best_list(speech_run: Path, spoken: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    options = ["--format", "jsonl", "--beam", "8", "--nbest", "3", "--output", str(output)]
    predict.main([str(speech_run), str(spoken), *options])
    (segment,) = json.loads(output.read_text(encoding="utf-8"))["segments"]
    assert segment["nbest"][0]["text"] == segment["text"]
    assert len({other["text"] for other in segment["nbest"]}) == 3
    scores = [other["score"] for other in segment["nbest"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("options", [["--events"], ["--hop", "1"], ["--format", "csv"], ["--windows"]])
def test_predict_refuses_what_belongs_to_sounds(
    options: list[str], speech_run: Path, spoken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = error_of(predict.main, [str(speech_run), str(spoken), *options], capsys)
    assert "The run transcribes speech" in sentence


def test_predict_refuses_subtitles_of_sounds(
    tiny_run: Path, spoken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = error_of(predict.main, [str(tiny_run), str(spoken), "--format", "srt"], capsys)
    assert "transcribes nothing" in sentence


@pytest.mark.slow
def test_the_doctor_learns_a_batch_by_heart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "CLIPS", 2)
    cfg = config.compose_config([*TINY_SPEECH, "network.hidden=32"])
    assert doctor.examine(cfg) <= doctor.WRONG
    assert "gradients reach" in capsys.readouterr().out


def test_the_doctor_names_what_keeps_a_batch_from_being_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "UPDATES", 2)
    cfg = config.compose_config([*TINY_SPEECH, "normalize=none", "optimizer.lr=1e-6"])
    with pytest.raises(doctor.UserError, match=r"normalize=per_feature.*optimizer.lr=1e-06"):
        doctor.examine(cfg)


def test_transcripts_too_long_for_their_audio_are_named_before_training() -> None:
    cfg = config.compose_config([*TINY_SPEECH, "frontend.hop_length=2000"])
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    task = build.task(cfg, data)
    with pytest.raises(build.UserError, match=r"train.* tokens need \d+ frames.*lower frontend.hop_length"):
        task.check(data)


def test_a_few_transcripts_too_long_for_their_audio_are_left_out() -> None:
    cfg = config.compose_config([*TINY_SPEECH, "loader.max_bad_fraction=0.2"])
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    task, tested = build.task(cfg, data), data.splits["test"]
    tested.encoded = TokenRows(np.arange(1, 203), np.array([0, 1, 200, 201, 202]), np.arange(4))
    task.check(data)
    assert [clip.id for clip, _ in data.unscorable["test"]] == [tested.clips[1].id]
    assert "its 199 tokens need 199 frames" in data.unscorable["test"][0][1]
    assert len(data.splits["test"]) == 3


def test_an_evaluation_keeps_the_vocabulary_of_the_checkpoint() -> None:
    known = {"vocabulary": fit_tokenizer([" 0123456789abcdefghijklmnopqrstuvwxyz"]).state()}
    data = build.datamodule(config.compose_config(list(TINY_SPEECH)), known)
    data.prepare_data()
    data.setup()
    assert len(data.labels) == 37
    assert data.targets.num_outputs == 38
