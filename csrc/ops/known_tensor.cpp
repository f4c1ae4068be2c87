#include "known_tensor.h"

#include <torch/csrc/stable/stableivalue_conversions.h>

namespace fastconv::ops {

namespace {

int64_t product(Tensor::Lengths sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return count;
}

}  // namespace

Tensor::Tensor(torch::stable::Tensor tensor) {
  const AtenTensorHandle handle = tensor.get();
  int64_t dim, *sizes, *strides;
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(handle, &dim));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(handle, &sizes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(handle, &strides));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle, &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(handle, &device_type_));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(handle, &device_index_));
  sizes_ = Lengths(sizes, dim), strides_ = Lengths(strides, dim);
  numel_ = product(sizes_);
  dtype_ = torch::stable::detail::to<ScalarType>(torch::stable::detail::from(dtype));
  is_cpu_ = device_type_ == aoti_torch_device_type_cpu();
  owner_ = std::move(tensor);
}

Tensor::Tensor(void* data, ScalarType dtype, Lengths sizes, Lengths strides)
    : sizes_(sizes),
      strides_(strides),
      numel_(product(sizes)),
      dtype_(dtype),
      device_type_(aoti_torch_device_type_cpu()),
      data_(data) {}

bool Tensor::is_contiguous() const {
  int64_t expected = 1;
  for (int64_t d = dim() - 1; d >= 0; --d) {
    if (sizes_[d] != 1 && strides_[d] != expected) return numel_ == 0;
    expected *= sizes_[d];
  }
  return true;
}

int64_t Tensor::element_size() const {
  const auto code = torch::stable::detail::from(dtype_);
  return aoti_torch_dtype_element_size(torch::stable::detail::to<int32_t>(code));
}

}  // namespace fastconv::ops
