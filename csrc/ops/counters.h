// How often each variant ran in this process: what `fastconv explain` and the variant test read.
#pragma once

#include <cstdint>

#include "../kernels/variants.h"

namespace fastconv::ops {

void count(Variant variant);
int64_t times_run(Variant variant);

}  // namespace fastconv::ops
