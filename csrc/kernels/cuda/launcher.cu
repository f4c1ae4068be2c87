// The way in to the kernels that nvcc compiled.
#include <cuda_runtime.h>

#include "launcher.h"
#include "table.cuh"

namespace fastconv::cuda {

const char* launch_compiled(const Launch& launch, const void* params, void* stream, int& error) {
  error = 0;
  const Instance* instance = find(launch);
  if (!instance) return "the kernel was not compiled for these template arguments";
  constexpr int kWithoutAsking = 48 << 10;
  cudaError_t status = cudaSuccess;
  if (launch.shared_bytes > kWithoutAsking) {
    status = cudaFuncSetAttribute(instance->function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  launch.shared_bytes);
  }
  if (status == cudaSuccess) {
    void* arguments[] = {const_cast<void*>(params)};
    status = cudaLaunchKernel(instance->function, dim3(unsigned(launch.blocks)),
                              dim3(unsigned(launch.threads)), arguments, launch.shared_bytes,
                              static_cast<cudaStream_t>(stream));
  }
  error = int(status);
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace fastconv::cuda
