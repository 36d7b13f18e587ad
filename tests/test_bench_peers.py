"""What the comparison with peers and the plots of growth tell follows from what was measured."""

import pytest

from benchmarks.bench_peers import Turn, result_of, table
from benchmarks.growth.plot import Panel, panels_svg
from benchmarks.peers.answer import answer_steps
from benchmarks.peers.measure import Figures


def turn(token_s: float, load_s: float = 1.0) -> Turn:
    tokens_s = {1: token_s, 640: 2 * token_s}
    figures = Figures(load_s, {128: 4.0, 640: 20.0}, tokens_s, 30 * token_s, 4 * 10**9, None, scaled=False)
    return Turn(figures, peak_bytes=5 * 10**9, own_bytes=10**9)


def test_a_peer_s_figures_are_medians_and_its_bytes_a_share_of_what_the_machine_reads() -> None:
    result = result_of("llama.cpp", [turn(0.25), turn(0.2), turn(9.0)], bandwidths=[32e9, 31e9, 33e9], answer_tokens=60)
    assert result.decode_tokens_per_s == {1: pytest.approx(4.0), 640: pytest.approx(2.0)}
    assert result.answer_tokens_per_s == pytest.approx(8.0)
    assert result.read_share == pytest.approx(0.5)


def test_a_table_of_peers_says_how_many_times_as_fast_ours_is() -> None:
    seconds = {"edge-runtime": 0.2, "other": 0.3}
    results = [result_of(name, [turn(token_s)], [32e9], 60) for name, token_s in seconds.items()]
    ratios = "decode at 1 1.50x, decode at 640 1.50x, an answer 1.50x, prefill of 128 1.00x, prefill of 640 1.00x"
    assert f"edge-runtime against other: {ratios}" in table(results)


def test_what_should_grow_in_a_straight_line_and_does_not_is_told() -> None:
    straight = Panel("to load", "MB", "s", [(1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0)])
    crooked = Panel("to write", "tokens", "ms", [(0, 0.0), (1, 1.0), (2, 4.0), (3, 9.0)])
    growing = Panel("the process", "images", "MB", [(1, 100.0), (2, 120.0)], is_flat=True)
    assert not straight.is_crooked
    assert crooked.is_crooked
    assert growing.is_crooked
    assert crooked.verdict.endswith("NOT AS IT SHOULD BE")
    assert panels_svg([straight, crooked, growing]).count("<circle") == 10


def test_forced_tokens_of_the_answer_that_is_timed_come_with_the_chosen_one_before_them() -> None:
    steps = answer_steps()
    assert min(steps) == 1
    assert max(steps) > 1
