"""The CTC task: its loss against brute force, what wakes augmentation, what is refused before training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_SPEECH
from torch import Tensor

from lightning_audio import build
from lightning_audio.augment import Augment
from lightning_audio.augment.features import SpecAugment
from lightning_audio.augment.waveform import Speed
from lightning_audio.checkpoint import load
from lightning_audio.config import compose_config
from lightning_audio.data.batch import Batch
from lightning_audio.data.clip import Clip
from lightning_audio.data.info import DataInfo
from lightning_audio.data.targets import BLANK, PAD, Tokens
from lightning_audio.data.token_rows import TokenRows
from lightning_audio.errors import UserError
from lightning_audio.tasks.ctc import CTC
from lightning_audio.tasks.ctc_doctor import Symptoms, causes, on_plateau, verdict
from lightning_audio.text.tokenizers import fit_tokenizer
from lightning_audio.training.run import train

TEXT: dict[str, Any] = {"steps": ["lower", "spaces"], "tokenizer": {"kind": "characters"}}
ANSWERING = {
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
    "task": {"_target_": "lightning_audio.tasks.ctc.CTC", "text": TEXT},
}


def info(alphabet: str = " ab") -> DataInfo:
    state = fit_tokenizer([alphabet]).state()
    return DataInfo(tuple(sorted(alphabet)), 8000, 1.0, encoding={"vocabulary": state})


def task(alphabet: str = " ab", augment: Augment | None = None, **options: Any) -> CTC:
    torch.manual_seed(0)
    answering = ANSWERING | {"task": {**ANSWERING["task"], **options}}  # type: ignore[dict-item]
    built = build.assemble(answering, info(alphabet), augment)
    assert isinstance(built, CTC)
    return built


def collapsed(path: Sequence[int]) -> tuple[int, ...]:
    """What a path of outputs spells: repeats are one, blanks are none."""
    return tuple(output for output, _ in itertools.groupby(path) if output != BLANK)


def brute_force(logits: np.ndarray, target: Sequence[int]) -> float:
    """-log of the sum over all paths that spell the target, `logits` being `(T, C)`."""
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    frames, outputs = probabilities.shape
    total = 0.0
    for path in itertools.product(range(outputs), repeat=frames):
        if collapsed(path) == tuple(target):
            total += float(np.prod([probabilities[t, output] for t, output in enumerate(path)]))
    return -math.log(total)


CASES = [([1], 3), ([1, 2], 4), ([1, 1], 4), ([2, 2, 1], 5), ([3], 1), ([1, 2, 3, 1], 5)]


def batch_of(cases: Sequence[tuple[list[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits `(B, T, 4)` for targets with their frames, lengths, and padded targets."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(len(cases), max(frames for _, frames in cases), 4, generator=generator)
    targets = torch.full((len(cases), max(len(target) for target, _ in cases)), PAD)
    for row, (target, _) in zip(targets, cases, strict=True):
        row[: len(target)] = torch.tensor(target)
    return logits, torch.tensor([frames for _, frames in cases]), targets


@pytest.mark.parametrize(("target", "frames"), CASES)
def test_loss_is_that_of_all_paths(target: list[int], frames: int) -> None:
    logits, lengths, targets = batch_of([(target, frames)])
    expected = brute_force(logits[0].double().numpy(), target) / len(target)
    assert float(task().eval().loss(logits, lengths, targets)) == pytest.approx(expected, rel=1e-5)


def test_loss_of_a_batch_is_the_mean_of_its_utterances_each_by_its_tokens() -> None:
    logits, lengths, targets = batch_of(CASES)
    each = [
        brute_force(logits[i, :frames].double().numpy(), target) / len(target)
        for i, (target, frames) in enumerate(CASES)
    ]
    assert float(task().eval().loss(logits, lengths, targets)) == pytest.approx(np.mean(each), rel=1e-5)


def test_gradient_agrees_with_finite_differences() -> None:
    logits, lengths, targets = batch_of(CASES)
    logits.requires_grad_()
    built = task().eval()
    built.loss(logits, lengths, targets).backward()
    assert logits.grad is not None
    step = 1e-3

    def brute(changed: Tensor) -> float:
        return float(
            np.mean(
                [
                    brute_force(changed[i, :frames].double().numpy(), target) / len(target)
                    for i, (target, frames) in enumerate(CASES[:3])
                ]
            )
            * 3
            / len(CASES)
        )

    plain = logits.detach().double()
    for place in [(0, 0, 1), (1, 2, 2), (2, 1, 0), (2, 3, 1)]:
        above, below = plain.clone(), plain.clone()
        above[place] += step
        below[place] -= step
        assert float(logits.grad[place]) == pytest.approx(
            (brute(above) - brute(below)) / (2 * step), abs=1e-5
        )


def test_frames_behind_an_utterance_change_nothing() -> None:
    logits, lengths, targets = batch_of(CASES)
    built = task().eval()
    loss = built.loss(logits, lengths, targets)
    changed = logits.clone()
    for row, length in zip(changed, lengths.tolist(), strict=True):
        row[length:] = 50.0
    assert float(built.loss(changed, lengths, targets)) == float(loss)


def test_label_priors_take_off_the_mean_posterior() -> None:
    logits, lengths, targets = batch_of([([1, 2], 4)])
    built = task(label_prior=0.5).train()
    built.prior.copy_(torch.tensor([0.7, 0.1, 0.1, 0.1]))
    built.MEMORY = 1.0  # type: ignore[misc]  # the prior stays as it is set
    log_probs = logits[0].log_softmax(-1) - 0.5 * built.prior.log()
    total = sum(
        math.exp(float(sum(log_probs[t, output] for t, output in enumerate(path))))
        for path in itertools.product(range(4), repeat=4)
        if collapsed(path) == (1, 2)
    )
    assert float(built.loss(logits, lengths, targets)) == pytest.approx(-math.log(total) / 2, rel=1e-5)


def test_the_gradient_with_label_priors_is_the_slope_of_the_loss() -> None:
    logits, lengths, targets = batch_of([([1, 2], 4), ([3], 2)])
    built = task(label_prior=0.5).train()
    built.prior.copy_(torch.tensor([0.7, 0.1, 0.1, 0.1]))
    built.MEMORY = 1.0  # type: ignore[misc]  # the prior stays as it is set
    given = logits.clone().requires_grad_()
    built.loss(given, lengths, targets).backward()
    step, slope = 1e-2, torch.zeros_like(logits)
    for place in itertools.product(*map(range, logits.shape)):
        away = torch.zeros_like(logits)
        away[place] = step
        up, down = (float(built.loss(logits + side * away, lengths, targets)) for side in (1, -1))
        slope[place] = (up - down) / (2 * step)
    torch.testing.assert_close(given.grad, slope, rtol=0, atol=1e-3)


def test_two_copies_have_to_spell_the_same_and_to_agree_frame_by_frame() -> None:
    first, lengths, targets = batch_of(CASES)
    second = first.flip(-1)
    both = torch.cat([first, second]).requires_grad_()
    loss = task(consistency=0.5).train().loss(both, lengths.repeat(2), targets)
    spelled, apart = [], []
    for own, twin in [(first, second), (second, first)]:
        for i, (target, frames) in enumerate(CASES):
            spelled.append(brute_force(own[i, :frames].double().numpy(), target) / len(target))
            p, q = (rows[i, :frames].double().softmax(-1) for rows in (twin, own))
            apart.append(float((p * (p / q).log()).sum()) / len(target))
    assert loss.item() == pytest.approx(np.mean(spelled) + 0.5 * np.mean(apart), rel=1e-5)
    loss.backward()
    alone = first.clone().requires_grad_()  # its twin is taken as it is
    rows = zip(alone.softmax(-1), second.log_softmax(-1), lengths.tolist(), targets, strict=True)
    kept = [(q.exp() * (q - p.log()))[:length].sum() / (target != PAD).sum() for p, q, length, target in rows]
    (0.5 * torch.stack(kept).sum() + len(CASES) * task().eval().loss(alone, lengths, targets)).backward()
    assert both.grad is not None
    assert alone.grad is not None
    torch.testing.assert_close(2 * len(CASES) * both.grad[: len(CASES)], alone.grad, rtol=1e-4, atol=1e-6)


def test_copies_are_augmented_each_by_itself_in_training_alone() -> None:
    torch.manual_seed(0)
    batch = Batch(
        torch.randn(3, 8000) * 0.1, torch.tensor([8000, 6000, 4000]), torch.tensor([[1, 2]] * 3), ()
    )
    built = task(consistency=0.2, augment=Augment(features={"masks": SpecAugment()})).train()
    logits, lengths, targets = built.training_logits(batch)
    assert (len(logits), len(targets)) == (6, 3)
    assert lengths.tolist() == lengths[:3].tolist() * 2
    assert (logits[:3] - logits[3:]).abs().amax((1, 2)).min() > 0
    plain = task(consistency=0.2).train()
    plain.network.dropout.p = 0.0  # type: ignore[union-attr]
    same, lengths, _ = plain.training_logits(batch)
    torch.testing.assert_close(same[:3], same[3:])
    expected = task().train().loss(same[:3], lengths[:3], targets)
    torch.testing.assert_close(plain.loss(same, lengths, targets), expected)
    assert len(built.eval().training_logits(batch)[0]) == 3


def test_a_warp_of_time_moves_one_copy_and_not_the_other(tmp_path: Path) -> None:
    warp = "augment.features.warp={_target_: lightning_audio.augment.warp.TimeWarp}"
    policy = (
        "augment.features.some={_target_: lightning_audio.augment.policy.RandomPolicy, n: 1, transforms: "
        "{warp: {_target_: lightning_audio.augment.warp.TimeWarp}}}"
    )
    for option, name in {warp: r"warp", policy: r"some\.transforms\.warp"}.items():
        with pytest.raises(UserError, match=rf"augment\.features\.{name} moves those of each copy"):
            train(compose_config([*TINY_SPEECH, "task.consistency=0.2", f"+{option}"]), tmp_path)


def test_a_run_with_two_copies_says_so(tmp_path: Path) -> None:
    train(compose_config([*TINY_SPEECH, "task.consistency=0.2"]), tmp_path)
    assert load(tmp_path).copies == 2


@pytest.mark.parametrize(
    ("target", "frames"), [([1, 2, 3], 3), ([1, 1], 3), ([1, 1, 1], 5), ([], 0), ([1, 2, 2, 1], 5)]
)
def test_frames_needed_are_the_fewest_that_have_a_path(target: list[int], frames: int) -> None:
    def paths(length: int) -> int:
        return sum(collapsed(path) == tuple(target) for path in itertools.product(range(4), repeat=length))

    tokens = TokenRows(np.array(target, np.uint8), np.array([0, len(target)]), np.zeros(1, np.int32))
    assert [*CTC.frames_needed(None, tokens)] == [frames]  # type: ignore[arg-type]
    assert paths(frames) > 0
    assert frames == 0 or paths(frames - 1) == 0


def test_blank_rate_and_prior_follow_the_batches_within_their_lengths() -> None:
    built = task().train()
    log_probs = torch.full((2, 3, 4), -9.0)
    log_probs[0, :, BLANK] = log_probs[1, :, 2] = 0.0
    built.loss(log_probs, torch.tensor([3, 1]), torch.tensor([[1], [2]]))  # three frames blank, one not
    assert float(built.blank_rate) == pytest.approx(0.95 * 1 + 0.05 * 0.75)
    expected = 0.95 * 0.25 + 0.05 * log_probs.softmax(-1)[:, 0].mul(torch.tensor([[3.0], [1.0]])).sum(0) / 4
    assert torch.allclose(built.prior, expected, atol=1e-6)


def test_later_augmentation_waits_for_the_blank_rate() -> None:
    masks = SpecAugment(freq_masks=1, freq_width=16, p=1.0)
    augment = Augment(features={"masks": masks}, delayed=["masks"]).train()
    x, lengths = torch.randn(2, 16, 50), torch.tensor([50, 50])
    augment.started = False
    assert torch.equal(augment.features(x, lengths)[0], x)
    augment.started = True
    torch.manual_seed(0)
    assert not torch.equal(augment.features(x, lengths)[0], x)


def test_later_names_only_what_is_there_or_left_out() -> None:
    Augment(features={"masks": None}, delayed=["masks"])
    with pytest.raises(UserError, match=r"augment.delayed names 'mask'"):
        Augment(features={"masks": None}, delayed=["mask"])


def clip(name: str, text: str | None, split: str = "train") -> Clip:
    return Clip(id=name, path=f"{name}.wav", text=text, split=split)


def test_tokens_leave_output_0_to_the_blank() -> None:
    targets = Tokens((), [clip("a", "Bad a"), clip("b", "ab", "test")], TEXT)
    assert targets.labels == (" ", "a", "b", "d")
    assert targets.num_outputs == 5
    encoded = targets.encode([clip("b", "ab", "test"), clip("a", "Bad a")])
    rows, lengths = targets.gather(encoded, [1, 0])
    assert rows.tolist() == [[3, 2, 4, 1, 2], [2, 3, PAD, PAD, PAD]]
    assert lengths is not None
    assert lengths.tolist() == [5, 2]


def test_vocabulary_is_that_of_the_training_transcripts_alone() -> None:
    with pytest.raises(UserError, match=r"t1: the character 'z' of 'az'"):
        Tokens((), clips := [clip("a", "ab"), clip("t1", "az", "test")], TEXT).encode(clips)


def test_vocabulary_of_a_checkpoint_is_not_learned_anew() -> None:
    known = Tokens((), [clip("a", "abc")], TEXT).facts()
    targets = Tokens((), [clip("x", "a")], **Tokens.options({"text": TEXT}, known))
    assert targets.labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "why"), [(None, "it has no text"), ("", "it has no text"), (" ", "is empty")]
)
def test_empty_transcripts_are_refused_by_name(text: str | None, why: str) -> None:
    clips = [clip("full", "ab"), clip("hollow", text)]
    with pytest.raises(UserError, match=f"hollow: .*{why}"):
        Tokens((), clips, TEXT).encode(clips)


def test_silence_may_be_right_in_a_test() -> None:
    targets = Tokens((), [clip("a", "ab")], TEXT)
    assert [row.tolist() for row in targets.encode([clip("silent", "", "test")])] == [[]]


def test_clips_without_transcripts_are_not_for_this_task() -> None:
    with pytest.raises(UserError, match="task=classification"):
        Tokens((), [Clip(id="a", path="a.wav", labels=("dog",), split="train")], TEXT)


SOUND = Symptoms(0.99, 500, 20, 1e-3, 0.0, 1.0, False, 0.2, 0.5, 3.0)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("mean", -40.0, "normalize=per_feature"),
        ("deviation", 20.0, "normalize=per_feature"),
        ("tokens_per_frame", 0.0, "transcripts"),
        ("rising", 400, "schedule.warmup"),
        ("lr", 0.05, "optimizer.lr=0.05"),
        ("lr", 1e-6, "optimizer.lr=1e-06"),
        ("masked_early", True, "augment.delayed"),
        ("tightest", 0.95, "network.strides"),
        ("seconds", 40.0, "curriculum_epochs"),
    ],
)
def test_doctor_names_the_cause_that_fits_and_no_other(field: str, value: Any, word: str) -> None:
    found = list(causes(Symptoms(**{**SOUND.__dict__, field: value})))
    assert len(found) == 1
    assert word in found[0]


def test_doctor_sends_the_healthy_to_learn_by_heart() -> None:
    assert list(causes(SOUND)) == []
    assert "lightning-audio doctor" in verdict(SOUND)


def test_a_plateau_at_the_start_is_normal() -> None:
    assert not on_plateau(1.0, 100)
    assert on_plateau(1.0, 400)
    assert not on_plateau(0.9, 4000)


@torch.no_grad()
def test_an_utterance_alone_and_among_sixteen_gives_the_same_logits_and_transcript() -> None:
    built = task().eval()
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2000, 16000, (16,), generator=generator)
    waveforms = torch.zeros(16, int(lengths.max()))
    for row, length in zip(waveforms, lengths.tolist(), strict=True):
        row[:length] = 0.1 * torch.randn(length, generator=generator)
    together, frames = built.outputs(waveforms, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone, count = built.outputs(waveforms[i : i + 1, :length], lengths[i : i + 1])
        assert int(count) == int(frames[i])
        assert torch.allclose(alone[0], together[i, : int(count)], atol=1e-4)
        assert built.decoder(alone[0])[0].text == built.decoder(together[i, : int(count)])[0].text


def test_scores_are_of_the_corpus_and_not_a_mean_over_utterances() -> None:
    built = task().eval()
    # "a" said as "b", and "a a a a" right: 1 of 5 words, not a mean of 1 and 0.
    logits = torch.full((2, 7, 4), -9.0)
    for i, path in enumerate([[3, 0, 0, 0, 0, 0, 0], [2, 1, 2, 1, 2, 1, 2]]):
        for t, output in enumerate(path):
            logits[i, t, output] = 9.0
    targets = torch.tensor([[2] + [PAD] * 6, [2, 1, 2, 1, 2, 1, 2]])
    batch = Batch(torch.zeros(2, 8000), torch.tensor([8000, 8000]), targets, ("one", "two"))
    built.observe("val", logits, torch.tensor([7, 7]), batch)
    scores = built.summarise("val")
    assert scores["wer"] == pytest.approx(1 / 5)
    assert scores["cer"] == pytest.approx(1 / 8)
    assert scores["blank_rate"] == pytest.approx((6 / 7 + 0) / 2)


def test_utterances_that_no_loss_can_take_count_as_wrong_in_the_score() -> None:
    """Two words are heard right; of the others one stands in no vocabulary, and two have no frames."""
    built = task().eval()
    logits = torch.full((1, 3, 4), -9.0)
    for t, output in enumerate([2, 1, 3]):
        logits[0, t, output] = 9.0  # "a b"
    batch = Batch(torch.zeros(1, 8000), torch.tensor([8000]), torch.tensor([[2, 1, 3]]), ("heard",))
    left_out = [
        (Clip("unknown", "u.wav", text="zzz", group="theo", fold=2), "the character 'z' of 'zzz' is new"),
        (Clip("short", "s.wav", text="a  A"), "its 3 tokens need 4 frames, and it has 2"),
        (Clip("silent", "n.wav", text=None), "it has no text"),
    ]
    data = SimpleNamespace(unscorable={"val": [], "test": left_out})
    built._trainer = SimpleNamespace(world_size=1, datamodule=data)  # type: ignore[assignment]
    built.observe("test", logits, torch.tensor([3]), batch)
    scores = built.summarise("test")
    assert scores["wer"] == pytest.approx(3 / 5)
    assert scores["sentence_error_rate"] == pytest.approx(2 / 3)
    assert scores["blank_rate"] == 0
    rows = {row["id"]: row for row in built.rows}
    assert sorted(rows) == ["heard", "short", "unknown"]
    assert (rows["unknown"]["hypothesis"], rows["unknown"]["group"]) == ("", "theo")
    assert rows["short"]["problem"] == "its 3 tokens need 4 frames, and it has 2"
    assert built.scores([Clip("heard", "h.wav", text="a b")])["wer"].n == 5
    built.observe("val", logits, torch.tensor([3]), batch)
    assert built.summarise("val")["wer"] == 0


def test_frame_seconds_are_those_of_front_end_and_network() -> None:
    assert task().frame_seconds == pytest.approx(4 * 80 / 8000)


def test_speed_shortens_what_targets_must_fit_into() -> None:
    assert Augment(waveform=[Speed(0.9, 1.25)]).fastest == 1.25
    assert Augment(waveform=[Speed(0.9, 1.25, keep_length=True)]).fastest == 1.0


def test_a_checkpoint_keeps_vocabulary_and_transcripts(tmp_path: Path) -> None:
    built = task("abc ").eval()
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": built.state_dict(), "lightning_audio": built.description}, path)
    again = load(path)
    assert isinstance(again, CTC)
    waveforms = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    expected, lengths = built.outputs(waveforms, torch.tensor([8000]))
    got, _ = again.outputs(waveforms, torch.tensor([8000]))
    assert torch.equal(got, expected)
    assert again.tokenizer.vocabulary == tuple(" abc")
    assert int(lengths) == 26
