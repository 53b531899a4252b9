"""Configurations become objects; mistyped ones end in a sentence, foreign ones are refused."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from lightning_audio import build
from lightning_audio.config import CONF, compose_config
from lightning_audio.data.clip import Clip
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.training.trainer import build_trainer

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
LABELS = [*(f"label {number}" for number in range(8)), "_unknown_", "_silence_"]


def stub(cfg: DictConfig, has_validation: bool = True) -> Any:
    """What the data of an experiment would know if its files were here."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "star", "pound"]
    texts = [" ".join(pair) for pair in itertools.product(words, repeat=2)]
    clips = [Clip(id=text, path="a.wav", text=text, split="train") for text in texts]
    encoding = build.task_class(cfg).encoding
    options: Any = OmegaConf.to_container(cfg.task, resolve=True)
    tokenizer = (options.get("text") or {}).get("tokenizer") or {}
    if tokenizer.get("size"):
        tokenizer["size"] = min(tokenizer["size"], 40)  # so few words give no more
    targets = encoding(LABELS, clips, **encoding.options(options, {}))
    learned = targets.facts()
    info = DataInfo(
        tuple(learned.pop("labels")),
        cfg.data.sample_rate,
        clip_seconds=1.0,
        longest_seconds=1.5,
        class_counts=(1,) * 10,
        clip_counts={"train": 100, "val": 10 * has_validation, "test": 10},
        encoding=learned,
    )
    return SimpleNamespace(info=info, targets=targets, has_validation=has_validation, validates=True)


WATCHED: Any = SimpleNamespace(
    monitor=("val/accuracy", "max"), score_names=["accuracy"], network=None
)  # of a task


@cache
def chosen(*groups: str) -> DictConfig:
    return compose_config([*groups, "trainer=cpu"])


def composed(*groups: str, change: str = "") -> DictConfig:
    """A configuration that builds on any machine, with one option changed or added after it was composed."""
    cfg = chosen(*groups).copy()
    if "weights" in cfg.network:
        cfg.network.weights = None
    if "weights" in (cfg.get("encoder") or {}):
        cfg.encoder.weights = None
    for name, node in (cfg.augment.get("waveform") or {}).items():
        if node and "folder" in node:
            cfg.augment.waveform[name] = None  # of recordings that may not be here
    OmegaConf.set_struct(cfg, False)
    cfg.merge_with_dotlist([change] if change else [])
    return cfg


def header(name: str) -> list[str]:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("#") and "@package" not in line]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_under_its_own_name(name: str) -> None:
    cfg = composed(f"experiment={name}")
    assert cfg.name == name
    OmegaConf.resolve(cfg)
    assert OmegaConf.missing_keys(cfg) == set()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_the_command_that_runs_it(name: str) -> None:
    commands = [line for line in header(name) if "make train" in line or "make folds" in line]
    assert commands
    named = [line for line in commands if "EXP=" in line]
    assert all(f"EXP={name}" in line for line in named)
    assert named or name == "demo"  # the embedded default needs no name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_part_of_an_experiment_builds(name: str, tmp_path: Path) -> None:
    cfg = composed(f"experiment={name}", change=f"run_folder={tmp_path}")
    files = [Path(file) for file in (cfg.get("encoder") or {}).get("file") or ()]
    if files and not all(file.is_file() for file in files):
        pytest.skip(f"{files[0]} is not there (set LIGHTNING_AUDIO_MODELS to its folder)")
    data = stub(cfg)
    assert build.datamodule(cfg).sample_rate == cfg.data.sample_rate
    task = build.task(cfg, data)
    assert build_trainer(cfg, tmp_path, data, task).max_epochs == cfg.trainer.max_epochs
    assert task.recipe is not None
    groups = task.recipe.optimizer(task.finetuning.groups(task.recipe.lr, 0.1)).param_groups
    learned = {id(p) for root in task.learned()[0] for p in root.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(learned)
    samples = cfg.data.sample_rate
    logits, _ = task.eval()(torch.zeros(1, samples, dtype=torch.int16), torch.tensor([samples]))
    assert logits.shape[-1] == type(task).outputs_for(task.labels, task.description["config"]["task"])
    # What a checkpoint would say of itself builds the same again, on the allow list.
    build.refuse_unknown(task.description["config"])
    again = build.assemble(task.description["config"], DataInfo.from_facts(task.description["facts"]))
    again.load_state_dict(task.state_dict())


def test_the_same_seed_gives_the_same_weights() -> None:
    cfg = composed(change="network.widths=[4,8]")
    first, second = (build.task(cfg, stub(cfg)).state_dict() for _ in range(2))
    cfg.seed = 1
    other = build.task(cfg, stub(cfg)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["network.head.weight"], other["network.head.weight"])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "experiment=demoo",
            r"no experiment 'demoo' \(did you mean 'demo'\?\): choose one of .*, esc50_resnet, .*",
        ),
        (
            "network=cnn3d",
            r"no network 'cnn3d' \(did you mean 'cnn2d'\?\): choose one of .*cnn2d, .*timm, weigh.*\.$",
        ),
        ("network.dropuot=0.1", r"'network\.dropuot' is no option \(did you mean 'network\.dropout'\?\)"),
        (
            "trainer.max_epoch=3",
            r"'trainer\.max_epoch' is no option \(did you mean 'trainer\.max_epochs'\?\)",
        ),
        ("optimiser=sgd", r"'optimiser' is no option \(did you mean 'optimizer'\?\)"),
        ("optimiser.lr=1", r"'optimiser\.lr' is no option \(did you mean 'optimizer\.lr'\?\)"),
        ("exeriment=demo", r"'exeriment' is no option \(did you mean 'experiment'\?\)"),
        ("+foo=1", r"'foo' is no option: nothing reads it"),
        ("++foo=1", r"'foo' is no option: nothing reads it"),
        ("+sede=1", r"'sede' is no option \(did you mean 'seed'\?\): nothing reads it"),
        ("trainer.max_epochs=[1,", r"An override can't be read .*: write KEY=VALUE"),
        ("max epochs", r"An override can't be read .*: write KEY=VALUE"),
        ("=3", r"An override can't be read .*: write KEY=VALUE"),
        ("name=${oc.env:NOT_SET_ANYWHERE}", r"environment variable NOT_SET_ANYWHERE, which is not set"),
        ("name=${nowhere}", r"name is made of nowhere, which is not there"),
    ],
)
def test_a_mistyped_override_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        compose_config([override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "kind"),
    [
        ("seed=many", "a whole number"),
        ("trainer.max_epochs=ten", "a whole number"),
        ("loader.batch_size=2.5", "a whole number"),
        ("optimizer.lr=fast", "a number"),
        ("channels_last=perhaps", "true or false"),
        ("network.widths=32", "several values"),
    ],
)
def test_a_value_of_another_kind_is_one_sentence(override: str, kind: str) -> None:
    with pytest.raises(UserError) as error:
        compose_config([override])
    assert str(error.value).startswith(f"{override} does not fit: give {kind}, such as ")


def test_values_that_may_be_of_several_kinds_are_taken() -> None:
    values = {
        "optimizer.lr": 1,
        "loader.val_fraction": 0,
        "loader.eval_batch_size": 64,
        "frontend.win_length": [400, 800, 1024],
        "frontend.top_db": None,
        "task.class_weights": "balanced",
        "trainer.devices": "auto",
        "trainer.limit_train_batches": 3,
        "trainer.precision": 16,
        "trainer.deterministic": True,
        "+trainer.fast_dev_run": True,
    }
    cfg = compose_config([f"{name}={json.dumps(value)}" for name, value in values.items()])
    assert {name: OmegaConf.select(cfg, name.lstrip("+")) for name in values} == values


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "network.dropuot=0.1",
            r"^network\.dropuot is no option \(did you mean 'dropout'\?\): .* widths, dropout\.$",
        ),
        ("frontend.hop=160", r"^frontend\.hop is no option.*: frontend takes n_fft, .*hop_length"),
        (
            "task.shift=3",
            r"^task\.shift is no option \(did you mean 'shifts'\?\): task takes class_weights",
        ),
        ("optimizer.momentum=0.9", r"^optimizer\.momentum is no option.*: optimizer takes .*weight_decay"),
        ("schedule.stop=1", r"^schedule\.stop is no option.*: schedule takes warmup"),
        ("frontend.win_length=2048", r"^frontend\.win_length=2048 is longer than frontend\.n_fft=1024"),
        ("frontend.f_max=9000", r"^frontend\.f_max=9000 Hz is above half the sample rate of 16000 Hz"),
        ("frontend.f_min=9000", r"^frontend can't be built: .*9000.*; mend its options"),
        ("network.widths=[]", r"^network can't be built: "),
        ("network.dropout=2", r"^network can't be built: dropout probability has to be between 0 and 1"),
        (
            "network._target_=lightning_audio.networks.none.X",
            r"^network can't be built: .*lightning_audio\.networks",
        ),
        ("normalize=all", r"normalize\.by=all is unknown"),
        ("optimizer.lr=-1", r"^optimizer can't be built: Invalid learning rate: -1"),
        ("task.shifts=0", r"^task\.shifts=0 leaves nothing to average"),
        ("task.label_smoothing=2", r"^task\.label_smoothing=2 is no share"),
        (
            "task.class_weights=[1,2]",
            r"^task\.class_weights=\[1, 2\] does not fit: give `balanced` or 10 numbers",
        ),
        ("seed=-1", r"^seed=-1 is no seed"),
    ],
)
def test_an_option_that_does_not_fit_its_part_is_one_sentence(override: str, sentence: str) -> None:
    cfg = composed(change=override)
    with pytest.raises(UserError, match=sentence) as error:
        build.task(cfg, stub(cfg))
    assert "\n" not in str(error.value)


def test_what_an_experiment_sets_for_another_part_is_told_before_there_is_audio(tmp_path: Path) -> None:
    options = ["experiment=esc10_cnn2d", "frontend=frozen", "encoder=yamnet", f"data.root={tmp_path}"]
    names = ["frontend.n_fft", "frontend.hop_length", "frontend.n_mels"]
    with pytest.raises(UserError) as error:
        build.data_and_task(compose_config(options))
    assert str(error.value) == (
        f"{', '.join(names)} are no options: frontend takes encoder, pool; where an experiment sets them, "
        f"add ~{' ~'.join(names)}."
    )
    with pytest.raises(UserError, match="ESC-50"):  # nothing is wrong but that there is no corpus
        build.data_and_task(compose_config([*options, *(f"~{name}" for name in names)]))


def test_an_option_of_an_inner_part_is_named_with_its_place() -> None:
    package = "lightning_audio.augment"
    gain = {"_target_": f"{package}.waveform.Gain", "max_dB": 3}
    node = {
        "_target_": f"{package}.Augment",
        "waveform": [{"_target_": f"{package}.waveform.Polarity"}, gain],
    }
    with pytest.raises(
        UserError, match=r"^augment\.waveform\.1\.max_dB is no option .*'max_db'.*: .* takes min_db"
    ):
        build.instantiate(node, "augment")


def test_an_option_of_mfcc_or_its_log_mel_is_found() -> None:
    node = {
        "_target_": "lightning_audio.frontend.mfcc.MFCC",
        "n_mfcc": 20,
        "n_mels": 40,
        "n_fftt": 512,
        "n_fft": 400,
    }
    with pytest.raises(
        UserError, match=r"^frontend\.n_fftt is no option .*'n_fft'.*: .* takes n_mfcc, n_mels, n_fft"
    ):
        build.instantiate(node, "frontend", sample_rate=16000)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.max_epoch=3", r"^trainer\.max_epoch is no option \(did you mean 'max_epochs'\?\)"),
        ("trainer.accelerator=abacus", r"^trainer can't be built: .*abacus"),
        ("trainer.devices=0", r"^trainer can't be built: .*devices=0"),
        ("trainer.precision=17", r"^trainer can't be built: Precision 17 is invalid"),
        ("trainer.check_val_every_n_epoch=0.5", r"^trainer can't be built: "),
        ("callbacks.throughput.foo=1", r"^callbacks\.throughput\.foo is no option"),
    ],
)
def test_an_option_that_does_not_fit_the_trainer_is_one_sentence(
    override: str, sentence: str, tmp_path: Path
) -> None:
    cfg = composed("logger=none", change=override)
    with pytest.raises(UserError, match=sentence):
        build_trainer(cfg, tmp_path, stub(cfg), WATCHED)


def test_early_stopping_without_validation_is_one_sentence(tmp_path: Path) -> None:
    cfg = composed("logger=none", "callbacks=early_stopping")
    with pytest.raises(UserError, match=r"set loader\.val_fraction=0\.1"):
        build_trainer(cfg, tmp_path, stub(cfg, has_validation=False), WATCHED)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("loader.batchsize=3", r"^loader\.batchsize is no option \(did you mean 'batch_size'\?\)"),
        ("loader.batch_size=0", r"^loader\.batch_size=0 is out of range"),
        ("data.seconds_=3", r"^data\.seconds_ is no option \(did you mean 'seconds'\?\)"),
        ("data.fold=6", r"^There is no fold 6 of the demo: set data\.fold"),
    ],
)
def test_an_option_that_does_not_fit_the_data_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build.datamodule(composed(change=override))


# What a configuration that somebody sent may build.


def sent(target: str) -> dict[str, Any]:
    return {"network": {"_target_": target}}


@pytest.mark.parametrize("group", build.ALLOWED)
def test_what_the_project_has_is_allowed(group: str) -> None:
    """Else a run that somebody trained with it could not be evaluated, or resumed."""
    assert list((CONF / group).glob("*.yaml"))
    for path in (CONF / group).glob("*.yaml"):
        # What stands for an option of another part is known once the whole is composed.
        text = re.sub(r"\$\{[^}]*\}", "0", path.read_text(encoding="utf-8"))
        build.refuse_unknown({group: OmegaConf.to_container(OmegaConf.create(text))})


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.open",
        "torch.load",
        "torch.hub.load",
        "torch.nn.Linear",
        "pathlib.Path.touch",
        "hydra.utils.instantiate",
        "lightning_audio.frontend.waveform.torch.load",
        "lightning_audio.frontend.waveform.torchaudio.transforms.Spectrogram",
        "lightning_audio.networks.timm.timm.create_model",
        "lightning_audio.networks.timm.create_backbone",
        "lightning_audio.networks.cnn2d.Network",
        "lightning_audio.networks.cnn2d.functional",
        "lightning_audio.frontend.mask.mask_frames",
        "lightning_audio.frontend.base.FrontEnd",
        "lightning_audio.frontend.log_mel.LogMel.forward",
        "lightning_audio.frontend",
        "lightning_audio.frontends.LogMel",
        "lightning_audio.networks.none.Network",
        "lightning_audio.tasks.base.Path",
        "lightning_audio.tasks.recipe.Recipe",
        "lightning_audio.data.corpora.demo.Demo",
        "lightning_audio.training.schedule.one_cycle",
        "LogMel",
        "",
        "..",
    ],
)
def test_nothing_else_is_built_from_a_checkpoint(target: str) -> None:
    with pytest.raises(UserError, match="not on the allow list"):
        build.refuse_unknown(sent(target))


def touch(file: Path) -> dict[str, Any]:
    """A configuration which, where it is built, leaves a file."""
    return {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(file)]}]}


def hidden(file: Path) -> dict[str, Any]:
    """The same in all places of a configuration in which Hydra would find it."""
    text = f"{{_target_: pathlib.Path.touch, _args_: [{{_target_: pathlib.Path, _args_: ['{file}']}}]}}"
    return {
        "by itself": touch(file),
        "in a list": [1, [touch(file)]],
        "in a tuple": (touch(file),),
        "in a dict": {"of": {"options": touch(file)}},
        "in an interpolation": f"${{oc.create:{text}}}",
        "in an interpolation in a list": ["a", f"${{oc.create:{text}}}"],
    }


@pytest.mark.parametrize("place", hidden(Path()))
def test_what_is_not_allowed_is_found_wherever_it_is_hidden(place: str, tmp_path: Path) -> None:
    file = tmp_path / "built"
    node = {"_target_": "lightning_audio.networks.cnn2d.CNN2d", "widths": hidden(file)[place]}
    # It would indeed be built: that is why it has to be refused.
    with pytest.raises(UserError):
        build.instantiate(node, "network", in_shape=(1, 8), num_outputs=2)
    assert file.exists()
    file.unlink()
    with pytest.raises(UserError, match=r"not on the allow list|is not resolved"):
        build.refuse_unknown({"network": node})
    assert not file.exists()


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the user's, `own_networks`, that leaves a file when it is imported."""
    folder = tmp_path / "own_networks"
    folder.mkdir()
    source = "from pathlib import Path\nfrom lightning_audio.networks.cnn2d import CNN2d\n"
    (folder / "__init__.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'imported')!r}).touch()\n"
    )
    (folder / "deep.py").write_text(f"{source}class Deep(CNN2d):\n    pass\ndef function():\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path / "imported"
    for name in ("own_networks", "own_networks.deep"):
        sys.modules.pop(name, None)


def test_allow_opens_a_package_and_no_more(own_package: Path) -> None:
    wanted = sent("own_networks.deep.Deep")
    for allow in ([], ["own"], ["own_networks.other"], ["own_networks.deep.Deep"]):
        with pytest.raises(UserError, match=r"own_networks\.deep\.Deep, which is not on the allow list"):
            build.refuse_unknown(wanted, allow)
    assert not own_package.exists()  # what is not allowed is not even imported
    for allow in (["own_networks"], ["own_networks.deep"]):
        build.refuse_unknown(wanted, allow)
    for target in (
        "own_networks.deep.function",
        "own_networks.deep.Path",
        "own_networks.deep.CNN2d",
        "os.system",
    ):
        with pytest.raises(UserError, match="not on the allow list"):
            build.refuse_unknown(sent(target), ["own_networks"])
