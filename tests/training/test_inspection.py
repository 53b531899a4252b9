"""`debug=inspect`: what stands in TensorBoard is what the run has, and the run is the same with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.pr_curve.metadata import PLUGIN_NAME

from lightning_audio.checkpoint import load, read
from lightning_audio.reports.results import read_metrics

COMMON = (*(option for option in TINY if option != "logger=none"), "loader.val_fraction=0.25")


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, cache = tmp_path_factory.mktemp("inspected") / "run", tmp_path_factory.getbasetemp() / "cache"
    options = (
        "debug=inspect",
        "callbacks.inspection.every_n_steps=2",
        "callbacks.inspection.pr_curves=3",
    )
    return trained(folder, cache, [*COMMON, *options])


@pytest.fixture(scope="module")
def events(inspected: Path) -> Any:
    found = EventAccumulator(str(inspected / "tensorboard"), size_guidance={"tensors": 0, "histograms": 0})
    found.Reload()
    return found


def test_histograms_are_of_all_weights_and_the_norm_is_that_of_the_gradients(
    events: Any, inspected: Path
) -> None:
    weights = dict(load(inspected).named_parameters())
    names = {tag.partition("/")[2] for tag in events.Tags()["histograms"] if tag.startswith("weights/")}
    assert names == set(weights)
    norms = {row.step: row.value for row in events.Scalars("gradient_norm")}
    assert len(norms) >= 4
    for step, norm in norms.items():
        squares = 0.0
        for name, weight in weights.items():
            (found,) = [h for h in events.Histograms(f"gradients/{name}") if h.step == step]
            assert found.histogram_value.num == weight.numel()
            squares += found.histogram_value.sum_squares
        assert norm == pytest.approx(squares**0.5, rel=1e-4)


def test_graph_curves_and_options_are_there(events: Any, inspected: Path) -> None:
    assert events.Tags()["graph"]
    nodes = {node.op for node in events.Graph().node}
    assert any("conv" in op for op in nodes)
    labels = read_metrics(inspected)["data"]["labels"]
    curves = set(events.PluginTagToContent(PLUGIN_NAME))
    assert curves == {f"pr/{label}" for label in labels[:3]}
    content = events.PluginTagToContent("hparams")["_hparams_/experiment"]
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    scores = {metric.name.tag for metric in experiment.metric_infos}
    assert "val/accuracy" in scores
    assert not any(name.startswith("test/") for name in scores)


def test_the_run_is_the_same_without(inspected: Path, tmp_path: Path, tmp_path_factory: Any) -> None:
    plain = trained(tmp_path / "run", tmp_path_factory.getbasetemp() / "cache", COMMON)
    mine, other = (read(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (inspected, plain))
    assert mine.keys() == other.keys()
    assert [name for name in other if not torch.equal(mine[name], other[name])] == []
