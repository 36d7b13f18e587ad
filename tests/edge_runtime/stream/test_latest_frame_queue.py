"""Each camera's newest frame waits, and cameras are served by priority and in turn; what is lost is counted."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.stream.latest_frame_queue import LatestFrameQueue

WAIT_S = 10.0


def test_the_newest_item_of_a_camera_replaces_the_one_that_waits() -> None:
    queue: LatestFrameQueue[int] = LatestFrameQueue(["front"])
    for number in (1, 2, 3):
        queue.put("front", number)
    assert queue.take(WAIT_S) == ("front", 3)
    assert queue.dropped("front") == 2


def test_a_fast_camera_does_not_starve_a_slow_one() -> None:
    queue: LatestFrameQueue[int] = LatestFrameQueue(["fast", "slow"])
    served: Counter[str] = Counter()
    for number in range(100):
        queue.put("fast", number)
        if number % 10 == 0:
            queue.put("slow", number)
        item = queue.take(WAIT_S)
        assert item is not None
        served[item[0]] += 1
    assert served["slow"] == 10


def test_cameras_with_as_much_to_show_get_equal_shares() -> None:
    queue: LatestFrameQueue[int] = LatestFrameQueue(["left", "middle", "right"])
    served: Counter[str] = Counter()
    for number in range(60):
        for camera in ("left", "middle", "right"):
            queue.put(camera, number)
        item = queue.take(WAIT_S)
        assert item is not None
        served[item[0]] += 1
    assert set(served.values()) == {20}


def test_a_camera_of_higher_priority_is_served_first_and_the_others_when_it_has_nothing_new() -> None:
    queue: LatestFrameQueue[int] = LatestFrameQueue(["belly", "front"], priorities={"front": 1})
    for number in (1, 2):
        queue.put("belly", number)
        queue.put("front", number)
    assert queue.take(WAIT_S) == ("front", 2)
    queue.put("front", 3)
    assert queue.take(WAIT_S) == ("front", 3)
    assert queue.take(WAIT_S) == ("belly", 2)


def test_taking_waits_for_a_camera_and_gives_up_in_time() -> None:
    queue: LatestFrameQueue[int] = LatestFrameQueue(["front"])
    assert queue.take(timeout_s=0.01) is None
    threading.Timer(0.05, queue.put, ("front", 7)).start()
    assert queue.take(WAIT_S) == ("front", 7)


def test_closing_wakes_the_taker_and_counts_what_waits_and_what_comes() -> None:
    queue: LatestFrameQueue[int] = LatestFrameQueue(["front"])
    threading.Timer(0.05, queue.close).start()
    assert queue.take(WAIT_S) is None
    queue.put("front", 1)
    assert queue.dropped("front") == 1


def test_items_put_from_many_threads_are_taken_or_counted() -> None:
    queue: LatestFrameQueue[int] = LatestFrameQueue(["front"])
    threads = [threading.Thread(target=lambda: [queue.put("front", item) for item in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    taken = 0
    while any(thread.is_alive() for thread in threads):
        taken += queue.take(timeout_s=0.01) is not None
    taken += queue.take(timeout_s=0) is not None
    assert taken + queue.dropped("front") == 800


@given(st.lists(st.tuples(st.sampled_from(["put", "take"]), st.sampled_from(["a", "b", "c"]))))
def test_every_item_is_taken_dropped_or_waits(steps: list[tuple[str, str]]) -> None:
    queue: LatestFrameQueue[int] = LatestFrameQueue(["a", "b", "c"], priorities={"b": 2})
    puts = takes = 0
    waiting: set[str] = set()
    for step, camera in steps:
        if step == "put":
            queue.put(camera, puts)
            puts += 1
            waiting.add(camera)
        elif (item := queue.take(timeout_s=0)) is not None:
            takes += 1
            waiting.remove(item[0])
    assert puts == takes + len(waiting) + sum(map(queue.dropped, "abc"))
