"""Counts and times of the server in Prometheus' text format (version 0.0.4), without its client library.

Labels take values from this code alone (route, status), never from a request, so there is a bounded number of lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Histogram:
    """Observations counted under bounds, with their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.sum += value
        for i, bound in enumerate(self.bounds):
            if value <= bound:
                self.counts[i] += 1
                return
        self.counts[-1] += 1

    def lines(self, name: str, labels: str = "") -> list[str]:
        """The buckets, cumulative, then sum and count; ``labels`` such as ``path="/health"``."""
        total, lines = 0, []
        comma = "," if labels else ""
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{labels}{comma}le="{bound}"}} {total}')
        braced = f"{{{labels}}}" if labels else ""
        return [*lines, f"{name}_sum{braced} {self.sum}", f"{name}_count{braced} {total}"]


class Metrics:
    """What ``/metrics`` shows. ``places`` gives (taken, all) of the queue at the moment of asking."""

    def __init__(self, places: Callable[[], tuple[int, int]]) -> None:
        self.places = places
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: dict[str, Histogram] = {}
        self.groups = Histogram(SIZES)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count one answered request; ``path`` is a route of ours, or ``other``."""
        self.requests[path, status] += 1
        self.seconds.setdefault(path, Histogram(SECONDS)).observe(seconds)

    def text(self) -> str:
        """The whole page."""
        taken, places = self.places()
        return "\n".join(
            [
                "# HELP vitreous_requests_total Requests answered, by route and status.",
                "# TYPE vitreous_requests_total counter",
                *(
                    f'vitreous_requests_total{{path="{path}",status="{status}"}} {count}'
                    for (path, status), count in sorted(self.requests.items())
                ),
                "# HELP vitreous_request_seconds From the first byte of a request to the last of its answer.",
                "# TYPE vitreous_request_seconds histogram",
                *(
                    line
                    for path, histogram in sorted(self.seconds.items())
                    for line in histogram.lines("vitreous_request_seconds", f'path="{path}"')
                ),
                "# HELP vitreous_batch_size Pictures answered in one go.",
                "# TYPE vitreous_batch_size histogram",
                *self.groups.lines("vitreous_batch_size"),
                "# HELP vitreous_places_taken Pictures being read, waiting or being answered.",
                "# TYPE vitreous_places_taken gauge",
                f"vitreous_places_taken {taken}",
                "# HELP vitreous_places Pictures there is place for.",
                "# TYPE vitreous_places gauge",
                f"vitreous_places {places}",
                "",
            ]
        )
