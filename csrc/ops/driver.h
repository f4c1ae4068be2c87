// The few functions of NVIDIA's driver that launching needs, found when first wanted: the library
// must load on machines without one.
#pragma once

#include <cstdint>

namespace fastconv::ops {

struct Driver {
  int (*get_attribute)(int* value, int attribute, int device);
  int (*set_function_attribute)(void* function, int attribute, int value);
  int (*launch)(void* function, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                unsigned threads_x, unsigned threads_y, unsigned threads_z, unsigned shared_bytes,
                void* stream, void** params, void** extra);
  int (*error_string)(int error, const char** text);
};

// Raises where there is no driver.
const Driver& driver();

// Raises with the driver's words, and what mends it, where error is not zero.
void check_driver(int error);

// What mends an error of CUDA's, ": ..." behind its words; "" where nothing is known. The driver
// numbers errors as the runtime does.
const char* advice(int error);

}  // namespace fastconv::ops
