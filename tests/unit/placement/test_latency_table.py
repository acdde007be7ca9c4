import pytest

from placement.errors import PlanError
from placement.profile import LatencyTable


def test_time_is_linear_between_knots_and_goes_on_with_the_last_slope():
    table = LatencyTable((0, 10, 30), (0.0, 1.0, 2.0))
    assert [table.at(batch) for batch in (0, 5, 10, 20, 30, 50)] == [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]


def test_up_to_lists_every_whole_batch_size():
    table = LatencyTable((0, 2, 4), (0.0, 1.0, 4.0))
    assert table.up_to(5) == [0.0, 0.5, 1.0, 2.5, 4.0, 5.5]


@pytest.mark.parametrize(
    ("batches", "seconds", "says"),
    [
        ((0,), (0.0,), "at least two knots"),
        ((0, 1), (0.0,), "at least two knots"),
        ((0, 5, 5), (0.0, 1.0, 2.0), "batch size 5 follows 5"),
        ((1, 5), (0.0, 1.0), "first knot is 1"),
        ((0, 5), (0.0, -1.0), "at batch size 5: time in seconds is -1"),
        ((0, 5), (0.0, float("nan")), "must be a finite number"),
    ],
)
def test_tables_that_make_no_sense_are_refused(batches, seconds, says):
    with pytest.raises(PlanError, match=says):
        LatencyTable(batches, seconds)
