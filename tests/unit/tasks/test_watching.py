"""What people and automations hear of a step: how fast, how long, and how many times in a row accuracy fell."""

from tasks.metrics import falls
from tasks.watch import Watch, pace, span


def test_rate_and_time_left_are_of_this_process() -> None:
    assert pace(0, 10, 5.0) == [] and pace(5, 5, 0.0) == []
    assert pace(30, 90, 10.0) == ["3.0 per second", "about 30 s left"]
    assert pace(2, 8, 60.0) == ["2.0 per minute", "about 4 min left"]
    assert pace(10, 0, 10.0) == ["1.0 per second"]
    assert [span(s) for s in (89.4, 120, 7200)] == ["89 s", "2 min", "2.0 h"]


def test_a_resumed_step_does_not_count_what_was_done_before() -> None:
    watch = Watch("train · 2", None, "steps")
    assert watch.words() == "train · 2: 0 of ? steps"
    watch.move(40, "loss 1.2", total=80)
    assert watch.words() == "train · 2: 40 of 80 steps. loss 1.2", "nothing is done yet of which the time is known"
    watch.move(41, "loss 1.1")
    assert "per second" in watch.words() and "left" in watch.words()
    assert 51 < watch.percent < 52


def test_falls_are_counted_in_a_row_up_to_now() -> None:
    assert falls([]) == falls([0.5]) == falls([0.5, 0.5]) == falls([0.9, 0.1, 0.2]) == 0
    assert falls([0.5, 0.7, 0.6]) == 1 and falls([0.5, 0.7, 0.6, 0.4]) == 2
