"""Checkpoints as files: digests, the one before, kills between any two renames, full disks."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from lightning_audio import io
from lightning_audio.checkpoint import load, recorded, verify
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.training import checkpoint_files
from lightning_audio.training.checkpoint_files import AtomicCheckpointIO, to_resume
from lightning_audio.training.run import train


def save(folder: Path, epoch: int, name: str = "last.ckpt", size: int = 10) -> Path:
    AtomicCheckpointIO().save_checkpoint({"epoch": epoch, "weights": torch.ones(size)}, folder / name)
    return folder / name


def epoch_of(path: Path | None) -> int:
    assert path is not None
    return torch.load(path, weights_only=True)["epoch"]


def tensors_in(node: Any) -> Iterator[torch.Tensor]:
    if isinstance(node, torch.Tensor):
        yield node
    elif isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            yield from tensors_in(child)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_digests_are_those_of_the_files_in_the_form_of_sha256sum(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save(tmp_path, epoch)
    assert (epoch_of(tmp_path / "last.ckpt"), epoch_of(tmp_path / "previous.ckpt")) == (3, 2)
    for name in ("last.ckpt", "previous.ckpt"):
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert (tmp_path / f"{name}.sha256").read_text() == f"{digest}  {name}\n"
        verify(tmp_path / name)


def test_a_kill_between_any_two_renames_leaves_a_checkpoint_that_is_known_to_be_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, renames = Path.replace, [0]

    def killed(self: Path, target: Any) -> Path:
        renames[0] -= 1
        if renames[0] < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    for before in range(6):  # renames that are made: two of each record, two of checkpoints
        folder = tmp_path / str(before)
        save(folder, 1)
        save(folder, 2)
        renames[0] = before
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                save(folder, 3)
        for name in ("last.ckpt", "previous.ckpt"):
            verify(folder / name)
        assert epoch_of(to_resume(folder)) == (3 if before == 5 else 2)
        assert not list(folder.glob("*.damaged"))
        save(folder, 4)
        assert [len(recorded(folder / name)) for name in ("last.ckpt", "previous.ckpt")] == [1, 1]


def test_without_hard_links_the_one_before_is_kept_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    for epoch in (1, 2):
        save(tmp_path, epoch)
    assert (epoch_of(tmp_path / "last.ckpt"), epoch_of(tmp_path / "previous.ckpt")) == (2, 1)
    (tmp_path / "last.ckpt").unlink()  # as after a kill between the two renames
    assert epoch_of(to_resume(tmp_path)) == 1


@pytest.mark.parametrize("with_digest", [True, False])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    with_digest: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for epoch in (1, 2):
        save(tmp_path, epoch)
    last = tmp_path / "last.ckpt"
    if with_digest:
        flip_a_byte(last)
    else:
        last.with_name("last.ckpt.sha256").unlink()
        last.write_bytes(last.read_bytes()[:-100])
    content = last.read_bytes()
    assert epoch_of(to_resume(tmp_path)) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{last} is corrupt")
    assert "resumes from previous.ckpt" in line
    assert (tmp_path / "last.ckpt.damaged").read_bytes() == content
    save(tmp_path, 2)
    assert epoch_of(tmp_path / "previous.ckpt") == 1, "a damaged one never takes its place"


def test_a_damaged_best_checkpoint_is_set_aside_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last, best = save(tmp_path, 1), save(tmp_path, 1, "best.ckpt")
    flip_a_byte(best)
    assert to_resume(tmp_path) == last
    assert f"{best} is corrupt" in capsys.readouterr().out
    assert not best.exists()
    assert (tmp_path / "best.ckpt.damaged").is_file()
    assert to_resume(tmp_path) == last
    assert not capsys.readouterr().out


def test_a_digest_that_is_no_text_counts_as_none(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    path.with_name("last.ckpt.sha256").write_bytes(b"\xff\xfe")
    assert recorded(path) == []
    assert to_resume(tmp_path) == path


def test_without_a_sound_checkpoint_nothing_is_resumed(tmp_path: Path) -> None:
    assert to_resume(tmp_path) is None
    for epoch in (1, 2):
        save(tmp_path, epoch)
    for name in ("last.ckpt", "previous.ckpt"):
        flip_a_byte(tmp_path / name)
    with pytest.raises(UserError, match=r"last\.ckpt and previous\.ckpt in .* are both corrupt"):
        to_resume(tmp_path)


def test_a_flipped_byte_is_named_by_whoever_loads_the_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, 1, "best.ckpt")
    flip_a_byte(path)
    with pytest.raises(UserError, match=r"best\.ckpt is damaged: its SHA-256 begins with [0-9a-f]{8}, and "):
        load(path)


def test_a_checkpoint_does_not_pass_through_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(FileNotFoundError):
        tempfile.gettempdir()
    assert epoch_of(save(tmp_path, 1)) == 1


def test_a_full_disk_costs_no_checkpoint(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("a file system of its own can't be mounted here")
    try:
        save(small, 1, size=50_000)
        save(small, 2, size=50_000)
        with pytest.raises(OSError, match="No space left on device") as full:
            save(small, 3, size=100_000)
        assert io.is_full(full.value)
        assert epoch_of(to_resume(small)) == 2
        assert epoch_of(small / "previous.ckpt") == 1
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_disk_that_fills_while_training_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, saved, sizes = torch.save, [], []
    monkeypatch.setattr(
        checkpoint_files, "refuse_too_little_space", lambda _, size, *more: sizes.append(size)
    )

    def full(*args: Any) -> None:
        saved.append(args)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*args)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=rf"The disk of {tmp_path} is full; .* resume with resume={tmp_path}"):
        train(compose_config([*TINY, "test=false", "callbacks=ema"]), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 0
    tensors = sum(tensor.nbytes for tensor in tensors_in(torch.load(last, weights_only=True)))
    assert sizes[0] == pytest.approx(tensors, rel=0.05), "it was known beforehand"
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_too_little_space_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 5000))
    with pytest.raises(UserError, match=r"There are 0 MB free at .*: free some space"):
        train(compose_config([*TINY, "test=false"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    sizes = {"last.ckpt": 3, "previous.ckpt": 2, "best.ckpt": 1}  # copies that are missing, and one in work
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 0, 20))
    for name, copies in sizes.items():
        checkpoint_files.refuse_too_little_space(tmp_path, 20 // (copies + 1), best=True)
        with pytest.raises(UserError):
            checkpoint_files.refuse_too_little_space(tmp_path, 20 // copies + 1, best=True)
        (tmp_path / name).touch()
    checkpoint_files.refuse_too_little_space(tmp_path, 10, best=True, beside=10)
    with pytest.raises(UserError):
        checkpoint_files.refuse_too_little_space(tmp_path, 10, best=True, beside=11)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_a_flipped_bit_is_found_without_a_record_too(place: float, tmp_path: Path) -> None:
    """By the archive's own checksums, which torch does not look at."""
    for name in ("previous.ckpt", "last.ckpt"):
        path = save(tmp_path, 1, name, size=10_000)
        path.with_name(f"{name}.sha256").unlink()
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    assert epoch_of(path) == 1, "torch reads it"
    with pytest.raises(UserError, match=r"last\.ckpt is corrupt \(CRC-32 mismatch in archive/data/0\)"):
        verify(path)
    assert to_resume(tmp_path) == tmp_path / "previous.ckpt"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("nan"), "holds NaN in 1 weights such as"),
        (float("inf"), "holds infinite weights"),
        (1j, "no weights"),
    ],
)
def test_weights_that_are_no_numbers_answer_nothing(
    value: Any, sentence: str, tiny_run: Path, tmp_path: Path
) -> None:
    state = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)
    weight = state["state_dict"]["network.head.weight"].to(torch.complex64 if value == 1j else torch.float32)
    weight[0, 0] = value
    state["state_dict"]["network.head.weight"] = weight
    torch.save(state, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=sentence):
        load(tmp_path / "bad.ckpt")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_json_holds_no_nan(value: float) -> None:
    with pytest.raises(UserError, match="A result is NaN or infinite"):
        io.to_json({"score": [0.5, value]})
