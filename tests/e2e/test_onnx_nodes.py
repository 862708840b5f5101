"""One official ONNX node test for each operator that TVM imports, built without measuring and run.

`scripts/onnx_node_tests.py` runs all of them against plain TVM.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from onnx.backend.test.loader import load_model_tests

AS_IS = """
    add and2d batchnorm_example bitshift_right_uint8 bitwise_and_i32_2d bitwise_or_i32_2d bitwise_xor_i32_2d
    clip_example concat_1d_axis_0 basic_conv_with_padding convtranspose dequantizelinear div_example equal
    gather_0 gather_elements_0 gathernd_example_int32 gemm_default_zero_bias greater greater_equal gridsample
    group_normalization_example instancenorm_example less less_equal matmul_2d matmulinteger max_example
    maxunpool_export_without_output_shape mean_example min_example mod_mixed_sign_float64 mul_example or2d
    prelu_example pow_example quantizelinear rms_normalization_4d_axis2 roialign_aligned_false
    scatter_without_axis scatter_elements_without_axis scatternd sub_example sum_example where_example xor2d abs
    acos_example acosh_example argmax_no_keepdims_example argmin_no_keepdims_example asin_example asinh_example
    atan_example atanh_example averagepool_2d_precomputed_pads bitwise_not_2d cast_FLOAT_to_FLOAT16 ceil_example
    constant cos_example cosh depthtospace_example dropout_default dynamicquantizelinear
    einsum_transpose elu_example erf exp_example eyelike_without_dtype flatten_axis0 floor_example gelu_tanh_1
    globalaveragepool globalmaxpool hardsigmoid_example hardswish hardmax_example identity if isinf isnan lrn
    leakyrelu_example log_example logsoftmax_example_1 lppool_1d_default maxpool_2d_uint8 mvn mish neg_example
    not_2d optional_get_element_tensor optional_has_element_empty_no_input_name_tensor_input reciprocal_example
    relu round selu_example shape_example shrink_hard sigmoid_example sign sin_example sinh size_example
    softmax_example softplus_example softsign_example spacetodepth split_equal_parts_1d_opset13 sqrt_example
    tan_example tanh_example thresholdedrelu_example transpose_default triu
    castlike_FLOAT_to_FLOAT16 compress_0 expand_dim_unchanged nonzero_example slice slice_neg_steps squeeze tile
    unique_sorted_with_axis_3d unsqueeze_two_axes optional_get_element_optional_tensor
"""

WITH_CONSTANTS = """
    add and2d batchnorm_example bitshift_right_uint8 bitwise_and_i32_2d bitwise_or_i32_2d bitwise_xor_i32_2d
    clip_example concat_1d_axis_0 basic_conv_with_padding convtranspose dequantizelinear div_example equal
    gather_0 gather_elements_0 gathernd_example_int32 gemm_default_zero_bias greater greater_equal gridsample
    group_normalization_example instancenorm_example less less_equal matmul_2d matmulinteger max_example
    maxunpool_export_without_output_shape mean_example min_example mod_mixed_sign_float64 mul_example or2d
    prelu_example pow_example quantizelinear rms_normalization_4d_axis2 roialign_aligned_false
    scatter_without_axis scatter_elements_without_axis scatternd sub_example sum_example where_example xor2d
    affine_grid_2d castlike_FLOAT_to_FLOAT16 cumsum_1d expand_dim_changed nonmaxsuppression_suppress_by_IOU
    constant_pad reduce_l1_do_not_keepdims_example reduce_l2_do_not_keepdims_example reduce_log_sum_desc_axes
    reduce_log_sum_exp_do_not_keepdims_example reduce_max_do_not_keepdims_example
    reduce_mean_do_not_keepdims_example reduce_min_do_not_keepdims_example reduce_prod_do_not_keepdims_example
    reduce_sum_do_not_keepdims_example reduce_sum_square_do_not_keepdims_example reshape_reordered_all_dims
    resize_upsample_scales_nearest slice squeeze tile top_k unsqueeze_axis_0
"""


@lru_cache(maxsize=1)
def script() -> ModuleType:
    """The script that runs node tests, as a module."""
    path = Path(__file__).parents[2] / "scripts" / "onnx_node_tests.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cases() -> Mapping[str, Any]:
    """All node tests by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package computes the expected values while it loads
        return {case.name.removeprefix("test_"): case for case in load_model_tests(kind="node")}


@pytest.mark.parametrize("name", sorted(AS_IS.split()))
def test_a_node_is_built_and_right(cases: Mapping[str, Any], name: str) -> None:
    assert script().outcome(script().built, cases[name], constants=False) == ""


@pytest.mark.parametrize("name", sorted(WITH_CONSTANTS.split()))
def test_a_node_with_constant_inputs_is_built_and_right(cases: Mapping[str, Any], name: str) -> None:
    assert script().outcome(script().built, cases[name], constants=True) == ""
