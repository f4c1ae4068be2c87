// Memory of large results in training, kept for the results of the next step.
//
// A step makes and frees some hundred results of 2 to 77 MB. malloc gives such memory back to the
// system, which zeroes it again as the next step writes it. MobileNetV2, batch 16, two cores of an
// Intel Xeon with AMX, ms a step without / with kept memory: float32 474 / 352, bfloat16 328 / 277.
#pragma once

#include <cstddef>

#include "known_tensor.h"

namespace fastconv::ops {

// While one lives, this thread takes large results of `empty_like` from kept memory. Torch's
// profiler does not see that memory and a tensor of it cannot be resized, so inference does not.
class KeepsMemory {
 public:
  KeepsMemory() : before_(is_on) { is_on = true; }
  ~KeepsMemory() { is_on = before_; }
  KeepsMemory(const KeepsMemory&) = delete;
  KeepsMemory& operator=(const KeepsMemory&) = delete;

  static bool on() { return is_on; }

 private:
  static thread_local bool is_on;
  bool before_;
};

struct KeptBytes {
  size_t in_use, kept, most;  // most: that were ever in use at once
};
KeptBytes kept_bytes();
void release_kept();  // what waits, to the system

// Aligned to huge pages, or null where memory of that size is not kept: then torch's is taken.
void* take_kept(size_t bytes);
// What take_kept gave for so many bytes; how torch calls what frees a tensor's memory.
void give_back(void* memory, void* bytes);

}  // namespace fastconv::ops
