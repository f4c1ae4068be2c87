#pragma once

#include "launch.h"

namespace fastconv::cuda {

// Null, or what went wrong; error is then CUDA's number for it, 0 where it has none.
const char* launch_compiled(const Launch& launch, const void* params, void* stream, int& error);

}  // namespace fastconv::cuda
