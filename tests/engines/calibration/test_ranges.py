"""Ranges from histograms: the entropy method as published, and what each method promises."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import HistogramCollector

from engines.quantize.activation_ranges import RANGE_METHODS, entropy_range, scale_of_range, squared_error, twin_ranges
from engines.quantize.histogram import Histogram

METHODS = sorted(RANGE_METHODS)


def histogram_of(values):
    histogram = Histogram()
    histogram.add(np.asarray(values, np.float32))
    return histogram


def draw(name, size=60_000):
    rng = np.random.default_rng(7)
    return {
        "normal": lambda: rng.normal(size=size),
        "laplace": lambda: rng.laplace(size=size),
        "heavy tails": lambda: rng.standard_t(3, size=size),
        "uniform": lambda: rng.uniform(-3, 3, size),
        "far from zero": lambda: rng.normal(5, 0.3, size) * rng.choice([-1, 1], size),
    }[name]().astype(np.float32)


def published_range(values):
    """S. Migacz, GTC 2017, slide by slide, with what the product says it settles."""
    largest = values.max()
    counts = np.histogram(values, 2048, (0, largest))[0].astype(np.float64)
    clipped = 1 - np.cumsum(counts) / counts.sum()
    counts[0] = min(counts[0], max(counts[1], 1))
    best, best_divergence = 2048, np.inf
    for i in range(128, 2049):
        if clipped[i - 1] > 0.01:
            continue
        p = counts[:i].copy()
        p[-1] += counts[i:].sum()
        level = np.searchsorted(np.arange(129) * i // 128, np.arange(i), side="right") - 1
        inside, filled = np.bincount(level, counts[:i], 128), np.bincount(level, p > 0, 128)
        q = np.maximum(inside / np.maximum(filled, 1), 1e-4)[level]
        kept = p > 0
        p, q = p[kept] / counts.sum(), q[kept] / inside.sum()
        divergence = (p * np.log(p / q)).sum()
        if divergence <= best_divergence + 1e-12:
            best, best_divergence = i, min(divergence, best_divergence)
    return best / 2048 * largest


# A histogram's bins end at a power of two: where the largest magnitude is one, they are the method's own.
sparse_values = st.lists(
    st.tuples(st.integers(0, 2046), st.integers(1, 1000)), min_size=1, max_size=12, unique_by=lambda pair: pair[0]
).map(lambda pairs: np.repeat([(bin + 0.5) / 2048 for bin, _ in pairs] + [1.0], [n for _, n in pairs] + [1]))


@settings(max_examples=15)
@given(sparse_values)
def test_the_entropy_range_is_the_published_methods(values):
    assert entropy_range(histogram_of(values)) == pytest.approx(published_range(values))


@given(st.floats(1, 1000))
def test_the_entropy_range_keeps_a_sixteenth_of_the_largest_magnitude_at_least(outlier):
    values = np.append(draw("normal", 5_000), np.float32(outlier))

    assert entropy_range(histogram_of(values)) >= values.max() * 128 / 2048


def test_what_lies_next_to_zero_does_not_narrow_the_entropy_range():
    values = draw("laplace")
    near_zero = np.full(len(values), values.max() / 5000, np.float32)

    assert entropy_range(histogram_of(np.append(values, near_zero))) == entropy_range(histogram_of(values))


# ONNX Runtime's last level takes all bins that its other levels leave over, and so it reads thin tails otherwise.
@pytest.mark.parametrize(
    ("name", "factor"), [("normal", 1.15), ("laplace", 1.15), ("uniform", 1.01), ("heavy tails", 2)]
)
def test_the_entropy_range_is_near_that_of_onnx_runtime(name, factor):
    values = draw(name, 20_000)
    theirs = HistogramCollector("entropy", True, 1024, 255, 99.99, "same")  # bins and levels of both signs
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.collect_value({"x": values})
        _, expected, *_ = theirs.compute_entropy()["x"]

    assert float(expected) / factor <= entropy_range(histogram_of(values)) <= float(expected) * factor


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["normal", "laplace", "heavy tails", "uniform", "far from zero"])
def test_a_range_clips_little_and_reaches_no_further_than_the_values(method, name):
    values = draw(name)
    found = RANGE_METHODS[method](histogram_of(values))

    assert 0 < found <= np.abs(values).max()
    assert (np.abs(values) > found).mean() <= 0.01


@pytest.mark.parametrize("method", METHODS)
@given(data=st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=50), exponent=st.integers(-8, 8))
def test_a_range_scales_with_the_values(method, data, exponent):
    values = np.array(data, np.float32)
    values[np.abs(values) < 1e-20] = 0
    factor = np.float32(2.0**exponent)
    if not values.any():
        return
    one, other = (RANGE_METHODS[method](histogram_of(array)) for array in (values, values * factor))

    assert other == pytest.approx(one * float(factor), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_have_a_range_too(method):
    assert RANGE_METHODS[method](histogram_of(np.zeros(10))) == 1.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [1e-30, 0.02, 1.0, 777.7, 1e30])
def test_a_constant_is_kept(method, value):
    assert RANGE_METHODS[method](histogram_of([value] * 9)) == pytest.approx(value, rel=1e-3)


def test_one_outlier_among_many_values_widens_the_maximum_only():
    values = np.append(draw("normal"), 1000.0)
    ranges = {name: method(histogram_of(values)) for name, method in RANGE_METHODS.items()}

    assert ranges["max"] == 1000.0
    assert 3 < ranges["entropy"] < 100
    assert 3 < ranges["percentile"] < 5


def test_the_mse_range_has_the_smallest_error():
    values = draw("laplace")

    def error(largest):
        scale = largest / 127
        return np.mean((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2)

    best = min(error(largest) for largest in np.linspace(0.2, 1, 200) * np.abs(values).max())
    assert error(RANGE_METHODS["mse"](histogram_of(values))) <= best * 1.01


def test_a_scale_is_a_float32_and_never_zero():
    assert scale_of_range(127.0) == 1.0
    assert scale_of_range(0.1) == float(np.float32(0.1 / 127))
    assert scale_of_range(1e-45) > 0


def rounded(values, largest):
    scale = np.float32(scale_of_range(largest))
    return np.clip(np.rint(values / scale), -127, 127) * scale


def error_of(values, largest):
    return float(np.sum((rounded(values, largest) - values.astype(np.float64)) ** 2))


def softmax_outputs(sharpness, size=60_000):
    """As an attention's over 200 rows: nearly all close to nothing, a few close to 1."""
    scores = np.random.default_rng(11).normal(0, sharpness, (size // 200, 200))
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32).reshape(-1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["normal", "laplace", "heavy tails", "uniform", "far from zero"])
def test_the_squared_error_of_a_histogram_is_that_of_its_values(method, name):
    values = draw(name)
    largest = RANGE_METHODS[method](histogram_of(values))

    assert squared_error(histogram_of(values), largest) == pytest.approx(error_of(values, largest), rel=0.05)


shares = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60).map(lambda values: np.array(values, np.float32))


@pytest.mark.parametrize("method", METHODS)
@given(values=shares, edge=st.sampled_from([1 / 64, 1 / 16, 1 / 2]))
def test_two_ranges_are_never_worse_than_one(method, values, edge):
    below, above = values[values < edge], values[values >= edge]
    sides = histogram_of(below), histogram_of(above)

    found, left = twin_ranges(*sides, RANGE_METHODS[method])

    one = RANGE_METHODS[method](histogram_of(values))
    # A histogram knows a value to half a bin, and there are 2048 or more of those up to the largest.
    unknown = len(values) * (values.max() / 2048) * max(one, values.max())
    assert error_of(below, found[0]) + error_of(above, found[1]) <= error_of(values, one) + unknown
    assert 0 <= left <= 1
    assert left < 1 or found == (one, one)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sharpness", [2, 3, 4])
def test_two_ranges_take_most_of_the_error_from_a_softmax(method, sharpness):
    values = softmax_outputs(sharpness)
    sides = histogram_of(values[values < 1 / 16]), histogram_of(values[values >= 1 / 16])

    (below, above), left = twin_ranges(*sides, RANGE_METHODS[method])

    assert below < above / 4
    assert left < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_what_lies_on_one_side_gets_one_range(method):
    values = draw("uniform")
    one = RANGE_METHODS[method](histogram_of(values))

    assert twin_ranges(histogram_of([]), histogram_of(values), RANGE_METHODS[method]) == ((one, one), 1.0)
