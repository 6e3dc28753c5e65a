"""Samples of a session: bounded, in order, the first and the last point among them."""

from hypothesis import given
from hypothesis import strategies as st

from streams.samples import Point, Samples

steps = st.lists(st.floats(0.1, 60), min_size=1, max_size=400)


def taken(limit: int, steps: list[float]) -> tuple[Samples, list[Point]]:
    samples, all_points, at_s = Samples(limit), [], 0.0
    for number, step in enumerate(steps):
        at_s += step
        point = Point(at_s, number * 10, number, number, number)
        all_points.append(point)
        samples.add(point, is_last=number == len(steps) - 1)
    return samples, all_points


@given(limit=st.integers(3, 50), steps=steps)
def test_there_are_never_more_points_than_the_limit(limit: int, steps: list[float]) -> None:
    samples, _ = taken(limit, steps)
    assert len(samples.points) <= limit


@given(limit=st.integers(3, 50), steps=steps)
def test_the_first_and_the_last_point_stay_and_all_are_in_order(limit: int, steps: list[float]) -> None:
    samples, all_points = taken(limit, steps)
    assert (samples.points[0], samples.points[-1]) == (all_points[0], all_points[-1])
    assert samples.points == sorted(samples.points) and set(samples.points) <= set(all_points)


def test_few_points_are_all_kept() -> None:
    samples, all_points = taken(120, [5.0] * 100)
    assert samples.points == all_points


def test_a_long_session_is_taken_as_coarsely_as_it_must_be() -> None:
    samples, _ = taken(10, [5.0] * 1000)
    gaps = [later.at_s - earlier.at_s for earlier, later in zip(samples.points, samples.points[1:], strict=False)]
    assert max(gaps[:-1]) <= 4 * min(gaps[:-1])
