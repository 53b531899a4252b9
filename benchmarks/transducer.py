"""Memory and time of the transducer's loss and gradient, in parts and beside torchaudio's plain use of it."""

from __future__ import annotations

import multiprocessing
import resource
import time

import torch
from timing import arguments
from torchaudio.functional import rnnt_loss

from lightning_audio.decoding.transducer import Joiner, TransducerModel
from lightning_audio.reports.tables import markdown_table
from lightning_audio.tasks.predictors import LSTMPredictor

BATCH, FRAMES, WIDTH = 16, 250, 256  # 10 s of frames of 40 ms
# Tokens that there are, tokens that each utterance has.
CASES = {"500 tokens, 60 in each utterance": (500, 60), "30 tokens, 500 in each utterance": (30, 500)}


def cost(way: str, tokens: int, said: int, connection: object) -> None:
    """Sends seconds and megabytes, above those before, of a loss and its gradient."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = TransducerModel(LSTMPredictor(tokens + 1, WIDTH), Joiner(WIDTH, tokens + 1))
    frames = torch.randn(BATCH, FRAMES, WIDTH, requires_grad=True)
    targets = torch.randint(1, tokens + 1, (BATCH, said))
    lengths, counts = torch.full((BATCH,), FRAMES), torch.full((BATCH,), said)
    model.losses(frames[:1, :5], lengths[:1].clamp(max=5), targets[:1], counts[:1]).sum().backward()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if way == "plain":
        logits = model.joiner.output((frames[:, :, None] + model.predictor(targets)[:, None]).tanh())
        ends = (part.to(torch.int32) for part in (targets, lengths, counts))
        loss = rnnt_loss(logits, *ends, blank=0, reduction="none")
    else:
        loss = model.losses(frames, lengths, targets, counts)
    loss.sum().backward()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.send((seconds, (peak - before) / 1024, float(loss.detach().mean())))  # type: ignore[attr-defined]


def main() -> None:
    options = arguments(__doc__ or "", repeats=1)
    rows = []
    for name, (tokens, said) in CASES.items():
        for way in ("in parts", "plain"):
            ours, theirs = multiprocessing.Pipe()
            given = (way, tokens, said // 10 if options.quick else said, theirs)
            process = multiprocessing.get_context("spawn").Process(target=cost, args=given)
            process.start()
            theirs.close()
            seconds, megabytes, loss = ours.recv()
            process.join()
            row = {"16 utterances of 10 s": name, "joined": way, "MB": f"{megabytes:.0f}"}
            rows.append(row | {"CPU seconds": f"{seconds:.1f}", "loss": f"{loss:.3f}"})
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
