#pragma once

#include "launch.h"

namespace fastconv::cuda {

const char* launch_compiled(const Launch& launch, const void* params, void* stream);

}  // namespace fastconv::cuda
