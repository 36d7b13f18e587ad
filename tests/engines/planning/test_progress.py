"""How far long work has come, where there is no terminal to draw a bar on."""

import io
import threading

from engines.planning.progress import Progress, open_progress


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


class Listener(io.StringIO):
    """A stream that is no terminal, and tells when something was written."""

    def __init__(self):
        super().__init__()
        self.heard = threading.Event()

    def write(self, text):
        written = super().write(text)
        self.heard.set()
        return written


def test_a_line_tells_share_and_time_left_at_the_pace_so_far():
    clock = Clock()
    progress = Progress("building b", 1000, clock=clock)
    assert progress.line() == "building b: 0% done after 0 s, time left not known yet"

    progress.begin("decoder.00")
    progress.advance(250)
    clock.now_s = 30.0
    assert progress.line() == "building b: 25% done after 30 s, about 2 min left"


def test_what_is_there_of_a_step_counts():
    clock = Clock()
    progress = Progress("building b", 1000, growing_bytes={"decoder.00": 500}.__getitem__, clock=clock)
    progress.begin("decoder.00")
    clock.now_s = 7200.0

    assert progress.line() == "building b: 50% done after 2 h 0 min, about 2 h 0 min left (decoder.00)"


def test_steps_that_were_done_before_are_left_out():
    clock = Clock()
    progress = Progress("building b", 1000, clock=clock)
    progress.leave_out(800)
    progress.advance(100)
    clock.now_s = 10.0

    assert progress.line() == "building b: 50% done after 10 s, about 10 s left"


def test_a_line_comes_by_itself_while_the_work_goes_on():
    stream = Listener()

    with open_progress("building b", 10, lambda step: 0, stream, interval_s=0.001):
        assert stream.heard.wait(60)

    assert stream.getvalue().startswith("building b: 0% done")


def test_a_stream_that_is_closed_does_not_end_the_work():
    class Closed(Listener):
        def write(self, text):
            self.heard.set()
            raise ValueError("closed")

    closed = Closed()
    with open_progress("building b", 10, lambda step: 0, closed, interval_s=0.001) as progress:
        assert closed.heard.wait(60)
        progress.advance(10)

    assert progress.done_bytes == 10
