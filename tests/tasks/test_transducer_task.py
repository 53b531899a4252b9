"""The transducer task: what padding must not change, where it starts, times of words, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.data.info import DataInfo
from lightning_audio.data.targets import PAD
from lightning_audio.data.token_rows import TokenRows
from lightning_audio.decoding.alignment import align
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.ctc import CTC
from lightning_audio.tasks.transducer import Transducer
from lightning_audio.text.tokenizers import fit_tokenizer
from lightning_audio.training.initial import take_weights

ANSWERING: dict[str, Any] = {
    "frontend": {
        "_target_": "lightning_audio.frontend.log_mel.LogMel",
        "n_fft": 256,
        "hop_length": 80,
        "n_mels": 16,
    },
    "normalize": "per_feature",
    "network": {
        "_target_": "lightning_audio.networks.bilstm.BiLSTM",
        "channels": 4,
        "hidden": 8,
        "layers": 1,
    },
    "task": {
        "_target_": "lightning_audio.tasks.transducer.Transducer",
        "text": {"steps": ["lower", "spaces"], "tokenizer": {"kind": "characters"}},
        "width": 12,
        "predictor": {"hidden": 6},
    },
}


def info(alphabet: str) -> DataInfo:
    state = fit_tokenizer([alphabet]).state()
    return DataInfo(tuple(sorted(alphabet)), 8000, 1.0, encoding={"vocabulary": state})


def built(alphabet: str = " ab", seed: int = 0, **options: Any) -> AudioTask:
    torch.manual_seed(seed)
    return build.assemble({**ANSWERING, "task": {**ANSWERING["task"], **options}}, info(alphabet))


def transducer(**options: Any) -> Transducer:
    task = built(**options).eval()
    assert isinstance(task, Transducer)
    return task


def ctc(alphabet: str = " ab", seed: int = 1) -> AudioTask:
    torch.manual_seed(seed)
    node = {"_target_": "lightning_audio.tasks.ctc.CTC", "text": ANSWERING["task"]["text"]}
    task = build.assemble({**ANSWERING, "task": node}, info(alphabet))
    assert isinstance(task, CTC)
    return task


def noise(lengths: torch.Tensor, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    waveforms = torch.zeros(len(lengths), int(lengths.max()))
    for row, length in zip(waveforms, lengths.tolist(), strict=True):
        row[:length] = 0.1 * torch.randn(length, generator=generator)
    return waveforms


def test_the_network_is_asked_for_the_width_and_not_for_the_tokens() -> None:
    task = transducer()
    assert task.network.get_submodule("head").out_features == 12
    assert task.joiner.output.out_features == 4
    logits, lengths = task(noise(torch.tensor([8000])), torch.tensor([8000]))
    assert logits.shape == (1, int(lengths), 12)


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
@torch.no_grad()
def test_an_utterance_alone_and_among_sixteen_gives_the_same_transcript(kind: str) -> None:
    task = transducer(predictor={"kind": kind, "hidden": 6}, max_symbols=3)
    task.joiner.output.bias.zero_()  # it begins with blanks
    lengths = torch.randint(2000, 16000, (16,), generator=torch.Generator().manual_seed(1))
    waveforms = noise(lengths)
    together, frames = task.outputs(waveforms, lengths)
    rows = [row[:count] for row, count in zip(together, frames.tolist(), strict=True)]
    decoded = task.greedy.many(rows)
    beam = task.beam(beam=4)
    assert any(found[0].text for found in decoded)
    for i, length in enumerate(lengths.tolist()):
        alone, count = task.outputs(waveforms[i : i + 1, :length], lengths[i : i + 1])
        assert int(count) == int(frames[i])
        assert torch.allclose(alone[0], rows[i], atol=1e-4)
        assert task.greedy(alone[0])[0].text == decoded[i][0].text
        if i < 4:
            assert beam(alone[0])[0].text == beam(rows[i])[0].text


def test_what_stands_behind_an_utterance_changes_no_loss() -> None:
    task = transducer()
    lengths, targets = torch.tensor([9, 5]), torch.tensor([[1, 2, 3], [3, PAD, PAD]])
    logits = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(0))
    loss = float(task.loss(logits, lengths, targets))
    changed = logits.clone()
    changed[1, 5:] = 50.0
    assert float(task.loss(changed, lengths, targets)) == loss
    each = [
        float(task.loss(logits[i : i + 1, :t], lengths[i : i + 1], targets[i : i + 1, :u]))
        for i, (t, u) in enumerate([(9, 3), (5, 1)])
    ]
    assert loss == pytest.approx(sum(each) / 2, rel=1e-5)


def test_ctc_beside_it_has_its_weight_in_training_alone() -> None:
    task, plain = transducer(ctc_weight=0.3), transducer()
    logits = torch.randn(1, 9, 12, generator=torch.Generator().manual_seed(0))
    lengths, targets = torch.tensor([9]), torch.tensor([[1, 2, 3]])
    assert plain.ctc_head is None
    assert task.ctc_head is not None
    transduced = float(task.loss(logits, lengths, targets))
    log_probs = task.ctc_head(logits).log_softmax(-1).transpose(0, 1)
    aligned = (
        float(torch.nn.functional.ctc_loss(log_probs, targets, lengths, torch.tensor([3]), 0, "sum")) / 3
    )
    task.train().predictor.eval()  # without dropout
    both = float(task.loss(logits, lengths, targets))
    assert both == pytest.approx(0.7 * transduced + 0.3 * aligned, rel=1e-5)


def test_a_frame_takes_as_many_tokens_as_decoders_let_it() -> None:
    tokens = TokenRows(np.array([1, 1, 2, 3, 1]), np.array([0, 5]), np.array([0]))
    assert [transducer(max_symbols=n).frames_needed(tokens).item() for n in (1, 2, 4, 9)] == [5, 3, 2, 1]


def test_words_have_the_times_at_which_their_tokens_came_out() -> None:
    task = transducer()
    rows = torch.randn(12, 12, generator=torch.Generator().manual_seed(3))
    tokens = task.tokenizer.encode("ab b")
    spans = task.decoder.token_frames(rows, tokens, "it")
    words = align(rows, tokens, task.tokenizer, task.frame_seconds, frames_of=task.decoder.token_frames)
    assert [word.text for word in words] == ["ab", "b"]
    for word, first, last in ((words[0], 0, 1), (words[1], 3, 3)):
        assert word.start <= spans[first].start * task.frame_seconds + 0.03
        assert word.end >= spans[last].start * task.frame_seconds
    assert [span.start for span in spans] == sorted(span.start for span in spans)


def test_a_checkpoint_answers_as_the_task_did(tmp_path: Path) -> None:
    task = transducer(ctc_weight=0.2)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": task.state_dict(), "lightning_audio": task.description}, path)
    again = load(path)
    assert isinstance(again, Transducer)
    waveforms, lengths = noise(torch.tensor([8000])), torch.tensor([8000])
    rows = [one.outputs(waveforms, lengths)[0][0].detach() for one in (task, again)]
    assert torch.equal(*rows)
    assert again.beam(beam=3, nbest=3)(rows[0]) == task.beam(beam=3, nbest=3)(rows[1])


def test_it_starts_from_the_encoder_of_a_run_by_ctc(tmp_path: Path) -> None:
    other, path = ctc(), tmp_path / "last.ckpt"
    torch.save({"state_dict": other.state_dict(), "lightning_audio": other.description}, path)
    task = transducer()
    _, lines = take_weights(task, str(path))
    taken = {name for name, value in task.network.state_dict().items() if "head" not in name}
    for name in taken:
        assert torch.equal(task.network.state_dict()[name], other.network.state_dict()[name]), name
    assert f"Starts from {path}: {len(taken)} of" in lines[0]
    assert lines[1] == "  new: network.head.weight [12, 16] is [4, 16] there"


def test_what_it_knows_of_other_tokens_begins_anew(tmp_path: Path) -> None:
    other, path = built("xyz", seed=1), tmp_path / "last.ckpt"
    torch.save({"state_dict": other.state_dict(), "lightning_audio": other.description}, path)
    task = transducer()
    fresh = {name: value.clone() for name, value in task.state_dict().items()}
    take_weights(task, str(path))
    after = task.state_dict()
    for name in ("joiner.output.weight", "joiner.output.bias", "predictor.embedding.weight"):
        assert torch.equal(after[name], fresh[name]), name
    for name in ("network.head.weight", "predictor.lstm.weight_hh_l0"):
        assert torch.equal(after[name], other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"predictor": {"kind": "lstmm"}}, r"task\.predictor\.kind=lstmm is none.*lstm.*choose lstm or"),
        ({"max_symbols": 0}, r"task\.max_symbols=0"),
        ({"ctc_weight": 1.0}, r"task\.ctc_weight=1\.0"),
        (
            {"predictor": {"hiden": 3}},
            r"task\.predictor\.hiden is no option.*hidden.*kind=lstm takes hidden,",
        ),
        ({"predictor": {"kind": "stateless", "layers": 2}}, r"layers is no option: kind=stateless takes"),
    ],
)
def test_options_that_do_not_fit_are_told(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        built(**options)
