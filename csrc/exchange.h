// DLPack's C exchange API, version 1.3 (dmlc.github.io/dlpack): the memory of a framework's tensors
// through functions that it hands out in a capsule. The layouts are fixed by that standard; what is
// not used here is left unnamed.
#pragma once

#include <cstdint>

namespace fastconv::exchange {

constexpr const char* kCapsule = "dlpack_exchange_api";
constexpr uint32_t kMajorVersion = 1;
constexpr int32_t kCPU = 1;
enum TypeCode : uint8_t { kInt = 0, kFloat = 2, kBfloat = 4 };

struct View {
  void* data;
  int32_t device_type, device_index;
  int32_t dimensions;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  const int64_t *sizes, *strides;  // strides in elements
  uint64_t byte_offset;
};

struct Functions {
  uint32_t major_version, minor_version;
  void* older;
  void* unused[3];
  // Describes an object of the type that the capsule was found at, which must outlive the view; not
  // 0 with an error of Python where that cannot be.
  int (*view)(void* object, View* result);
  void* current_stream;
};

}  // namespace fastconv::exchange
