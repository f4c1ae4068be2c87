// A tensor as the adapters see it.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <utility>

namespace fastconv::ops {

// A tensor of torch whose sizes, strides, dtype and device were asked for once: each question is a
// call into torch, and an op has dozens. Or a view of the memory of one that the caller keeps
// alive, of which torch itself can be asked nothing.
class Tensor {
 public:
  using Lengths = torch::headeronly::IntHeaderOnlyArrayRef;
  using ScalarType = torch::headeronly::ScalarType;

  Tensor() = default;
  Tensor(torch::stable::Tensor tensor);
  Tensor(void* data, ScalarType dtype, Lengths sizes, Lengths strides);  // a view, on the CPU

  int64_t dim() const { return static_cast<int64_t>(sizes_.size()); }
  int64_t numel() const { return numel_; }
  Lengths sizes() const { return sizes_; }
  Lengths strides() const { return strides_; }
  int64_t size(int64_t d) const { return sizes_[d]; }
  int64_t stride(int64_t d) const { return strides_[d]; }
  bool is_contiguous() const;

  ScalarType scalar_type() const { return dtype_; }
  int64_t element_size() const;
  bool is_cpu() const { return is_cpu_; }
  int32_t device_type() const { return device_type_; }
  int32_t get_device_index() const { return device_index_; }

  const void* const_data_ptr() const { return owner_ ? owner_->const_data_ptr() : data_; }
  void* mutable_data_ptr() const { return owner_ ? owner_->mutable_data_ptr() : data_; }

  // For the ops of torch; raises where this is a view.
  operator const torch::stable::Tensor&() const {
    if (!owner_) throw std::logic_error("a view of memory is no tensor of torch");
    return *owner_;
  }

 private:
  Lengths sizes_, strides_;
  int64_t numel_ = 0;
  ScalarType dtype_ = ScalarType::Undefined;
  int32_t device_type_ = 0, device_index_ = -1;
  bool is_cpu_ = true;
  void* data_ = nullptr;
  std::optional<torch::stable::Tensor> owner_;
};

}  // namespace fastconv::ops

template <>
struct torch::stable::detail::FromImpl<fastconv::ops::Tensor> {
  static StableIValue call(const fastconv::ops::Tensor& tensor, uint64_t, bool) {
    return from(static_cast<const torch::stable::Tensor&>(tensor));
  }
};

template <>
struct torch::stable::detail::ToImpl<fastconv::ops::Tensor> {
  static fastconv::ops::Tensor call(StableIValue value, uint64_t, bool) {
    return to<torch::stable::Tensor>(value);
  }
};
