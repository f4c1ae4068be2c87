"""oneDNN's log, and what of it counts as a slow path."""

import pytest

from fastconv.peers.onednn import Execution
from fastconv.profiling.alarms import NOT_ONEDNN, SUBNORMAL, slow_ops
from fastconv.profiling.figures import Figures
from fastconv.profiling.onednn import BEGIN, mark_line, read_log, slow_path

WEIGHT = (
    "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:acdb::f0 "
    "dst:f32::blocked:Acdb48a::f0,attr-scratchpad:user,,96x480x1x1,0.0229"
)
CONVOLUTION = (
    "onednn_verbose,v1,primitive,exec,cpu,convolution,ref:any,forward_training,src:f16:a:blocked:"
    "abcd::f0 wei:f16:a:blocked:abcde::f0,attr-scratchpad:user,alg:convolution_direct,"
    "g64mb2_ic64oc64_ih32oh32kh31sh1dh0ph15,24.885"
)


def mark(step):
    return mark_line(step).decode()


def test_what_ran_belongs_to_the_mark_that_follows():
    lines = [
        mark("warm"),
        mark(BEGIN),
        "onednn_verbose,v1,info,oneDNN v3.12.0",
        "a script's word\n",
    ]
    lines += [mark(""), WEIGHT, CONVOLUTION + "\n", mark("conv"), mark("relu"), WEIGHT]
    assert read_log(lines) == [
        ("", []),
        (
            "conv",
            [
                Execution("reorder", "jit:uni", 0.0229, "96x480x1x1"),
                Execution(
                    "convolution", "ref:any", 24.885, "g64mb2_ic64oc64_ih32oh32kh31sh1dh0ph15"
                ),
            ],
        ),
        ("relu", []),
    ]


@pytest.mark.parametrize(
    ("kind", "implementation", "words"),
    [
        ("convolution", "ref:any", "scalar reference"),
        ("convolution", "x64:gemm:jit", "im2col"),
        ("pooling_v2", "simple_nchw:any", "generic loops"),
        ("inner_product", "gemm:jit", None),
        ("matmul", "brg_matmul:avx512_core", None),
        ("convolution", "brg_conv_fwd:avx512_core", None),
        ("reorder", "simple:any", None),
        ("reorder", "ref:any", None),
    ],
)
def test_slow_paths_go_by_their_names(kind, implementation, words):
    why = slow_path(Execution(kind, implementation, 1.0, ""))
    assert (why is None) == (words is None)
    assert words is None or words in why


def test_a_convolution_that_onednn_did_not_run_is_a_slow_path():
    stretches = [(name, Figures(ops=["aten.convolution"])) for name in ("a", "b")]
    log = [("a", [Execution("convolution", "jit:avx2", 1.0, "")]), ("b", [])]
    assert slow_ops(stretches, log) == [("b", ("slow_conv2d", NOT_ONEDNN))]


def test_subnormal_weights_are_a_slow_path():
    figures = Figures(served=[{"subnormal_weights": 3}, {"subnormal_weights": None}])
    assert slow_ops([("a", figures)], []) == [("a", ("3 subnormal weights", SUBNORMAL))]
