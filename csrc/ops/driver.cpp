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
  fail("CUDA: ", text ? text : "unknown error", " (", error, ")");
}

}  // namespace fastconv::ops
