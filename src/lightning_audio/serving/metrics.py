"""What a server counts, in Prometheus' text format."""

from __future__ import annotations

import resource
import sys
from bisect import bisect_left
from collections import Counter
from pathlib import Path

PREFIX = "lightning_audio_"
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds of a request
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters and gauges of one process; all begin at 0 when it starts."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()  # by the status of their answers
        self.seconds = [0] * (len(BUCKETS) + 1)  # requests by the time they took
        self.total_seconds = 0.0
        self.counts: Counter[str] = Counter(batches_total=0, answers_total=0, streams_total=0)
        self.gauges: Counter[str] = Counter(requests_in_progress=0, streams_open=0)

    def request(self, status: int, seconds: float) -> None:
        self.requests[status] += 1
        self.seconds[bisect_left(BUCKETS, seconds)] += 1
        self.total_seconds += seconds

    def text(self) -> str:
        """All of them, each behind its type."""
        lines = [f"# TYPE {PREFIX}requests_total counter"]
        lines += [
            f'{PREFIX}requests_total{{status="{status}"}} {count}'
            for status, count in sorted(self.requests.items())
        ]
        name, below = f"{PREFIX}request_seconds", 0
        lines.append(f"# TYPE {name} histogram")
        for edge, count in zip((*BUCKETS, "+Inf"), self.seconds, strict=True):
            below += count
            lines.append(f'{name}_bucket{{le="{edge}"}} {below}')
        lines += [f"{name}_sum {self.total_seconds:.6f}", f"{name}_count {below}"]
        gauges = {**self.gauges, "resident_memory_bytes": resident_memory()}
        for kind, values in (("counter", self.counts), ("gauge", gauges)):
            for one, value in values.items():
                lines += [f"# TYPE {PREFIX}{one} {kind}", f"{PREFIX}{one} {value}"]
        return "\n".join(lines) + "\n"


def resident_memory() -> int:
    """Bytes of this process; where the system does not tell, the most that they were."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
