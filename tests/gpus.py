"""A GPU made of the processor: what profiling asks of one, for tests where there is none."""

from collections.abc import Callable
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity

from fastconv.profiling.device import Gpu, HostEvent

KERNEL_SECONDS = 1e-3
CONVOLUTION = "void cutlass::Kernel2<cutlass_80_tensorop_s16816fprop<float, 4> >(Params)"
TRANSPOSE = "void cudnn::engines_precompiled::nchwToNhwcKernel<float, true>(tensor_t, int)"
OURS = "void fastconv::cuda::local_response_norm_forward<5>(LocalResponseNorm)"
# By the operation that launches them.
KERNELS = {
    "aten::convolution": [TRANSPOSE, CONVOLUTION],
    "fastconv::local_response_norm": [OURS],
    "fastconv::stem_conv2d": [CONVOLUTION],
    "fastconv::pointwise_conv2d": [CONVOLUTION],
}


class FakeGpu(Gpu):
    """The operations are real and torch.profiler saw them; their kernels are of the table above."""

    device = torch.device("cpu")

    def name(self) -> str:
        return "Abacus 100"

    def environment(self) -> dict[str, str]:
        return {"GPU": "Abacus 100, sm_90"}

    def seconds(self, call: Callable[[], object]) -> float:
        began = perf_counter()
        call()
        return perf_counter() - began

    def host_events(self, call: Callable[[], object]) -> list[HostEvent]:
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as record:
            call()
        return [
            HostEvent(
                event.name,
                event.time_range.start,
                [(kernel, KERNEL_SECONDS) for kernel in KERNELS.get(event.name, ())],
            )
            for event in record.events()
        ]
