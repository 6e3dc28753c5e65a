"""A session's counters over time. Pure: so many points and no more, however long the session lives."""

from typing import NamedTuple


class Point(NamedTuple):
    """Seconds since the session began, and what its counters said then."""

    at_s: float
    bytes_sent: int
    chunks_sent: int
    bytes_recv: int
    chunks_recv: int


class Samples:
    """At most `limit` points, the first and the last ones among them.

    Where there are too many every second one goes, and from then on they are taken half as often: a minute is kept
    finely, a day as coarsely as it must be.
    """

    def __init__(self, limit: int) -> None:
        self.points: list[Point] = []
        self._limit = max(limit, 3)
        self._pause_s = 0.0

    def add(self, point: Point, is_last: bool = False) -> bool:
        """Take a point, where it is time for one. Says whether it was taken."""
        if self.points and not is_last and point.at_s - self.points[-1].at_s < self._pause_s:
            return False
        self.points.append(point)
        if len(self.points) > self._limit:
            last = self.points[-1]
            self.points = [*self.points[:-1:2], last]
            self._pause_s = (last.at_s - self.points[0].at_s) / len(self.points)
        return True
