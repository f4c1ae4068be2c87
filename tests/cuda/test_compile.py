"""What nvcc makes of the kernels: gates that a slower kernel does not pass, with no GPU."""

import math
from functools import cache

import pytest

from fastconv import _C
from tests.cuda.toolkit import ARCHITECTURES, KERNELS, Compiled, compile_file, templates_of

FILES = {path.stem: path for path in sorted(KERNELS.glob("*.cu")) if "table" not in path.stem}
FILES.pop("launcher")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cubins")

    @cache
    def of(stem: str, architecture: str) -> list[Compiled]:
        out = set("0123") - set(DTYPES[architecture])
        few = [f"-DFASTCONV_INSTANCES_{dtype}=FASTCONV_NONE" for dtype in sorted(out)]
        if architecture != "90a":  # there for the host too, as the build does
            few.append("-cubin")
        if architecture != "90a" or stem == "depthwise_conv2d_band":
            few.append("-DFASTCONV_ONLY_ENDS")
        return compile_file(FILES[stem], architecture, folder, *few)

    return of


# The element types, a template's first argument, that are compiled for each: all for all would
# take minutes. The gates are of float32 and bfloat16.
DTYPES = {"80": "3", "90a": "02", "100": "12"}
FLOAT64 = 1  # its values take two registers each
# Kernel: registers at most, so that the threads meant to share a multiprocessor do.
REGISTERS = {
    "activation_backward_elementwise": 64,
    "activation_backward_from_mask": 64,
    "local_response_norm_nchw": 64,
    "local_response_norm_nhwc": 64,
    "local_response_norm_any": 56,
    "local_response_norm_backward_nchw": 104,
    "local_response_norm_backward_nhwc": 96,
    "local_response_norm_backward_any": 80,
    "residual_add_same_size": 85,
    "residual_add_same_size_with_mask": 85,
    "depthwise_conv2d_any": 80,
    "depthwise_conv2d_band": 128,
    "depthwise_conv2d_gradients_nchw_tile": 168,
    "depthwise_conv2d_gradients_nhwc_tile": 208,
    "depthwise_conv2d_nchw_tile": 128,
    "depthwise_conv2d_nhwc_tile": 168,
    "depthwise_conv2d_weight_any": 80,
    "depthwise_conv2d_weight_nchw_tile": 128,
    "depthwise_conv2d_weight_nhwc_tile": 168,
    "depthwise_conv2d_weight_sum": 64,
    "depthwise_conv2d_window": 80,
    "inverted_residual_fused": 224,
    "pointwise_conv2d_join": 40,
    "pointwise_conv2d_mma": 232,
    "pointwise_conv2d_simt": 168,
    "pointwise_conv2d_split_mma": 232,
    "pointwise_conv2d_split_simt": 168,
    "pointwise_conv2d_spread": 40,
    "pointwise_conv2d_weight_gradient_mma": 168,
    "pointwise_conv2d_weight_gradient_simt": 128,
    "pointwise_conv2d_weight_gradient_sum": 40,
    "residual_add_shortcut": 40,
}
# Kernel, arguments: 16-byte loads and stores at least.
WIDE = {
    ("activation_backward_elementwise", (2, 8)): (2, 1),
    ("depthwise_conv2d_band", (2, 1, 2, 4)): (8, 4),
    ("depthwise_conv2d_gradients_nchw_tile", (0, 3)): (8, 7),
    ("depthwise_conv2d_gradients_nhwc_tile", (2, 3, 0)): (1, 0),
    ("depthwise_conv2d_nchw_tile", (0, 3, 1, -1)): (1, 7),
    ("depthwise_conv2d_nchw_tile", (2, 3, 1, -1)): (1, 0),
    ("depthwise_conv2d_nhwc_tile", (2, 3, 1, -1, 0)): (1, 0),
    ("depthwise_conv2d_weight_nchw_tile", (0, 3, 1)): (8, 0),
    ("depthwise_conv2d_weight_nhwc_tile", (2, 3, 1, 0)): (1, 0),
    ("local_response_norm_nchw", (0, 4, 5, 1)): (5, 5),
    ("local_response_norm_nhwc", (2, 5, 1, 0)): (1, 1),
    ("local_response_norm_backward_nhwc", (2, 5, 1, 0)): (2, 1),
    ("pointwise_conv2d_mma", (2, 0, 8, 128, 0, 0)): (8, 8),
    ("pointwise_conv2d_mma", (2, 1, 8, 64, 0, 0)): (8, 8),
    ("pointwise_conv2d_simt", (0, 0, 4, 0, 0)): (2, 8),
    ("pointwise_conv2d_simt", (0, 1, 4, 0, 0)): (2, 8),
    ("pointwise_conv2d_split_mma", (2, 1, 8, 32)): (5, 0),
    ("pointwise_conv2d_split_simt", (0, 0, 4)): (2, 8),
    ("pointwise_conv2d_split_simt", (0, 1, 4)): (2, 8),
    ("activation_backward_from_mask", (2, 8)): (1, 1),
    ("residual_add_same_size_with_mask", (2, 8)): (8, 4),
    ("residual_add_same_size", (0, 4)): (8, 4),
    ("residual_add_same_size", (2, 8)): (8, 4),
}
# Kernel, arguments: products of the matrix unit, loads of its fragments, asynchronous copies.
MATRIX = {
    ("depthwise_conv2d_band", (2, 1, 2, 4)): (16, 5, 0),
    ("depthwise_conv2d_band", (2, 0, 5, 4)): (40, 8, 0),
    ("inverted_residual_fused", (2, 3, 1, 32, 0, 0, 0)): (24, 10, 4),
    ("pointwise_conv2d_mma", (2, 0, 8, 128, 0, 0)): (32, 12, 4),
    ("pointwise_conv2d_mma", (2, 1, 8, 64, 0, 0)): (32, 12, 4),
    ("pointwise_conv2d_split_mma", (2, 1, 8, 32)): (16, 8, 4),
    ("pointwise_conv2d_weight_gradient_mma", (2, 1, 8)): (36, 12, 4),
}
# Kernel, arguments: a thread's outputs (or gradients that it multiplies), and issue slots an output
# at most where it loads, converts and multiplies; not of the staging, the activation, the stores.
SLOTS = {
    ("depthwise_conv2d_nhwc_tile", (0, 3, 1, -1, 0)): (56, 11.5),
    ("depthwise_conv2d_nhwc_tile", (2, 3, 1, -1, 0)): (56, 13.5),
    ("depthwise_conv2d_nhwc_tile", (2, 5, 1, -1, 0)): (56, 31.5),
    ("depthwise_conv2d_nhwc_tile", (2, 7, 1, -1, 0)): (56, 59),
    ("depthwise_conv2d_nhwc_tile", (2, 3, 2, -1, 0)): (28, 19.5),
    ("depthwise_conv2d_nchw_tile", (2, 3, 1, -1)): (28, 20),
    ("depthwise_conv2d_nchw_tile", (2, 5, 1, -1)): (28, 42),
    ("depthwise_conv2d_nchw_tile", (2, 7, 1, -1)): (28, 73),
    ("depthwise_conv2d_gradients_nhwc_tile", (2, 3, 0)): (28, 24.5),
    ("depthwise_conv2d_gradients_nhwc_tile", (2, 5, 0)): (28, 61),
    ("depthwise_conv2d_gradients_nchw_tile", (2, 3)): (28, 28.5),
    ("depthwise_conv2d_gradients_nchw_tile", (2, 5)): (16, 71),
    ("depthwise_conv2d_weight_nhwc_tile", (2, 3, 1, 0)): (56, 16),
    ("depthwise_conv2d_weight_nhwc_tile", (2, 5, 1, 0)): (28, 36),
    ("depthwise_conv2d_weight_nchw_tile", (2, 3, 1)): (28, 22),
}
# Kernel, arguments: instructions for a product of the matrix unit at most, in the loop of these.
PRODUCT_SLOTS = {
    ("depthwise_conv2d_band", (2, 1, 2, 4)): 3.2,
    ("depthwise_conv2d_band", (2, 0, 2, 2)): 4.8,
    ("depthwise_conv2d_band", (2, 1, 5, 4)): 2.8,
}
# Kernel, arguments: instructions for a multiply-add at most, in the loop that has most of these.
LOOP_SLOTS = {
    ("depthwise_conv2d_window", (0,)): 1.36,
    ("depthwise_conv2d_window", (2,)): 1.36,
}
GATES = {*WIDE, *SLOTS, *MATRIX, *PRODUCT_SLOTS, *LOOP_SLOTS}


def test_every_kernel_has_a_row():
    kernels = {f"{op}_{name}" for op, name, *_ in _C.gpu.kernels()}
    assert REGISTERS.keys() == kernels
    assert {kernel for kernel, _ in GATES} <= kernels


def gates_without_a_kernel(kernels):
    """The keys of gates that name a template of these kernels, but no instance of it."""
    found = {(kernel.kernel, kernel.arguments) for kernel in kernels}
    templates = {kernel for kernel, _ in found}
    return {key for key in GATES - found if key[0] in templates}


def test_a_gate_that_meets_no_kernel_is_found():
    kernel, arguments = next(iter(MATRIX))
    instance = Compiled(kernel, (*arguments, 0), 1, 0, [])
    assert (kernel, arguments) in gates_without_a_kernel([instance])
    instance.arguments = arguments
    assert (kernel, arguments) not in gates_without_a_kernel([instance])


def test_every_kernel_has_all_its_instances_in_one_file():
    """Where its gates are held against them."""
    templates = [name for path in FILES.values() for name in templates_of(path)]
    assert sorted(templates) == sorted(REGISTERS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stem", FILES)
def test_gates(stem, architecture, compiled):
    kernels = compiled(stem, architecture)
    assert kernels
    if architecture == "90a":
        assert not gates_without_a_kernel(kernels)
    for kernel in kernels:
        what = f"{kernel.kernel}{kernel.arguments}"
        assert kernel.stack == 0, f"{what} spills {kernel.stack} bytes"
        limit = REGISTERS[kernel.kernel] * (2 if kernel.arguments[0] == FLOAT64 else 1)
        assert kernel.registers <= limit, f"{what} takes {kernel.registers} registers of {limit}"
        outputs, slots = SLOTS.get((kernel.kernel, kernel.arguments), (1, math.inf))
        took = kernel.main_run()[0] / outputs
        assert took <= slots, f"{what} takes {took:.1f} issue slots an output of {slots}"
        if slots := PRODUCT_SLOTS.get((kernel.kernel, kernel.arguments)):
            took, products = kernel.main_run("HMMA")
            assert took <= slots * products, f"{what}: {took} issue slots, {products} products"
        if slots := LOOP_SLOTS.get((kernel.kernel, kernel.arguments)):
            took, products = kernel.main_loop()
            assert products >= 64, f"{what}: {products} multiply-adds in a loop"
            assert took <= slots * products, f"{what}: {took} issue slots, {products} products"
        loads, stores = WIDE.get((kernel.kernel, kernel.arguments), (0, 0))
        assert kernel.count(r"LDG(STS)?\.E\S*\.128") >= loads, f"{what}: narrow loads"
        assert kernel.count(r"STG\.E\S*\.128") >= stores, f"{what}: narrow stores"
        products, fragments, copies = MATRIX.get((kernel.kernel, kernel.arguments), (0, 0, 0))
        assert kernel.count(r"\bHMMA\.16816\.F32") >= products, f"{what}: few matrix products"
        assert kernel.count(r"\bLDSM\.16\.M\S*\.4") >= fragments, f"{what}: few matrix loads"
        assert kernel.count(r"LDGSTS\.E\S*\.128") >= copies, f"{what}: narrow copies"
