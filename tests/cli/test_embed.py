"""embed: vectors of encoders and of runs, what is alike, and the plane in which they are drawn."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import sine, write_wav

import lightning_audio
from lightning_audio.cli.embed import main
from lightning_audio.data.decode import decode
from lightning_audio.inference.embeddings import embeddings, in_a_plane, nearest, of_task


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Low again with noise, high, low."""
    rng, rate = np.random.default_rng(0), 16000
    low, high = sine(300, 0.7, rate), sine(3000, 0.9, rate)
    signals = {"low": low, "high": high, "again": low + 0.01 * rng.standard_normal(len(low))}
    return sorted(str(write_wav(tmp_path / "in" / f"{name}.wav", x, rate)) for name, x in signals.items())


def test_a_run_gives_what_its_last_linear_layer_is_given(
    tiny_run: Path, files: list[str], tmp_path: Path
) -> None:
    main([str(tiny_run), *files, "--output", str(tmp_path / "x.npz")])
    written = np.load(tmp_path / "x.npz")
    assert written["id"].tolist() == files
    assert written["seconds"].tolist() == pytest.approx([0.7, 0.9, 0.7])
    task = lightning_audio.load(tiny_run)
    seen = []
    layer = [m for m in task.network.modules() if isinstance(m, torch.nn.Linear)][-1]
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        samples = torch.from_numpy(decode(files[1], task.sample_rate))[None]
        task(samples, torch.tensor([samples.shape[1]]))
    np.testing.assert_allclose(written["embedding"][1], seen[0][0], rtol=1e-5, atol=1e-6)


def test_a_long_recording_is_the_mean_of_its_pieces(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_audio.inference.embeddings.LONGEST", 1.0)
    embed = of_task(lightning_audio.load(tiny_run))
    x = (np.random.default_rng(0).uniform(-0.5, 0.5, 36000) * 2**15).astype(np.int16)

    def one(samples: np.ndarray) -> np.ndarray:
        ((_, _, vector),) = embeddings(embed, [("x", samples)], 16000, torch.device("cpu"))
        return vector

    first, rest = one(x[:16000]), one(x[16000:36000])  # 0.25 s at the end do not stand for themselves
    np.testing.assert_allclose(one(x), (16 * first + 20 * rest) / 36, rtol=1e-4, atol=1e-5)


def test_nearest_are_by_cosine_and_never_the_file_itself() -> None:
    vectors = np.array([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
    found = list(nearest(vectors, 2))
    assert [[row for row, _ in others] for others in found] == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert found[0][0][1] == pytest.approx(10 / np.sqrt(101))
    assert len(next(nearest(vectors, 10))) == 3


@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_a_plane_keeps_what_lies_apart_apart(projection: str) -> None:
    if projection == "tsne":
        pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.standard_normal((8, 20)), 30 + rng.standard_normal((8, 20))])
    plane = in_a_plane(vectors.astype(np.float32), projection)
    assert plane.shape == (16, 2)
    centres = plane[:8].mean(0), plane[8:].mean(0)
    assert np.linalg.norm(centres[0] - centres[1]) > 3 * plane[:8].std(0).max()


def test_an_encoder_that_was_exported_and_the_files_that_are_alike(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of transformers, parquet, a picture."""
    transformers, parquet = pytest.importorskip("transformers"), pytest.importorskip("pyarrow.parquet")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": [8], "conv_kernel": [400], "conv_stride": [320], "num_feat_extract_layers": 1}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    # Not "group": over the time of a tone whose periods fit the stride it would divide nothing by nothing.
    norm = {"feat_extract_norm": "layer"}
    config = transformers.Wav2Vec2Config(**small, **convolutions, **positions, **norm)
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path / "model")
    output, plot = tmp_path / "x.parquet", tmp_path / "plane.png"
    written = ["--output", str(output), "--similar", "1", "--plot", str(plot)]
    main([str(tmp_path / "model"), *files, *written])
    table = parquet.read_table(output).to_pydict()
    assert table["id"] == files
    assert np.array(table["embedding"]).shape == (3, 16)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{files[0]}: {files[2]} ")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_file_whose_name_is_no_utf8_costs_the_others_nothing(tiny_run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = write_wav(tmp_path / "in" / "a.wav", sine(300, 0.5, 16000), 16000)
    file.rename(file.with_name(os.fsdecode(b"caf\xe9.wav")))
    main([str(tiny_run), str(tmp_path / "in"), "--output", str(tmp_path / "x.parquet")])
    assert parquet.read_table(tmp_path / "x.parquet")["id"].to_pylist() == [f"{tmp_path}/in/caf\\udce9.wav"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "{file}", "--similar", "1"], "There is no checkpoint at nothing"),
        (
            ["yamnet", "{file}", "--output", "x.txt"],
            "x.txt is of no format for embeddings",
        ),
        (["x.onnx", "{file}", "--similar", "1"], "There is no ONNX file"),
        (["yamnet", "{file}", "--similar", "0"], "--similar 0 counts files: set it to 1 or more"),
        (["yamnet", "{file}", "--similar", "-1"], "--similar -1 counts files"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], message: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([one.format(file=files[0]) for one in arguments])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
