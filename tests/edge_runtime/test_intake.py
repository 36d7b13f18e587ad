"""Each camera's newest frame waits, and cameras are served by priority and in turn; what is lost is counted."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.stream.latest_frame_queue import Intake

WAIT_S = 10.0


def test_the_newest_item_of_a_camera_replaces_the_one_that_waits() -> None:
    intake: Intake[int] = Intake(["front"])
    for number in (1, 2, 3):
        intake.put("front", number)
    assert intake.take(WAIT_S) == ("front", 3)
    assert intake.dropped("front") == 2


def test_a_fast_camera_does_not_starve_a_slow_one() -> None:
    intake: Intake[int] = Intake(["fast", "slow"])
    served: Counter[str] = Counter()
    for number in range(100):
        intake.put("fast", number)
        if number % 10 == 0:
            intake.put("slow", number)
        item = intake.take(WAIT_S)
        assert item is not None
        served[item[0]] += 1
    assert served["slow"] == 10


def test_cameras_with_as_much_to_show_get_equal_shares() -> None:
    intake: Intake[int] = Intake(["left", "middle", "right"])
    served: Counter[str] = Counter()
    for number in range(60):
        for camera in ("left", "middle", "right"):
            intake.put(camera, number)
        item = intake.take(WAIT_S)
        assert item is not None
        served[item[0]] += 1
    assert set(served.values()) == {20}


def test_a_camera_of_higher_priority_is_served_first_and_the_others_when_it_has_nothing_new() -> None:
    intake: Intake[int] = Intake(["belly", "front"], priorities={"front": 1})
    for number in (1, 2):
        intake.put("belly", number)
        intake.put("front", number)
    assert intake.take(WAIT_S) == ("front", 2)
    intake.put("front", 3)
    assert intake.take(WAIT_S) == ("front", 3)
    assert intake.take(WAIT_S) == ("belly", 2)


def test_taking_waits_for_a_camera_and_gives_up_in_time() -> None:
    intake: Intake[int] = Intake(["front"])
    assert intake.take(timeout_s=0.01) is None
    threading.Timer(0.05, intake.put, ("front", 7)).start()
    assert intake.take(WAIT_S) == ("front", 7)


def test_closing_wakes_the_taker_and_counts_what_waits_and_what_comes() -> None:
    intake: Intake[int] = Intake(["front"])
    threading.Timer(0.05, intake.close).start()
    assert intake.take(WAIT_S) is None
    intake.put("front", 1)
    assert intake.dropped("front") == 1


def test_items_put_from_many_threads_are_taken_or_counted() -> None:
    intake: Intake[int] = Intake(["front"])
    threads = [threading.Thread(target=lambda: [intake.put("front", item) for item in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    taken = 0
    while any(thread.is_alive() for thread in threads):
        taken += intake.take(timeout_s=0.01) is not None
    taken += intake.take(timeout_s=0) is not None
    assert taken + intake.dropped("front") == 800


@given(st.lists(st.tuples(st.sampled_from(["put", "take"]), st.sampled_from(["a", "b", "c"]))))
def test_every_item_is_taken_dropped_or_waits(steps: list[tuple[str, str]]) -> None:
    intake: Intake[int] = Intake(["a", "b", "c"], priorities={"b": 2})
    puts = takes = 0
    waiting: set[str] = set()
    for step, camera in steps:
        if step == "put":
            intake.put(camera, puts)
            puts += 1
            waiting.add(camera)
        elif (item := intake.take(timeout_s=0)) is not None:
            takes += 1
            waiting.remove(item[0])
    assert puts == takes + len(waiting) + sum(map(intake.dropped, "abc"))
