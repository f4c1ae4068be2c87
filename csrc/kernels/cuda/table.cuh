// The instances of kernel templates that are compiled ahead of time, or for the emulator.
#pragma once

#include "launch.h"

namespace fastconv::cuda {

struct Instance {
  Kernel kernel;
  int arguments[kMostArguments];
  const void* function;
  void (*call)(const void* function, const void* params);  // as one thread of the emulator
};

struct Table {
  const Instance* instances;
  int count;
};

template <class Params>
void call_as(const void* function, const void* params) {
#if defined(FASTCONV_EMULATED)
  reinterpret_cast<void (*)(Params)>(const_cast<void*>(function))(
      *static_cast<const Params*>(params));
#endif
}

template <class Params>
Instance instance(Kernel kernel, void (*function)(Params), const int (&arguments)[kMostArguments]) {
  Instance result{kernel, {}, reinterpret_cast<const void*>(function), call_as<Params>};
  for (int i = 0; i < kMostArguments; ++i) result.arguments[i] = arguments[i];
  return result;
}

// One instance of the template `name`, its arguments in the order of the launch: the element type
// first. The gates on the compiler's output leave types out by
// -DFASTCONV_INSTANCES_0=FASTCONV_NONE.
#define FASTCONV_INSTANCE(name, ...) FASTCONV_OF_TYPE(__VA_ARGS__, )(name, __VA_ARGS__)
#define FASTCONV_OF_TYPE(dtype, ...) FASTCONV_INSTANCES_##dtype
#define FASTCONV_ONE(name, ...) \
  ::fastconv::cuda::instance(::fastconv::cuda::Kernel::name, &name<__VA_ARGS__>, {__VA_ARGS__})
#define FASTCONV_NONE(...) \
  ::fastconv::cuda::Instance {}
#if !defined(FASTCONV_INSTANCES_0)
#define FASTCONV_INSTANCES_0 FASTCONV_ONE
#endif
#if !defined(FASTCONV_INSTANCES_1)
#define FASTCONV_INSTANCES_1 FASTCONV_ONE
#endif
#if !defined(FASTCONV_INSTANCES_2)
#define FASTCONV_INSTANCES_2 FASTCONV_ONE
#endif
#if !defined(FASTCONV_INSTANCES_3)
#define FASTCONV_INSTANCES_3 FASTCONV_ONE
#endif

// Instances of a kernel by element type and elements a pack: 16 bytes or one element.
#define FASTCONV_PACK_INSTANCES(kernel)                                 \
  FASTCONV_INSTANCE(kernel, 0, 4), FASTCONV_INSTANCE(kernel, 0, 1),     \
      FASTCONV_INSTANCE(kernel, 1, 2), FASTCONV_INSTANCE(kernel, 1, 1), \
      FASTCONV_INSTANCE(kernel, 2, 8), FASTCONV_INSTANCE(kernel, 2, 1), \
      FASTCONV_INSTANCE(kernel, 3, 8), FASTCONV_INSTANCE(kernel, 3, 1)

// The tables of all ops, each in a .cu file of its name.
#define FASTCONV_CUDA_TABLES(X) \
  X(activation_backward)        \
  X(depthwise_conv2d)           \
  X(depthwise_conv2d_band)      \
  X(depthwise_conv2d_nchw)      \
  X(inverted_residual)          \
  X(local_response_norm)        \
  X(pointwise_conv2d)           \
  X(residual_add)

#define FASTCONV_DECLARE_TABLE(op) Table op##_table();
FASTCONV_CUDA_TABLES(FASTCONV_DECLARE_TABLE)
#undef FASTCONV_DECLARE_TABLE

// The instance of a launch, or null.
const Instance* find(const Launch& launch);

// Defines op##_table() from the instances that follow.
#define FASTCONV_DEFINE_TABLE(op, ...)                             \
  Table op##_table() {                                             \
    static const Instance instances[] = {__VA_ARGS__};             \
    return {instances, int(sizeof(instances) / sizeof(Instance))}; \
  }

}  // namespace fastconv::cuda
