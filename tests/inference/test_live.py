"""Speech on a stream: tokens and text of the whole, whatever it is cut into, and when they are final."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import sine, write_wav
from torch import nn

from lightning_audio import build
from lightning_audio.cli import predict
from lightning_audio.data.batch import samples_to_float
from lightning_audio.data.info import DataInfo
from lightning_audio.decoding import Greedy
from lightning_audio.decoding.alignment import align
from lightning_audio.errors import UserError
from lightning_audio.inference.live import LiveText, LiveWord
from lightning_audio.inference.stream import Stream
from lightning_audio.inference.transcribe import transcribe
from lightning_audio.tasks.transcription import Transcription
from lightning_audio.tasks.transducer import Transducer
from lightning_audio.text.tokenizers import BPE, Characters, Tokenizer, Words, fit_tokenizer

RATE = 8000
FRONTEND = {"n_fft": 256, "hop_length": 80, "n_mels": 16, "top_db": None}
NETWORKS: dict[str, dict[str, Any]] = {
    "bilstm": {"channels": 4, "hidden": 8, "layers": 2, "chunk": 4},
    "conformer": {"channels": 4, "width": 16, "heads": 2, "feedforward": 16, "layers": 2, "chunk": 4},
}
TASKS: dict[str, dict[str, Any]] = {
    "ctc": {},
    "transducer": {"width": 12, "predictor": {"hidden": 6}, "max_symbols": 3},
    "attention": {
        "width": 12,
        "decoder": {"_target_": "lightning_audio.tasks.decoders.LSTMDecoder", "_partial_": True, "hidden": 8},
    },
}
CLASSES = {"bilstm": "BiLSTM", "conformer": "Conformer", "ctc": "CTC"}


def task_of(
    network: str = "bilstm", task: str = "ctc", normalize: str = "per_feature", **options: Any
) -> Any:
    torch.manual_seed(1)
    own = f"lightning_audio.networks.{network}.{CLASSES[network]}"
    kind = f"lightning_audio.tasks.{task}.{CLASSES.get(task, task.title())}"
    text = {"steps": ["lower", "spaces"], "tokenizer": {"kind": "characters"}}
    answering = {
        "frontend": {"_target_": "lightning_audio.frontend.log_mel.LogMel", **FRONTEND},
        "normalize": normalize,
        "network": {"_target_": own, **NETWORKS[network], **options},
        "task": {"_target_": kind, "text": text, **TASKS[task]},
    }
    state = fit_tokenizer([" abcde"]).state()
    built = build.assemble(answering, DataInfo(tuple(" abcde"), RATE, 1.0, encoding={"vocabulary": state}))
    built.normalize.mean.normal_(-30, 5)
    built.normalize.std.uniform_(10, 20)
    with torch.no_grad():  # so that it says something, and not the same all the time
        waveform = samples_to_float(torch.from_numpy(audio())[None])
        x, counts = built.normalize(*built.frontend(waveform, torch.tensor([waveform.shape[1]])))
        head = cast(nn.Linear, built.network.head)
        logits = built.eval().network(x, counts)[0][0]
        head.weight.mul_(3 / logits.std(0)[:, None])
        head.bias.copy_(3 * (head.bias - logits.mean(0)) / logits.std(0))
        if task == "transducer":
            cast(Transducer, built).joiner.output.weight.mul_(3)
    return built


def audio(seconds: float = 6.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    swell = np.sin(np.arange(round(seconds * RATE)) / 900).clip(0) ** 2
    return (rng.normal(0, 0.2, len(swell)) * swell * 32767).clip(-32767, 32767).astype(np.int16)


def pushed(text: LiveText, samples: np.ndarray, size: int) -> list[LiveWord]:
    found = [
        one for start in range(0, len(samples), size) for one in text.push(samples[start : start + size])
    ]
    return [*found, *text.finish()]


def text_of(news: list[LiveWord]) -> str:
    return "".join(("" if one.joins else " ") + one.word.text for one in news if one.final).strip()


@pytest.mark.parametrize("task", ["ctc", "transducer"])
@pytest.mark.parametrize("network", NETWORKS)
def test_streamed_rows_and_words_are_those_of_the_whole(network: str, task: str) -> None:
    built, samples = task_of(network, task), audio()
    assert isinstance(built, Transcription)
    (rows,) = built.frame_outputs([samples])
    stream = Stream(built)
    found = torch.cat([*(stream.push(piece) for piece in np.array_split(samples, 37)), stream.finish()])
    torch.testing.assert_close(found, torch.from_numpy(rows), rtol=0, atol=1e-4)
    best = built.decoder(rows)[0]
    words = align(
        rows, best.tokens, built.tokenizer, built.frame_seconds, frames_of=built.decoder.token_frames
    )
    assert len(best.tokens) > 10
    text = LiveText(built, pause=1e9)
    for size in (160, 1111, len(samples)):
        news = pushed(text, samples, size)
        assert text_of(news) == " ".join(word.text for word in words)
        finals = [one.word for one in news if one.final]
        # Greedy frames are not always those of the best path of all.
        assert np.median([abs(a.start - b.start) for a, b in zip(finals, words, strict=True)]) < 0.05
        assert [one.heard for one in news] == sorted(one.heard for one in news)
    # Pauses end words sooner, and change nothing of what is said.
    assert text_of(pushed(LiveText(built, pause=0.04), samples, 160)) == " ".join(w.text for w in words)


class Planted:
    """A task whose stream says what was planted: samples are outputs, a frame each."""

    sample_rate = 25

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.decoder = tokenizer, Greedy(tokenizer)

    def stream(self) -> Any:
        outputs = len(self.tokenizer.vocabulary) + 1

        class Rows:
            frame_seconds = 0.04

            def push(self, samples: np.ndarray, sample_rate: int | None = None) -> torch.Tensor:
                rows = torch.full((len(samples), outputs), 0.1 / (outputs - 1))
                rows[torch.arange(len(samples)), torch.from_numpy(samples.astype(int))] = 0.9
                return rows.log()

            def finish(self) -> torch.Tensor:
                return torch.zeros(0, outputs)

        return Rows()


def planted(tokenizer: Tokenizer, path: list[int], pause: float) -> list[str]:
    """The news of each frame that has any: partial words with a dot, joined ones with a dash."""
    task: Any = Planted(tokenizer)
    text, told = LiveText(task, pause), []
    for frame, output in enumerate([*path, None]):
        news = text.finish() if output is None else text.push(np.array([output], np.int16))
        if news:
            words = [f"{'-' * one.joins}{one.word.text}{'.' * (not one.final)}" for one in news]
            told.append(f"{frame} {' '.join(words)}")
    return told


def test_a_word_is_final_with_the_next_one_a_pause_or_the_end() -> None:
    letters = Characters(" ab")  # outputs 1, 2, 3
    path = [0, 2, 2, 0, 3, 1, 1, 3, 0, 0, 2, 0, 0, 0, 0, 3, 3]
    expected = ["1 a.", "4 ab.", "5 ab", "7 b.", "10 ba."]
    assert planted(letters, path, 1.0) == [*expected, "15 bab.", "17 bab"]
    # Three frames without a token end a word; what comes then without a space still belongs to it.
    assert planted(letters, path, 0.12) == [*expected, "13 ba", "15 -b.", "17 -b"]


def test_tokens_that_begin_words_end_the_one_before() -> None:
    tokenizer = BPE(["▁", "a", "b", "▁a"], [("▁", "a")])  # outputs 1 to 4
    path = [4, 3, 0, 4, 0, 1, 2, 0, 1, 0, 0, 0, 0, 3]
    assert planted(tokenizer, path, 9.0) == [
        "0 a.", "1 ab.", "3 ab a.", "5 a", "6 a.", "8 a", "13 b.", "14 b",
    ]  # fmt: skip


def test_a_word_that_is_one_token_is_final_at_once() -> None:
    words = Words(["▁one", "▁two"])  # outputs 1 and 2
    assert planted(words, [0, 1, 1, 0, 2, 0, 1, 0, 1], 9.0) == ["1 one", "4 two", "6 one", "8 one"]


def test_times_are_those_of_the_frames() -> None:
    task: Any = Planted(Characters(" ab"))
    text = LiveText(task)
    path = np.array([0] * 10 + [2, 2, 1] + [0] * 20 + [3] + [0] * 10, np.int16)
    first, second = (one for one in [*text.push(path), *text.finish()] if one.final)
    assert (first.word.start, first.word.end) == pytest.approx((0.365, 0.535))  # moved, widened
    assert (second.word.start, second.word.end) == pytest.approx((1.285, 1.415))
    assert first.heard == second.heard == pytest.approx(44 / 25)
    assert first.word.score == pytest.approx(0.9)


def test_words_are_named_as_their_corpus_scores_them() -> None:
    """As phones of TIMIT, 48 of which are learned and 39 are scored."""
    built, samples = task_of(), audio()
    (plain,) = transcribe(built, [("a", samples)], 10.0)
    names = list(dict.fromkeys(word.text for word in plain.words))
    known = {name: str(i) for i, name in enumerate(names)} | {names[0]: ""}
    built.info = replace(built.info, encoding={**built.info.encoding, "scored_as": known})
    (scored,) = transcribe(built, [("a", samples)], 10.0)
    expected = [known[word.text] for word in plain.words if known[word.text]]
    assert len(set(expected)) > 1
    assert [word.text for word in scored.words] == expected
    assert scored.text == scored.nbest[0][0].text == " ".join(expected)
    times = [(word.start, word.end) for word in plain.words if known[word.text]]
    assert [(word.start, word.end) for word in scored.words] == times
    news = pushed(LiveText(built, pause=1e9), samples, 800)
    assert text_of(news) == " ".join(expected)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = task_of()
    path = tmp_path_factory.mktemp("run") / "streaming.ckpt"
    torch.save({"state_dict": task.state_dict(), "lightning_audio": task.description}, path)
    return path


def test_predict_prints_the_words_of_raw_audio(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = audio(3.0)
    (tmp_path / "a.raw").write_bytes(samples.astype("<i2").tobytes())
    predict.main([str(run), "--stream", str(tmp_path / "a.raw"), "--format", "jsonl"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    write_wav(tmp_path / "a.wav", samples, RATE)
    predict.main([str(run), str(tmp_path / "a.wav"), "--window", "10"])
    whole = capsys.readouterr().out.strip().rpartition("\t")[2]
    finals = [row for row in rows if row["final"]]
    assert "".join(("" if row.get("joins") else " ") + row["text"] for row in finals).strip() == whole
    assert {tuple(row)[:6] for row in rows} == {("heard", "final", "text", "start", "end", "score")}
    assert any(not row["final"] for row in rows)
    predict.main([str(run), "--stream", str(tmp_path / "a.raw")])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in lines] == ["final" if row["final"] else "partial" for row in rows]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--beam", "4"], "on a stream take a run of task=ctc or task=transducer, without --beam"),
        (["--on", "0.7"], "--on is not for streams of speech"),
        (["--window", "3"], "--window is of whole recordings"),
        (["--events"], "--stream prints line by line"),
        (["--format", "srt"], "--stream prints line by line"),
    ],
)
def test_what_does_not_fit_a_stream_is_one_sentence(
    options: list[str], sentence: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.raw").write_bytes(audio(0.5).tobytes())
    with pytest.raises(SystemExit) as ended:
        predict.main([str(run), "--stream", str(tmp_path / "a.raw"), *options])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"chunk": None}, "The network BiLSTM needs the whole recording.*network=bilstm network.chunk=8"),
        ({"normalize": "per_clip"}, "normalize=per_clip measures the whole recording"),
        ({"task": "attention"}, "hears an utterance to its end before it decides"),
    ],
)
def test_what_needs_the_whole_recording_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LiveText(task_of(**options))


def test_a_stream_at_another_rate_is_one_sentence() -> None:
    with pytest.raises(UserError, match="has 16000 samples a second and the run hears 8000"):
        LiveText(task_of()).push(sine(440, 0.1, 16000), 16000)
