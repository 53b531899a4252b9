"""Every network of conf/network with every task of conf/task: it learns, or is refused before training."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lightning_audio import build
from lightning_audio.config import CONF, compose_config
from lightning_audio.data.batch import Batch
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask

NOT_HERE = {
    "pretrained",
    "neighbours",
}  # of waveforms, and nothing before it has seen clips
NETWORKS = sorted({path.stem for path in (CONF / "network").glob("*.yaml")} - NOT_HERE)
TASKS = sorted(
    {path.stem for path in (CONF / "task").glob("*.yaml")} - {"language_model"}
)  # it hears nothing
FRAME_BY_FRAME = {"linear", "mlp"}  # which know of no other frame, and so run on a stream as well
PER_FRAME = {"bilstm", "conformer", "crnn", "weighted_layers"} | FRAME_BY_FRAME
BOTH = {"gru"}  # by network.per_frame

TRANSCRIBING = {"ctc", "attention", "transducer"}

SMALL = {
    "bc_resnet": ["network.tau=1", "network.sub_bands=1"],
    "bilstm": ["network.channels=4", "network.hidden=8", "network.layers=1"],
    "cnn2d": ["network.widths=[4,8]"],
    "conformer": ["network.width=8", "network.heads=2", "network.feedforward=8", "network.layers=1"],
    "crnn": ["network.widths=[4,4,8]"],
    "matchboxnet": ["network.width=8"],
    "res15": ["network.maps=4"],
    "timm": ["network.backbone=test_resnet", "network.weights=null"],
} | {name: ["network.filters=4", "network.widths=[4,4,8,8]"] for name in ("m11", "m18", "m34_res")}
DEMO = ["data.clips_per_class=1", "data.seconds=0.5"]
SPEECH = [
    *("data=demo_dtmf", "augment=speech", "frontend=speech_8k"),
    *(f"data.{split}_utterances=4" for split in ("train", "val", "test")),
]
TRIGGER = ["task.background=[engine,rain]", "task.noise=null"]
DATA = {
    "classification": ["data=demo", *DEMO],
    "multilabel": ["data=demo_multilabel", "data.clips_per_fold=4", "data.seconds=0.5"],
    "trigger": ["data=demo", *DEMO, "augment.mix=null", "frontend.top_db=null", *TRIGGER],
    "window_trigger": ["data=demo", *DEMO, "augment.mix=null", *TRIGGER],
    "ctc": SPEECH,
    "attention": [*SPEECH, "task.width=16", "task.decoder.hidden=16", "task.search.beam=1"],
    "transducer": [*SPEECH, "task.width=16", "task.predictor.hidden=8", "task.max_symbols=1"],
}


@cache
def config_of(network: str, task: str, *overrides: str) -> DictConfig:
    """Composed once for each task: the part `network` is put into a copy."""
    if network != "gru":
        whole = config_of("gru", task, *overrides).copy()
        options = [option.removeprefix("network.") for option in SMALL.get(network, ())]
        own = OmegaConf.load(CONF / "network" / f"{network}.yaml")
        whole.network = OmegaConf.merge(
            own, OmegaConf.from_dotlist(options), {"models": "models"} if network == "timm" else {}
        )
        return whole
    options = [f"task={task}", "network=gru", *DATA[task], *overrides]
    return compose_config([*options, "loader.batch_size=4", "trainer=cpu"])


@pytest.fixture(scope="module")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The made-up data of a task, once for all networks."""
    cache_folder = tmp_path_factory.mktemp("cache")

    @cache
    def made(task: str) -> AudioDataModule:
        data = build.datamodule(config_of("gru", task, f"paths.cache={cache_folder}"))
        data.prepare_data()
        data.setup()
        return data

    return made


def one_step(task: AudioTask, batch: Batch) -> Tensor:
    """The losses of a batch before and after one update of the weights."""
    optimizer = torch.optim.SGD(task.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)  # augmentation and dropout draw the same
        losses.append(task.loss(*task.train().training_logits(batch)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    return torch.stack(losses).detach()


def refused(network: str, task: str) -> bool:
    if task in TRANSCRIBING:
        return network not in PER_FRAME
    return task == "trigger" and network not in FRAME_BY_FRAME


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_learns_any_task_or_is_refused(network: str, task: str, data_of: Any) -> None:
    data, cfg = data_of(task), config_of(network, task)
    if refused(network, task):
        stream = r"(, or chunk by chunk[^\n]*)?"
        cure = rf"^The network [^\n]*network=gru network\.per_frame=true{stream}\.$"
        with pytest.raises(UserError, match=cure):
            build.task(cfg, data).check(data)
        return
    built = build.task(cfg, data)
    built.check(data)
    batch = next(iter(data.loader("train")))
    losses = one_step(built, batch)
    assert 0 < float(losses.min()) < float(losses.max()) < 50, "finite, and the weights have changed"
    built.eval()
    with torch.no_grad():
        logits, lengths = built.forward_tta(batch.waveforms, batch.lengths)
    built.observe("test", logits, lengths, batch)
    assert len(built.observed) == len(batch)  # type: ignore[arg-type]
    if task not in TRANSCRIBING:
        assert logits.shape == (len(batch), len(built.labels))


@pytest.mark.parametrize("task", ["ctc", "attention", "transducer", "trigger"])
def test_a_gru_for_every_frame_learns_what_needs_frames(task: str, data_of: Any) -> None:
    data = data_of(task)
    built = build.task(config_of("gru", task, "network.per_frame=true"), data)
    built.check(data)
    losses = one_step(built, next(iter(data.loader("train"))))
    assert 0 < float(losses.min()) < float(losses.max()) < 50


@pytest.mark.parametrize("network", ["gru", *sorted(PER_FRAME)])
@torch.no_grad()
def test_a_clip_is_the_mean_of_its_frames_whatever_stands_behind_it(network: str, data_of: Any) -> None:
    data = data_of("classification")
    overrides = ["network.per_frame=true"] if network == "gru" else []
    built = build.task(config_of(network, "classification", *overrides), data).eval()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([8000, 1234, 320, 5000])
    waveforms = 0.1 * torch.randn(4, 9000, generator=generator)
    waveforms *= torch.arange(9000) < lengths[:, None]
    logits, ones = built(waveforms, lengths)
    assert ones.tolist() == [1] * 4
    for row, length in enumerate(lengths.tolist()):
        alone = built.frontend(waveforms[row : row + 1, :length], lengths[row : row + 1])
        frames, count = built.network(*built.normalize(*alone))
        assert frames.shape == (1, int(count), len(built.labels))
        torch.testing.assert_close(logits[row], frames[0].mean(0), rtol=1e-4, atol=1e-5)
