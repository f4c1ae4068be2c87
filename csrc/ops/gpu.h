// Launching the kernels of csrc/kernels/cuda for tensors on a GPU, on torch's stream.
//
// There are three ways in: what nvcc compiled into this library, what NVRTC compiles at run time,
// and for tests the emulator, which runs the kernels on the CPU for CPU tensors.
#pragma once

#include <functional>
#include <set>
#include <string>

#include "../kernels/cuda/launch.h"
#include "tensor.h"

namespace fastconv::ops {

using Library = torch::stable::detail::StableLibrary;

// Whether CUDA kernels serve this tensor.
bool on_gpu(const Tensor& t);

cuda::Device gpu_of(const Tensor& t);

// Runs a kernel on the device of t; raises what the driver said.
void launch(const cuda::Launch& launch, const void* params, const Tensor& t);

template <class Params>
void run_on_gpu(const Params& p, const Tensor& t) {
  launch(plan(p, gpu_of(t)), &p, t);
}

int64_t times_launched(cuda::Kernel kernel);

// Ways in, set by the bindings.
enum class GpuWay { kNone, kCompiled, kNvrtc, kEmulated };
GpuWay gpu_way();
bool built_with_cuda();
// The architectures that nvcc compiled for, "80 90 100"; "" without CUDA.
const char* built_for();

// Registers the ops for CUDA tensors, once.
void use_compiled();
// compile(kernel, arguments, device) gives a CUfunction.
using Compile = std::function<uintptr_t(const cuda::Launch&, int device)>;
void use_nvrtc(Compile compile);
// Until stop_emulator, in the calling thread CPU tensors too take CUDA kernels, run by this
// launcher for a device like this one.
void use_emulator(cuda::Launcher launcher, cuda::Device device);
void stop_emulator();

// Where a file registers its adapters, which serve CPU and CUDA tensors alike.
class Adapters {
 public:
  explicit Adapters(Library& library) : library_(library) {}
  void impl(const char* name, void (*boxed)(StableIValue*, uint64_t, uint64_t));

 private:
  Library& library_;
};

// The registrations of a file: for CPU tensors at once, for CUDA tensors when there is a way in.
struct Registration {
  explicit Registration(void (*init)(Adapters&));
};

#define FASTCONV_IMPL(op, m)                                                              \
  static void fastconv_register_##op(fastconv::ops::Adapters& m);                         \
  STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, library) {                                     \
    fastconv::ops::Adapters adapters(library);                                            \
    fastconv_register_##op(adapters);                                                     \
  }                                                                                       \
  static const fastconv::ops::Registration fastconv_on_gpu_##op(&fastconv_register_##op); \
  static void fastconv_register_##op(fastconv::ops::Adapters& m)

// What was registered so, overloads too: "pointwise_conv2d.out".
const std::set<std::string>& ops_with_cuda_kernels();

}  // namespace fastconv::ops
