"""`card`: a folder that answers as its run does, with what a reader has to know; nothing overwritten."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import sine, write_wav

import lightning_audio
from lightning_audio.checkpoint import DESCRIPTION, PUBLISHED
from lightning_audio.cli.card import main
from lightning_audio.errors import UserError
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports.results import read_metrics, score_text


@pytest.fixture(scope="module")
def folder(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program makes of the tiny run."""
    folder = tmp_path_factory.mktemp("card") / "model"
    main([str(tiny_run), str(folder), "--licence", "cc-by-4.0"])
    return folder


def sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_folder_answers_as_the_run_does(folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    run, copy = lightning_audio.load(tiny_run), lightning_audio.load(folder)
    assert copy.labels == run.labels
    for name, weight in run.state_dict().items():
        assert torch.equal(copy.state_dict()[name], weight), name
    rng = np.random.default_rng(0)
    files = [write_wav(tmp_path / f"{n}.wav", 0.1 * rng.normal(size=9000 * n), 16000) for n in (1, 3)]
    assert run.predict([*files]) == copy.predict([*files])


def test_speech_is_read_back_with_its_words(speech_run: Path, tmp_path: Path) -> None:
    main([str(speech_run), str(tmp_path / "model")])
    file = write_wav(tmp_path / "a.wav", sine(700, 1.0, 8000), 8000)
    run, copy = lightning_audio.load(speech_run), lightning_audio.load(tmp_path / "model")
    assert run.predict(file) == copy.predict(file)
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "automatic-speech-recognition"
    assert "not stated: nobody may use them" in text


def test_the_card_has_the_scores_with_their_intervals(folder: Path, tiny_run: Path) -> None:
    text, metrics = (folder / "README.md").read_text(encoding="utf-8"), read_metrics(tiny_run)
    head = yaml.safe_load(text.split("---")[1])
    assert (head["license"], head["pipeline_tag"]) == ("cc-by-4.0", "audio-classification")
    told = {row["type"]: row["value"] for row in head["model-index"][0]["results"][0]["metrics"]}
    tests = {n.partition("/")[2]: s for n, s in metrics["scores"].items() if n.startswith("test/")}
    assert told == {name: pytest.approx(score["value"], abs=1e-6) for name, score in tests.items()}
    for name, score in tests.items():
        assert f"| test | {name} | {score_text(name, Score(**score))} | {score['n']} |" in text
    assert f"hash {metrics['data']['hash']}" in text
    assert "Fold 1 of 5 is the test" in text
    assert "the last epoch counts" in text
    assert "tested on 20 clips" in text
    assert "made by this project" in text
    assert all(label in text for label in metrics["data"]["labels"])


def test_what_is_there_is_not_overwritten(
    folder: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for place in (folder, tmp_path, tmp_path / "notes.txt"):
        assert "nothing in it is overwritten" in sentence([str(tiny_run), str(place)], capsys)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    assert "There is no" in sentence([str(tmp_path), str(tmp_path / "new")], capsys)
    assert not (tmp_path / "new").exists()


def test_damage_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    weights, described = (folder / PUBLISHED).read_bytes(), (folder / DESCRIPTION).read_text()
    (tmp_path / PUBLISHED).write_bytes(weights)
    with pytest.raises(UserError, match=r"no config\.json beside"):
        lightning_audio.load(tmp_path)
    (tmp_path / DESCRIPTION).write_text(described)
    (tmp_path / PUBLISHED).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(UserError, match="SHA-256 mismatch"):
        lightning_audio.load(tmp_path)
    (tmp_path / PUBLISHED).write_bytes(weights)
    evil = json.loads(described)
    evil["config"]["network"]["_target_"] = "os.system"
    (tmp_path / DESCRIPTION).write_text(json.dumps(evil))
    with pytest.raises(UserError, match=r"wants to build os\.system"):
        lightning_audio.load(tmp_path)


def test_nothing_is_published_without_a_login(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    class Client:
        def create_repo(self, name: str, **options: Any) -> None:
            asked.append((name, options))

        def upload_folder(self, repo_id: str, folder_path: str) -> str:
            asked.append(sorted(file.name for file in Path(folder_path).iterdir()))
            return f"hub/{repo_id}"

    hub = SimpleNamespace(get_token=lambda: None, HfApi=Client)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    command = [str(tiny_run), str(tmp_path / "model"), "--push", "me/demo"]
    assert "run `hf auth login` first" in sentence(command, capsys)
    assert not (tmp_path / "model").exists()
    assert asked == []
    hub.get_token = lambda: "a token"
    main(command)
    assert asked == [
        ("me/demo", {"private": True, "exist_ok": True}),
        ["README.md", DESCRIPTION, PUBLISHED],
    ]
    assert "Published: hub/me/demo" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    other = [str(tiny_run), str(tmp_path / "other"), "--push", "me/demo"]
    assert "pip install 'lightning-audio[hub]'" in sentence(other, capsys)
