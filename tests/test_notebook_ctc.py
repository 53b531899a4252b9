"""The notebooks of CTC by hand and of error analysis run, and show what they say they show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_notebook import execute, printed, rows_of, shown, started


def numbers(text: str, pattern: str) -> list[float]:
    """The groups of the first match as numbers."""
    found = re.search(pattern, text)
    assert found, text
    return [float(group) for group in found.groups()]


def test_the_forward_backward_is_that_of_all_paths_and_its_gradient_that_of_torch(tmp_path: Path) -> None:
    with started("04_ctc_by_hand", tmp_path, "") as client:
        cells = execute(client)
    # U different tokens in T frames: (T + U) over (T - U) paths, here 8 over 4.
    assert "70 of 729 paths" in printed(cells["paths"])
    by_trying, by_alpha = numbers(printed(cells["alpha"]), r"by trying (\S+), by alpha (\S+)")
    assert by_trying == by_alpha < 0
    in_frames = printed(cells["beta"]).split(":")[1].split()
    assert len(in_frames) == 6
    assert len({*in_frames}) == 1
    lines = printed(cells["lost"]).splitlines()
    assert "does not require grad" in lines[0]
    assert "inplace operation" in lines[1]
    assert "gradient of norm" in lines[2]
    assert len({re.search(r"loss (\S+),", line)[1] for line in lines}) == 1  # type: ignore[index]
    table = rows_of(shown(cells["gradient"], "text/markdown")[0].partition("\n\n")[2])
    assert [row[0] for row in table] == ["by hand", "autograd", "torch", "differences"]
    assert max(float(cell) for row in table for cell in row[1:]) < 1e-8
    first, last, rate = numbers(printed(cells["learn"]), r"from update (\d+) to (\d+), (\d+)% at the end")
    assert last - first > 40
    assert rate < 80
    assert numbers(printed(cells["learn"]), r"(\d+) of 128 utterances")[0] > 120
    assert [len(shown(cells[name], "image/png")) for name in ("beta", "left")] == [1, 2]


@pytest.mark.long
def test_errors_are_analysed_on_validation(tmp_path: Path) -> None:
    tiny = "data.val_utterances=40 report=null"
    with started("05_error_analysis", tmp_path, tiny) as client:
        cells = execute(client)
    wer, low, high, words, utterances = numbers(
        printed(cells["dev"]), r"WER (\S+)% \((\S+)% to (\S+)%\) of (\d+) words in (\d+) utterances"
    )
    assert low <= wer <= high
    assert 0 < wer < 90  # there is something to look at, and something was learned
    assert utterances == 40
    (table,) = shown(cells["dev"], "text/markdown")
    assert [row[0] for row in rows_of(table)] == ["words", "characters", "utterances"]
    assert int(rows_of(table)[0][1]) == words
    assert "REF" in printed(cells["align"])
    assert sum("data:audio" in text for text in shown(cells["align"], "text/html")) == 2
    errors = sum(numbers(printed(cells["next"]), r"(\d+) substitutions, (\d+) deletions, (\d+) insertions"))
    assert errors == pytest.approx(wer / 100 * words, abs=0.01 * words)
    assert len(shown(cells["confusions"], "image/png")) == 1
    assert "have no groups" in printed(cells["groups"])
    assert len(rows_of(shown(cells["groups"], "text/markdown")[0])) == 3 * 4
    assert "model errors" in printed(cells["sources"])


def test_the_lattice_of_a_transducer_and_three_heads_of_one_encoder(tmp_path: Path) -> None:
    with started("06_transducer_and_attention", tmp_path, "") as client:
        cells = execute(client)
    assert printed(cells["lattice"]).startswith("35 paths say 3 tokens in 5 frames")  # 7 over 3
    trying, alpha, theirs = numbers(
        printed(cells["lattice"]), r"by trying (\S+), by alpha (\S+), by torchaudio (\S+)"
    )
    assert trying == alpha == pytest.approx(theirs, abs=1e-4)
    table = rows_of(shown(cells["differs"], "text/markdown")[0].partition("\n\n")[2])
    assert table[0] == ["4", "2", "15", "10", "1"]  # 6 over 2; 5 over 2
    assert table[2][2] == "0"  # CTC says no more tokens than there are frames
    ctc, transducer, attention = (int(n) for n in re.findall(r": (\d+)", printed(cells["read"])))
    assert min(ctc, attention) > 24
    assert transducer > 8  # which learns last
    assert [len(shown(cells[name], "image/png")) for name in ("learn", "pictures")] == [1, 2]
    frames = [[int(n) for n in re.findall(r"\d+", line)] for line in printed(cells["pictures"]).splitlines()]
    assert all(line == sorted(line) and len(set(line)) == len(line) for line in frames)
    assert len(frames[0]) == len(frames[1])
    assert printed(cells["real"]).strip() == "No run is given."
