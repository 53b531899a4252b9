"""The attention task: its losses by hand, sampled inputs, padding, checkpoints, what it tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.data.batch import Batch
from lightning_audio.data.info import DataInfo
from lightning_audio.data.targets import PAD
from lightning_audio.data.token_rows import TokenRows
from lightning_audio.decoding import Hypothesis
from lightning_audio.errors import UserError
from lightning_audio.tasks.attention import Attention
from lightning_audio.tasks.finetuning import FineTuning
from lightning_audio.text.tokenizers import fit_tokenizer

DECODERS = ["LSTMDecoder", "TransformerDecoder"]
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
        "_target_": "lightning_audio.tasks.attention.Attention",
        "text": {"steps": ["lower", "spaces"], "tokenizer": {"kind": "characters"}},
        "width": 12,
    },
}


def task(decoder: str = "LSTMDecoder", **options: Any) -> Attention:
    torch.manual_seed(0)
    state = fit_tokenizer([" ab"]).state()
    info = DataInfo((" ", "a", "b"), 8000, 1.0, encoding={"vocabulary": state})
    own = {
        "_target_": f"lightning_audio.tasks.decoders.{decoder}",
        "_partial_": True,
        "hidden": 8,
        "heads": 2,
        "dropout": 0.0,
    }
    built = build.assemble(ANSWERING | {"task": {**ANSWERING["task"], "decoder": own, **options}}, info)
    assert isinstance(built, Attention)
    return built


def states_and_targets() -> tuple[Tensor, Tensor, Tensor]:
    """Of utterances of 2 and 3 tokens in 9 and 6 frames."""
    logits = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(1))
    return logits, torch.tensor([9, 6]), torch.tensor([[2, 1, PAD], [3, 2, 3]])


def noises(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2000, 12000, (count,), generator=generator)
    waveforms = torch.zeros(count, int(lengths.max()))
    for row, length in zip(waveforms, lengths.tolist(), strict=True):
        row[:length] = 0.1 * torch.randn(length, generator=generator)
    return waveforms, lengths


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_loss_is_that_of_its_parts(decoder: str) -> None:
    built = task(decoder, ctc_weight=0.25).eval()
    logits, lengths, targets = states_and_targets()
    expected = 0.0
    for row, length, target in zip(logits, lengths.tolist(), ([2, 1], [3, 2, 3]), strict=True):
        rows = built.decodable(row[None, :length])[0]
        logits_of, _ = built.speller(rows[None, :, 4:], torch.tensor([length]), torch.tensor([[0, *target]]))
        attention = functional.cross_entropy(logits_of[0], torch.tensor([*target, 0]))
        ctc = functional.ctc_loss(
            rows[:, :4],
            torch.tensor(target),
            torch.tensor(length),
            torch.tensor(len(target)),
            reduction="sum",
        )
        expected += (0.75 * attention + 0.25 * ctc / len(target)).item() / 2
    assert float(built.loss(logits, lengths, targets)) == pytest.approx(expected, rel=1e-5)
    changed = logits.clone()
    changed[1, 6:] = 50.0
    assert float(built.loss(changed, lengths, targets)) == pytest.approx(expected, rel=1e-5)


def test_labels_are_smoothed_in_training_alone() -> None:
    smooth, plain = task(label_smoothing=0.4, ctc_weight=0.0), task(label_smoothing=0.0, ctc_weight=0.0)
    parts = states_and_targets()
    assert float(smooth.eval().loss(*parts)) == float(plain.eval().loss(*parts))
    assert float(smooth.train().loss(*parts)) != float(plain.train().loss(*parts))


def test_the_share_of_guessed_inputs_rises_to_what_was_asked_for() -> None:
    built = task(scheduled_sampling=1.0, ctc_weight=0.0).train()
    logits, lengths, targets = states_and_targets()
    seen: list[Tensor] = []
    built.speller.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    built.augment.progress = 0.0
    built.loss(logits, lengths, targets)
    assert [one.tolist() for one in seen] == [[[0, 2, 1, 0], [0, 3, 2, 3]]]
    seen.clear()
    built.augment.progress = 1.0
    built.loss(logits, lengths, targets)
    with torch.no_grad():
        guessed = built.speller(built.norm(logits), lengths, seen[0])[0].argmax(-1)
    assert seen[1][:, 0].tolist() == [0, 0]
    assert torch.equal(seen[1][:, 1:], guessed[:, :-1])
    built.eval()
    seen.clear()
    built.loss(logits, lengths, targets)
    assert len(seen) == 1


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
@torch.no_grad()
def test_an_utterance_alone_and_among_others_gives_the_same_transcript(
    decoder: str, ctc_weight: float
) -> None:
    built = task(decoder, ctc_weight=ctc_weight).eval()
    waveforms, lengths = noises()
    together, frames = built.outputs(waveforms, lengths)
    several = built.decoder.many([row[:count] for row, count in zip(together, frames.tolist(), strict=True)])
    for i, length in enumerate(lengths.tolist()):
        alone, count = built.outputs(waveforms[i : i + 1, :length], lengths[i : i + 1])
        assert int(count) == int(frames[i])
        torch.testing.assert_close(alone[0], together[i, : int(count)], rtol=1e-4, atol=1e-4)
        one = built.decoder(alone[0])[0]
        assert one.text == several[i][0].text
        assert one.score == pytest.approx(several[i][0].score, abs=1e-3)
    (answer,) = built.predict(waveforms[0, : int(lengths[0])].numpy(), sample_rate=8000)
    assert answer.hypothesis == several[0][0].text.strip()


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_checkpoint_keeps_decoder_and_transcripts(decoder: str, tmp_path: Path) -> None:
    built = task(decoder).eval()
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": built.state_dict(), "lightning_audio": built.description}, path)
    again = load(path)
    assert isinstance(again, Attention)
    waveforms, lengths = noises(1)
    expected, got = (one.decoder(one.outputs(waveforms, lengths)[0][0]) for one in (built, again))
    assert [one.tokens for one in expected] == [one.tokens for one in got]


def test_rows_tell_of_loops_and_of_no_end_and_the_worst_get_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = task(ctc_weight=0.0).eval()
    built.info = replace(built.info, encoding={**built.info.encoding, "scored_as": {"a" * 12: "c"}})
    logits = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0))
    lengths, targets = torch.tensor([12, 9]), torch.tensor([[2, 1, 2], [3, PAD, PAD]])
    batch = Batch(torch.zeros(2, 8000), torch.tensor([8000, 6000]), targets, ("a/1", "b"))
    said = {12: Hypothesis((1,) * 12, "a" * 12, -3.0, -3.0), 9: Hypothesis((2,), "b", -1.0, -1.0)}
    monkeypatch.setattr(built.decoder, "many", lambda rows: [[said[len(one)]] for one in rows])
    monkeypatch.setattr(built.greedy, "loops", lambda rows, tokens: len(tokens) > 3)
    built.observe("test", logits, lengths, batch)
    found = built.summarise("test")
    assert (found["loops"], found["unended"]) == (0.5, 0.5)
    assert {row["id"]: (row["loops"], row["unended"]) for row in built.rows} == {"a/1": (1, 1), "b": (0, 0)}
    assert list(built.figures()) == ["attention/a/1"]
    built.observe("test", logits, lengths, batch)  # once more, as for eight bits beside the run
    assert list(built.figures()) == ["attention/a/1"]
    built.report(tmp_path, [])
    assert [file.name for file in (tmp_path / "attention").iterdir()] == ["a_1.png"]


def test_log_probabilities_by_ctc_are_not_rounded_to_half_precision() -> None:
    built, (logits, _, _) = task().eval(), states_and_targets()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        sums = built.decodable(logits)[..., : len(built.labels) + 1].logsumexp(-1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-5)


def test_an_utterance_must_have_room_for_its_tokens_and_their_end() -> None:
    joint, alone = task(), task(ctc_weight=0.0)
    tokens = TokenRows(np.array([1, 1, 2, 1, 1, 1]), np.array([0, 3, 6]), np.array([0, 1]))
    assert [*joint.frames_needed(tokens)] == [4, 5]
    assert [*alone.frames_needed(tokens)] == [4, 4]


def test_delayed_augmentation_waits_for_the_tokens_that_are_wrong() -> None:
    built = task(start_below_error=0.5, ctc_weight=0.0).train()
    logits, lengths, targets = states_and_targets()
    built.loss(logits, lengths, targets)
    assert built._token_error is not None
    assert 0.9 < built._token_error.read() <= 1.0
    built.token_error.fill_(0.4)
    built._token_error = None
    batch = Batch(*noises(2), targets=torch.tensor([[2], [3]]), ids=("a", "b"))
    built.augment.started = False
    built.training_logits(batch)
    assert built.augment.started


def test_the_decoder_belongs_to_the_head_of_the_network() -> None:
    built = task()
    stages = built.learned()[1]
    assert list(stages) == list(built.network.named_stages())
    found = {id(p) for part in stages["head"] for p in part.parameters()}
    assert found >= {id(p) for part in (built.speller, built.ctc, built.norm) for p in part.parameters()}  # type: ignore[union-attr]
    finetuning = FineTuning(*built.learned(), unfreeze=2)
    finetuning.start_epoch(0)
    frozen = [name for name, p in built.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("network.") and not name.startswith("network.head") for name in frozen)


def test_ctc_alone_is_another_task() -> None:
    with pytest.raises(UserError, match=r"task\.ctc_weight=1\.0 is no share below 1.*task=ctc"):
        task(ctc_weight=1.0)


def test_a_network_of_one_answer_is_refused() -> None:
    network = {"_target_": "lightning_audio.networks.gru.GRU"}
    state = fit_tokenizer(["ab"]).state()
    info = DataInfo(("a", "b"), 8000, 1.0, encoding={"vocabulary": state})
    own = {"_target_": "lightning_audio.tasks.decoders.LSTMDecoder", "_partial_": True}
    answering = ANSWERING | {"network": network, "task": {**ANSWERING["task"], "decoder": own}}
    with pytest.raises(UserError, match="task=attention wants one for every frame"):
        build.assemble(answering, info)
