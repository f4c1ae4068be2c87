#include "driver.h"

#include <dlfcn.h>

#include "tensor.h"

namespace fastconv::ops {

namespace {

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  FASTCONV_CHECK(function, "NVIDIA's driver lacks ", name,
                 ": update it to one for CUDA 12 or newer");
}

Driver load() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  FASTCONV_CHECK(library, "no NVIDIA driver was found on this machine (libcuda.so.1)");
  Driver d;
  find(library, "cuDeviceGetAttribute", d.get_attribute);
  find(library, "cuFuncSetAttribute", d.set_function_attribute);
  find(library, "cuLaunchKernel", d.launch);
  find(library, "cuGetErrorString", d.error_string);
  return d;
}

}  // namespace

const Driver& driver() {
  static const Driver loaded = load();
  return loaded;
}

void check_driver(int error) {
  if (error == 0) return;
  const char* text = nullptr;
  driver().error_string(error, &text);
  fail("CUDA: ", text ? text : "unknown error", " (", error, ")", advice(error));
}

const char* advice(int error) {
  switch (error) {
    case 35:   // cudaErrorInsufficientDriver
    case 222:  // CUDA_ERROR_UNSUPPORTED_PTX_VERSION
      return ": the NVIDIA driver is older than the CUDA toolkit that compiled the kernels: update "
             "the driver, or take a toolkit of the version that nvidia-smi shows";
    case 200:  // CUDA_ERROR_INVALID_IMAGE
    case 209:  // CUDA_ERROR_NO_BINARY_FOR_GPU
    case 218:  // CUDA_ERROR_INVALID_PTX
      return ": fastconv was not built for this GPU: FASTCONV_GPU=nvrtc compiles at run time, or "
             "build anew with FASTCONV_CUDA_ARCHITECTURES=80 for sm_80 and its like";
    case 700:  // CUDA_ERROR_ILLEGAL_ADDRESS
    case 719:  // CUDA_ERROR_LAUNCH_FAILED
      return ": this process has lost its GPU and must be started anew; CUDA_LAUNCH_BLOCKING=1 "
             "names the call";
    default:
      return "";
  }
}

}  // namespace fastconv::ops
