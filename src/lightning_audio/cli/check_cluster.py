"""Asks whether processes on several devices and machines can train together, and what differs between them.

torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
    -m lightning_audio check-cluster experiment=esc50_resnet
srun lightning-audio check-cluster experiment=esc50_resnet
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from omegaconf import OmegaConf

from lightning_audio import config
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.io import free_bytes, terminal
from lightning_audio.reports.results import commit, versions
from lightning_audio.reports.tables import print_table

PATIENCE = 60.0  # seconds that processes wait for one another
MEGABYTES = 16  # that are summed over all
CLOCKS = 1.0  # seconds by which they may differ; waiting for one another takes less
# What differs of itself.
OWN = ("rank", "host", "clock", "all-reduce GB/s", "shared logs", "free GB of paths.cache")


def join() -> tuple[int, int]:
    """This process's rank and how many there are, connected by gloo.

    Raises:
        UserError: the others do not come.
    """
    if TorchElasticEnvironment.detect():
        where: Any = TorchElasticEnvironment()
    elif SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        where = SLURMEnvironment(auto_requeue=False)
    else:
        return 0, 1
    os.environ |= {"MASTER_ADDR": where.main_address, "MASTER_PORT": str(where.main_port)}
    rank, world = where.global_rank(), where.world_size()
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"Process {rank} of {world} on {platform.node()} found no others at {where.main_address}:"
            f"{where.main_port} within {PATIENCE:g} s: look whether that port is open between the nodes "
            f"({error})."
        ) from error
    return rank, world


def summed(world: int) -> float:
    """GB a second at which the processes sum numbers, after a look at whether the sum is right.

    Raises:
        UserError: it is not.
    """
    if world == 1:
        return 0.0
    numbers = torch.ones(MEGABYTES * 2**18)
    dist.all_reduce(numbers)
    if not torch.equal(numbers, torch.full_like(numbers, world)):
        raise UserError(
            f"All-reduce over {world} processes gives wrong sums: look at the network between them."
        )
    start = time.perf_counter()
    dist.all_reduce(numbers)
    return MEGABYTES / 1000 / (time.perf_counter() - start)


def facts(rank: int, cfg: Any) -> dict[str, Any]:
    """What has to be the same in all processes, and what a reader wants to know of each."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    root = Path(str(OmegaConf.select(cfg, "data.root", default=None) or cfg.paths.data))
    names = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else None
    return {
        "rank": rank,
        "host": platform.node(),
        "clock": time.time(),
        "GPUs": ", ".join(gpus) or "none",
        "CPUs": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        **{package: version for package, version in versions().items() if version},
        "commit": commit(),
        f"{root}": "absent" if names is None else f"{len(names)} entries",
        "free GB of paths.cache": int(free_bytes(Path(cfg.paths.cache)) / 1e9),
    }


def shares_folder(rank: int, logs: Path, name: str) -> str:
    """Whether what the first process writes into the folder of logs is seen here, and locks work there."""
    file, why = logs / name, ""
    try:
        if rank == 0:
            logs.mkdir(parents=True, exist_ok=True)
            file.write_text(name)
    except OSError as error:
        why = f"no: {error}"
    _together()  # all of them, whatever went wrong with one
    try:
        seen = file.is_file() and file.read_text() == name
        with FileLock(f"{file}.{rank}.lock", timeout=10):
            pass
        Path(f"{file}.{rank}.lock").unlink(missing_ok=True)
        return why or ("yes" if seen else "no: not the same folder as that of the first process")
    except (OSError, NotImplementedError) as error:
        return why or f"no: {error}"
    finally:
        _together()
        if rank == 0:
            with contextlib.suppress(OSError):
                file.unlink()


def _together() -> None:
    if dist.is_initialized():
        dist.barrier()


def differences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each fact that is not the same everywhere, and for clocks that are apart."""
    found = []
    for name in dict.fromkeys(key for row in rows for key in row):
        by_value: dict[Any, list[str]] = {}
        for row in rows:
            by_value.setdefault(row.get(name, "absent"), []).append(f"{row['rank']} ({row['host']})")
        if name not in OWN and len(by_value) > 1:
            each = (f"{value} on {', '.join(ranks)}" for value, ranks in by_value.items())
            found.append(f"{name} differs: {'; '.join(each)}.")
    clocks = [row["clock"] for row in rows]
    if (apart := max(clocks) - min(clocks)) > CLOCKS:
        found.append(
            f"Clocks are {apart:.1f} s apart: set them by NTP, or run folders are hard to put in order."
        )
    found += [
        f"Process {row['rank']} on {row['host']} does not share paths.logs ({row['shared logs']}): name a "
        "folder that all nodes see."
        for row in rows
        if row["shared logs"] != "yes"
    ]
    return found


def check(arguments: Sequence[str]) -> list[str]:
    """Looks at all processes; the first one prints a table of them. Returns what differs, on the first."""
    cfg = config.compose_config(arguments)
    rank, world = join()
    try:
        rows = looked_at(rank, world, cfg)
    except RuntimeError as error:  # of gloo, whose text begins with a place in its own code
        why = str(error).partition("\n")[0].rpartition("] ")[2]
        raise UserError(
            f"Process {rank} of {world} on {platform.node()} lost another one ({why}): look at what that one "
            "says, and at the network between them."
        ) from error
    if rank:
        return []
    shown = ("rank", "host", "GPUs", "CPUs", "free GB of paths.cache", "shared logs", "all-reduce GB/s")
    print_table([{name: str(one[name]) for name in shown} for one in rows], f"{world} processes", terminal())
    return differences(rows)


def looked_at(rank: int, world: int, cfg: Any) -> list[Any]:
    """The facts of each process, in all of them."""
    names = [secrets.token_hex(8)]
    if world > 1:
        dist.broadcast_object_list(names)
    speed = summed(world)
    shared = shares_folder(rank, Path(cfg.paths.logs), f".check_{names[0]}")
    _together()
    row = facts(rank, cfg) | {"shared logs": shared, "all-reduce GB/s": round(speed, 2)}
    rows: list[Any] = [row]
    if world > 1:
        rows = [None] * world
        dist.all_gather_object(rows, row)
        dist.destroy_process_group()
    return rows


@cli_errors
def main() -> None:
    found = check(sys.argv[1:])
    for sentence in found:
        print(sentence, file=sys.stderr)
    if found:
        raise UserError(f"{len(found)} things differ between the processes: the lines above say which.")


if __name__ == "__main__":
    main()
