"""A sweep's study: every trial is trained to its end once, whatever happens to its processes."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from processes import start

from lightning_audio.errors import UserError
from lightning_audio.training.search_space import Dimension, from_override, override, read_space

optuna = pytest.importorskip("optuna", reason="the extra sweep is not installed")

from lightning_audio.training.study import JOURNAL, STARTS, Claim, Plan, Study  # noqa: E402

OWN = OmegaConf.create({"optimizer": {"lr": 2e-3, "weight_decay": 0.0}})
SPACE = (
    Dimension("lr", 1e-4, 1e-1, log=True),
    Dimension("width", 2, 9),
    Dimension("net", choices=("a", "b")),
)


def plan(trials: int = 8, **options: Any) -> Plan:
    usual = {"space": SPACE, "draw": "random", "best": 1, "seeds": 1, "limits": {}, "seed": 0}
    return Plan(**{**usual, "trials": trials, **options})


def values(claim: Claim) -> dict[str, Any]:
    return dict(line.split("=", 1) for line in claim.overrides)


def claimed(study: Study, wanted: Plan) -> Claim:
    claim = study.claim(wanted)
    assert claim is not None
    return claim


def finish(study: Study, claim: Claim, value: float, excess: dict[str, float] | None = None) -> None:
    study.completed(claim.number, value, 1.0, excess or {})
    claim.lock.release()


def test_ranges_and_choices_are_understood() -> None:
    space = {
        "optimizer.lr": {"factor": 10},
        "a": {"low": 2, "high": 8},
        "b": {"low": 0, "high": 0.5},
        "c": "tag(log,interval(1e-4,1e-2))",
        "d": "interval(0,1)",
        "e": ["x", [4, 8], None, True],
        "f": "3,5",
        "g": "range(1,4)",
    }
    found = {one.name: one for one in read_space(space, OWN)}
    assert (found["optimizer.lr"].low, found["optimizer.lr"].high) == pytest.approx((2e-4, 2e-2))
    assert found["optimizer.lr"].log
    assert found["a"] == Dimension("a", 2, 8)
    assert found["a"].whole
    assert not found["b"].whole
    assert found["c"] == Dimension("c", 1e-4, 1e-2, log=True)
    assert found["d"] == Dimension("d", 0, 1)
    assert found["e"].choices == ("x", "[4,8]", "null", True)
    assert found["f"].choices == (3, 5)
    assert found["g"].choices == (1, 2, 3)
    assert override("x", True) == "x=true"
    parse = OverridesParser.create().parse_override
    assert from_override(parse("++a.b=1,2")).examples()[::2] == ("++a.b=1", "++a.b=2")
    first, _, last = from_override(parse("a=c,'x,y'")).examples()
    assert (parse(first).value(), parse(last).value()) == ("c", "x,y")
    (width,) = read_space({"width": {"factor": 4}}, OmegaConf.create({"width": 2}))
    assert width == Dimension("width", 1, 8, log=True)
    assert width.whole


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"low": 1, "hihg": 2}, r"a has 'hihg', did you mean 'high'|a has 'hihg'"),
        ({"low": 2, "high": 1}, "a goes from 2 to 1: give numbers low < high"),
        ({"low": 0, "high": 1, "log": True}, "both above 0 on a log scale"),
        ({"low": 1}, "a goes from 1 to None"),
        ({"factor": 10}, "a is None in this experiment"),
        ([], "nothing can be drawn from"),
        (0.5, "nothing can be drawn from"),
    ],
)
def test_a_mistake_in_a_space_is_one_sentence(node: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_space({"a": node}, OWN)


def test_rates_are_drawn_on_a_log_scale_and_by_number_alone(tmp_path: Path) -> None:
    study, drawn = Study(tmp_path, "max"), []
    for _ in range(60):
        claim = claimed(study, plan(60))
        drawn.append(values(claim))
        finish(study, claim, 0.0)
    exponents = [math.log10(float(one["lr"])) for one in drawn]
    assert all(-4 <= exponent <= -1 for exponent in exponents)
    below = sum(exponent < -2.5 for exponent in exponents)  # half of them; on a linear scale 3 in 100
    assert 20 <= below <= 40
    assert {int(one["width"]) for one in drawn} == set(range(2, 10))
    assert study.claim(plan(60)) is None
    assert study.is_over()
    (tmp_path / "again").mkdir()
    again = Study(tmp_path / "again", "max")
    assert values(claimed(again, plan(60))) == drawn[0]


def test_what_a_killed_process_left_is_taken_over_once(tmp_path: Path) -> None:
    study, other = Study(tmp_path, "max"), Study(tmp_path)
    mine, theirs = claimed(study, plan()), claimed(other, plan())
    assert (mine.number, theirs.number) == (0, 1)
    theirs.lock.release()  # as the system does for a process that is killed
    taken = claimed(study, plan())
    assert taken.number == 1
    assert taken.overrides == theirs.overrides
    assert claimed(other, plan()).number == 2
    assert len(study.trials()) == 3


def test_a_trial_that_kills_its_process_again_and_again_fails(tmp_path: Path) -> None:
    study = Study(tmp_path, "max")
    for _ in range(STARTS):
        claim = claimed(study, plan())
        assert claim.number == 0
        claim.lock.release()
    claim = claimed(study, plan())
    assert claim.number == 1
    (failed,) = study.trials("FAIL")
    assert (
        failed.user_attrs["error"] == f"its process was killed {STARTS} times before it had a new checkpoint."
    )
    for checkpoint in range(5):  # one that goes on is never given up
        claim.lock.release()
        last = claim.folder / "checkpoints" / "last.ckpt"
        last.parent.mkdir(exist_ok=True)
        last.write_text(str(checkpoint))
        claim = claimed(study, plan())
        assert claim.number == 1


def test_a_torn_line_of_the_journal_is_dropped(tmp_path: Path) -> None:
    study = Study(tmp_path, "max")
    finish(study, claimed(study, plan()), 0.5)
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id"')  # the disk was full
    finish(Study(tmp_path), claimed(Study(tmp_path), plan()), 0.75)
    assert journal.read_bytes().startswith(whole + b'{"')
    assert [trial.value for trial in Study(tmp_path).trials("COMPLETE")] == [0.5, 0.75]


def test_fine_trials_stay_within_what_the_best_coarse_ones_span(tmp_path: Path) -> None:
    study, wanted, drawn = Study(tmp_path, "min"), plan(32, draw="coarse_to_fine"), []
    for _ in range(32):
        claim = claimed(study, wanted)
        drawn.append(values(claim))
        loss = abs(math.log10(float(drawn[-1]["lr"])) + 2) + (drawn[-1]["net"] == "b")  # best: 1e-2 and a
        finish(study, claim, loss)
    best = [t.params for t in sorted(study.trials()[:16], key=lambda t: t.value or 0)[:4]]
    margin = 1000**0.1
    for fine in drawn[16:]:
        assert min(b["lr"] for b in best) / margin <= float(fine["lr"]) <= max(b["lr"] for b in best) * margin
        assert fine["net"] in {b["net"] for b in best}
    span = [
        max(math.log(float(one["lr"])) for one in half) - min(math.log(float(one["lr"])) for one in half)
        for half in (drawn[:16], drawn[16:])
    ]
    assert span[1] < 0.75 * span[0]


def test_the_best_within_limits_get_further_seeds(tmp_path: Path) -> None:
    study, wanted = Study(tmp_path, "max"), plan(4, best=2, seeds=3, seed=7)
    for number, excess in enumerate((-0.5, 0.5, -0.1, -0.2)):
        finish(study, claimed(study, wanted), [0.6, 0.9, 0.8, 0.7][number], {"minutes": excess})
    assert [trial.number for trial in study.ranked()] == [2, 3, 0, 1]
    extra = []
    while claim := study.claim(wanted):
        extra.append((values(claim)["seed"], claim.overrides[:-1]))
        finish(study, claim, 0.5)
    own = {number: [override(n, v) for n, v in study.trials()[number].params.items()] for number in (2, 3)}
    assert extra == [("8", own[2]), ("9", own[2]), ("8", own[3]), ("9", own[3])]
    assert len(study.trials()) == 8


def test_tpe_draws_near_good_trials_and_keeps_limits(tmp_path: Path) -> None:
    study, wanted, late = Study(tmp_path, "max"), plan(40, draw="tpe", space=SPACE[:1]), []
    for number in range(40):
        claim = claimed(study, wanted)
        at = math.log10(float(values(claim)["lr"]))
        finish(study, claim, at, {"latency_ms": at + 2})  # better and slower with the rate: best at 1e-2
        late += [at] if number >= 20 else []
    assert sum(abs(at + 2) < 0.75 for at in late) > 12
    assert max(t.params["lr"] for t in study.ranked()[:1]) <= 1e-2


def test_successive_halving_stops_those_behind(tmp_path: Path) -> None:
    study = Study(tmp_path, "max")
    claims = [claimed(study, plan()) for _ in range(6)]
    scores = [0.5, 0.6, 0.4, 0.3, 0.7, 0.2]
    assert not any(study.is_behind(c.number, 1, s, 2, 3) for c, s in zip(claims, scores, strict=True))
    behind = [study.is_behind(c.number, 2, s, 2, 3) for c, s in zip(claims, scores, strict=True)]
    assert behind == [False, False, True, True, False, True]
    assert Study.of_trial(tmp_path / "0") is not None
    study.failed(0, "stopped early", 1.0, pruned=True)
    assert Study.of_trial(tmp_path / "0") is None
    assert Study.of_trial(tmp_path / "elsewhere") is None


def test_further_seeds_of_the_best_are_never_stopped(tmp_path: Path) -> None:
    study, wanted = Study(tmp_path, "max"), plan(6, seeds=2)
    for number in range(6):
        claim, score = claimed(study, wanted), 0.5 + number / 100
        study.is_behind(claim.number, 2, score, 2, 3)
        finish(study, claim, score)
    repeat = claimed(study, wanted)
    assert repeat.overrides[-1] == "seed=1"
    assert not study.is_behind(repeat.number, 2, 0.1, 2, 3)


def test_trials_that_all_fail_end_the_sweep(tmp_path: Path) -> None:
    study = Study(tmp_path, "max")
    for _ in range(5):
        claim = claimed(study, plan())
        study.failed(claim.number, "There is no fold 9.", 1.0)
    with pytest.raises(UserError, match=r"All 5 trials have failed, the last one so: There is no fold 9\."):
        study.claim(plan())


def work(folder: str) -> None:
    """A worker whose trials take no time, and that notes each which comes to its end."""
    study = Study(Path(folder))
    while True:
        claim = study.claim(plan(16))
        if claim is None:
            if study.is_over():
                return
            time.sleep(0.02)
            continue
        time.sleep(0.15)
        with (Path(folder) / "ended").open("a") as file:
            file.write(f"{claim.number}\n")
        finish(study, claim, float(claim.number))


def test_two_workers_of_which_one_is_killed_lose_no_trial(tmp_path: Path) -> None:
    Study(tmp_path, "max")
    steady, killed, kills = start(work, str(tmp_path), output=tmp_path / "out"), start(work, str(tmp_path)), 0
    while steady.exitcode is None and kills < 200:
        killed.join(0.8)
        if killed.exitcode is None:
            killed.kill()
            killed.join()
            kills += 1
        if steady.exitcode is None:
            killed = start(work, str(tmp_path))
    killed.join(10)
    assert (steady.exitcode, kills > 0) == (0, True), (tmp_path / "out.err").read_text()
    study = Study(tmp_path)
    assert [trial.number for trial in study.trials("COMPLETE", "FAIL")] == list(range(16))
    done = [trial.value for trial in study.trials("COMPLETE")]
    assert len(done) >= 14, "at most those that were killed three times are given up"
    ended = [int(line) for line in (tmp_path / "ended").read_text().split()]
    assert set(done) <= set(map(float, ended))
    assert len(ended) <= 16 + kills, "one that was killed between its end and the study is trained again"
