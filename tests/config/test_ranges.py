"""Values of options: their kind, their range, and what may be added, wherever they are set."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lightning_audio import config
from lightning_audio.config import compose_config, ranges
from lightning_audio.config.ranges import RANGES, refuse_out_of_range
from lightning_audio.errors import UserError


def nested(pattern: str, value: Any) -> dict[str, Any]:
    """A configuration with this value under a name that the pattern fits."""
    node: Any = value
    for key in reversed(pattern.split(".")):
        node = {key.replace("*", "some"): node}
    return node


@pytest.mark.parametrize("pattern", RANGES)
def test_a_number_outside_of_its_range_is_refused_and_its_ends_are_not(pattern: str) -> None:
    low, high = RANGES[pattern]
    for value in (low, high):
        if math.isfinite(value) and (pattern, value) != ("trainer.max_epochs", -1):
            refuse_out_of_range(nested(pattern, value))
            refuse_out_of_range(nested(pattern, [value, value]))
    for value in (low - 1e-3, high + 1, math.nan, math.inf):
        with pytest.raises(UserError, match=r"is out of range: give a (whole )?number "):
            refuse_out_of_range(nested(pattern, value))
    with pytest.raises(UserError, match=r"is out of range"):
        refuse_out_of_range(nested(pattern, [low, low - 1e-3]))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("schedule.warmup=2", r"^schedule\.warmup=2 is out of range: give a number from 0 to 1\.$"),
        ("callbacks=ema callbacks.ema.decay=5", r"^callbacks\.ema\.decay=5 is out of range"),
        ("augment.features.masks.freq_width=-3", r"^augment\.features\.masks\.freq_width=-3 is out of range"),
        ("network.widths=[32,-1]", r"^network\.widths=-1 is out of range: give a whole number of 1 or more"),
        ("optimizer.lr=inf", r"^optimizer\.lr=inf is out of range"),
        ("data.min_snr_db=30", r"^data\.min_snr_db=30 is above data\.max_snr_db=25\.0"),
        ("trainer.max_epochs=-1", r"^trainer\.max_epochs=-1 never ends.*trainer\.max_steps"),
        ("seed=1.5", r"^seed=1\.5 is out of range: give a whole number from 0 to 4294967295\.$"),
        (
            "network.widths=[4,8.5]",
            r"^network\.widths=8\.5 is out of range: give a whole number of 1 or more",
        ),
        ("trainer.overfit_batches=-1", r"^trainer\.overfit_batches=-1 is out of range"),
        ("trainer.overfit_batches=1.5", r"^trainer\.overfit_batches=1\.5 is no share: give one up to 1\.0"),
        ("trainer.limit_test_batches=2.0", r"^trainer\.limit_test_batches=2\.0 is no share"),
        ("trainer.max_epochs=null", r"^trainer\.max_epochs=null never ends.*trainer\.max_steps"),
        ("name=../x", r"^name=\.\./x names no folder below paths\.logs"),
        ("name=/tmp/x", r"^name=/tmp/x names no folder below paths\.logs"),
        ("name=''", r"^name=.* names no folder below paths\.logs"),
    ],
)
def test_on_the_command_line(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compose_config(override.split())


def test_steps_may_end_a_run_instead_of_epochs() -> None:
    assert compose_config(["trainer.max_epochs=-1", "trainer.max_steps=10"]).trainer.max_steps == 10


def test_of_few_keywords_there_may_be_more_other_words() -> None:
    cfg = compose_config(["data=speech_commands", "data.unknown_share=20", "data.silence_share=4.5"])
    assert (cfg.data.unknown_share, cfg.data.silence_share) == (20, 4.5)


MISTAKES = {
    "a value out of range": ("schedule: {warmup: 2}", r"schedule\.warmup=2 is out of range"),
    "a tab": ("name: own\n\tseed: 1", r"own\.yaml is no YAML at line 4: found character '\\t'"),
    "a key twice": ("seed: 1\nseed: 2", r"own\.yaml is no YAML at line 4: found duplicate key seed"),
    "a quote left open": ("name: 'own", r"own\.yaml is no YAML at line "),
    "an unknown option": ("sede: 1", r"'sede' is no option \(did you mean 'seed'\?\): nothing reads it"),
    "a list": (
        "- seed: 1\n- b",
        r"^experiment/own\.yaml holds no options: write them as KEY: VALUE, one a line\.$",
    ),
    "a circle": ("name: ${seed}\nseed: ${name}", r"^(name|seed) is made of itself: give it a value\.$"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_in_the_file_of_an_experiment(mistake: str, conf: Path) -> None:
    text, sentence = MISTAKES[mistake]
    (conf / "experiment" / "own.yaml").write_text(f"# @package _global_\n# Mine.\n{text}\n")
    with pytest.raises(UserError, match=sentence) as error:
        compose_config(["experiment=own"])
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_utf8_is_told_where_it_is_chosen_and_not_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "latin.yaml").write_bytes(b"# @package _global_\nname: caf\xe9\n")
    own = f"--config-dir={tmp_path}"
    assert compose_config([own, "experiment=demo"]).name == "demo"
    with pytest.raises(UserError, match=r"no UTF-8 in its line 2 \(name: caf\\xe9\): save it as UTF-8\.$"):
        compose_config([own, "experiment=latin"])


def test_an_experiment_without_its_first_line_is_told(conf: Path) -> None:
    (conf / "experiment" / "own.yaml").write_text("# Mine.\noptimizer: {lr: 0.1}\n")
    with pytest.raises(UserError, match=r"^experiment=own sets nothing: .*`# @package _global_`"):
        compose_config(["experiment=own"])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimizer.amsgrad=true", r"write \+optimizer\.amsgrad=VALUE"),
        ("trainer.fast_dev_run=true", r"write \+trainer\.fast_dev_run=VALUE"),
        ("callbacks.own={a: 1}", r"write \+callbacks\.own=VALUE"),
        ("+optimizer.lr=1", r"'optimizer\.lr' is an option already: write it without the \+"),
        ("optimizer.amsgard=true", r"'optimizer\.amsgard' is no option(?!.*\+)"),
        ("loader.shuffle=true", r"'loader\.shuffle' is no option(?!.*\+)"),
        ("--foo", r"unrecognized arguments: --foo: write options as KEY=VALUE"),
        ("--config-dir=nowhere", r"There is no folder .*nowhere: --config-dir names one"),
    ],
)
def test_what_a_plus_is_for(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compose_config([override])
    if "write +" in sentence.replace("\\", ""):
        compose_config([f"+{override}"])


def test_flags_stand_anywhere() -> None:
    for arguments in (["-m", "experiment=demo", "seed=0,1"], ["experiment=demo", "seed=0,1", "--multirun"]):
        asked = config.compose(config.Command.read(arguments))
        assert asked.many
        assert [cfg.seed for cfg in asked.cfgs] == [0, 1]


def test_every_run_of_a_multirun_is_checked_before_one_starts() -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr=-1 is out of range"):
        config.compose(config.Command.read(["-m", "optimizer.lr=0.1,-1"]))


def test_paths_hold_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_AUDIO_DATA", raising=False)
    cfg = compose_config(["data=audio_folder", "data.root=recordings", "paths.models=weights"])
    assert (cfg.data.root, cfg.paths.models) == (str(tmp_path / "recordings"), str(tmp_path / "weights"))
    assert cfg.paths.data == str(tmp_path / "data")
    assert compose_config(["data=esc50"]).data.root == str(tmp_path / "data" / "ESC-50")
    (tmp_path / "train.csv").touch()
    cfg = compose_config(["data=manifest", "data.train=train.csv", "data.test=test.csv"])
    assert cfg.data.train == str(tmp_path / "train.csv")
    assert "data.train" in set(ranges.dotted(cfg))
    # What may be a name on a hub is a folder where there is one.
    (tmp_path / "wav2vec2").mkdir()
    for name, settled in {
        "wav2vec2": str(tmp_path / "wav2vec2"),
        "facebook/hubert": "facebook/hubert",
    }.items():
        assert compose_config(["encoder=huggingface", f"encoder.weights={name}"]).encoder.weights == settled


def test_what_the_groups_alone_would_lack_may_be_set_beside_them() -> None:
    """The augmentation of an experiment reads `data.root`, which its corpus has and the demo has not."""
    mixed = ["experiment=speech_commands_bc_resnet", "data=demo"]
    assert compose_config([*mixed, "augment.waveform.noise=null"]).augment.waveform.noise is None
    noise = compose_config([*mixed, "augment.waveform.noise.folder=/noises"]).augment.waveform.noise
    assert noise.folder == "/noises"
    with pytest.raises(UserError, match=r"folder is made of data\.root, .* by augment\.waveform\.noise=null"):
        compose_config(mixed)
