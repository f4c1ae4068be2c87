// What a kernel launch is, in plain C++: the plan_<op> functions beside this header make one from
// an op's parameters and the device, and the same one serves the kernels that nvcc compiled, those
// that NVRTC compiles for it, the emulator and `fastconv explain`.
#pragma once

#include <cstdint>

namespace fastconv::cuda {

// Every kernel, a row in the .def file of its op: the name of its template in <op>.cuh.
enum class Kernel : int {
#define FASTCONV_CUDA_KERNEL(op, name, when) op##_##name,
#include "kernels.def"
#undef FASTCONV_CUDA_KERNEL
  kCount
};

// Ampere: the first with bfloat16 and asynchronous copies.
constexpr int kLeastArchitecture = 80;

struct Device {
  int architecture;  // 80, 90, 100, ...
  int multiprocessors;
  int shared_bytes;  // a block may have, at most
  // Whether template arguments may take any value, because the kernel is compiled for this very
  // launch, and channels are among them (known.h); else only those of the tables in <op>.cu.
  bool compiles;
};

constexpr int kMostArguments = 8;

struct Launch {
  Kernel kernel;
  int arguments[kMostArguments];  // of the template, the rest zero
  int argument_count;
  int64_t blocks;
  int threads;  // a block
  int shared_bytes;
};

// Sets the template's arguments, all ints; e.g. with_arguments(launch, int(p.dtype), 3).
template <class... Ints>
Launch with_arguments(Launch launch, Ints... values) {
  static_assert(sizeof...(values) <= kMostArguments);
  const int list[] = {int(values)...};
  launch.argument_count = sizeof...(values);
  for (int i = 0; i < kMostArguments; ++i) {
    launch.arguments[i] = i < launch.argument_count ? list[i] : 0;
  }
  return launch;
}

// Runs a kernel that takes *params; null, or why it could not. The ways in: launcher.cu, NVRTC,
// the emulator.
using Launcher = const char* (*)(const Launch&, const void* params, void* stream);

}  // namespace fastconv::cuda
