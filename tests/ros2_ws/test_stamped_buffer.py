"""What is heard of where the drone is goes to the frame whose stamp is nearest, and to none that is far."""

from types import SimpleNamespace

from inspection_ros.stamped_buffer import StampedBuffer


def heard_at(*seconds):
    poses = StampedBuffer()
    for second in seconds:
        stamp = SimpleNamespace(sec=int(second), nanosec=int(second % 1 * 1e9))
        poses.hear(SimpleNamespace(header=SimpleNamespace(stamp=stamp), second=second))
    return poses


def nearest(poses, second):
    return [pose.second for pose in poses.at(int(second * 1e9))]


def test_the_nearest_is_found_whether_it_came_before_or_after():
    poses = heard_at(1.0, 1.5, 2.0)
    assert nearest(poses, 1.6) == [1.5]
    assert nearest(poses, 1.9) == [2.0]


def test_what_is_more_than_a_second_off_says_nothing():
    assert nearest(heard_at(1.0), 2.0) == [1.0]
    assert nearest(heard_at(1.0), 2.1) == []


def test_nothing_heard_is_nothing_known():
    assert nearest(heard_at(), 1.0) == []


def test_memory_is_bounded_and_the_oldest_forgotten():
    poses = heard_at(*range(1000))
    assert nearest(poses, 10.0) == []
    assert nearest(poses, 999.0) == [999]
