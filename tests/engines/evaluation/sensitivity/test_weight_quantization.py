"""WeightQuantizations: what they are called, and what they leave of a matrix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import RecipeError
from engines.evaluation.sensitivity.weight_quantization import (
    Problem,
    WeightQuantization,
    quantization_from_text,
    quantized,
)
from engines.quantize.activations import measure_activations
from tests.engines.quantize.data import matrix_and_inputs, problems, relative_error

ALL = ["rtn8", "nf4", *(f"{method}{bits}" for method in ("rtn", "fitted", "gptq", "awq", "awq-gptq") for bits in "432")]


@pytest.mark.parametrize("text", [*ALL, "gptq4/32", "rtn2/16"])
def test_a_name_is_read_as_it_is_written(text):
    assert str(quantization_from_text(text)) == text


@pytest.mark.parametrize("text", ["", "int4", "gptq", "gptq8", "nf3", "rtn4/100", "rtn5", "GPTQ4"])
def test_an_unknown_name_is_refused(text):
    with pytest.raises(RecipeError, match=r"expected|there is no quantization"):
        quantization_from_text(text)


@given(problems(), st.sampled_from(["gptq", "awq", "awq-gptq"]), st.sampled_from([2, 3, 4]), st.booleans())
def test_methods_that_see_inputs_leave_outputs_nearer_than_rounding_to_nearest(problem, method, bits, is_scalable):
    weight, inputs, block_size, activations = problem
    matrix = Problem(weight, activations, is_scalable=is_scalable)

    found = quantized(matrix, WeightQuantization(method, bits, block_size))

    plain = quantized(matrix, WeightQuantization("rtn", bits, block_size))
    assert relative_error(weight, found, inputs) <= relative_error(weight, plain, inputs) * 1.001 + 1e-5


def test_more_bits_leave_more():
    weight, inputs = matrix_and_inputs(0, 32, 128, 500, outliers=3)
    matrix = Problem(weight, measure_activations(inputs))

    errors = [
        relative_error(weight, quantized(matrix, WeightQuantization("rtn", bits)), inputs) for bits in (8, 4, 3, 2)
    ]

    assert errors == sorted(errors)


@pytest.mark.parametrize("method", ["gptq", "awq", "awq-gptq"])
def test_a_table_that_meets_no_input_is_fitted_to_its_own_values(method):
    weight = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)

    found = quantized(Problem(weight), WeightQuantization(method, 4))

    np.testing.assert_array_equal(found, quantized(Problem(weight), WeightQuantization("fitted", 4)))
