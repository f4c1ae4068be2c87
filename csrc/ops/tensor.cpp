#include "tensor.h"

#include "kept_memory.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

torch::headeronly::MemoryFormat memory_format(Layout layout) {
  return layout == Layout::kNHWC ? torch::headeronly::MemoryFormat::ChannelsLast
                                 : torch::headeronly::MemoryFormat::Contiguous;
}

// By the C function, as torch::stable::empty finds its op by name at every call: 0.4 us more.
Tensor empty(const Tensor& like, int32_t dtype, const Sizes& sizes, const Sizes& strides) {
  AtenTensorHandle handle;
  const auto failed =
      aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                               like.device_type(), like.get_device_index(), &handle);
  FASTCONV_CHECK(!failed, "not enough memory for a tensor of shape ", to_string(sizes));
  return torch::stable::Tensor(handle);
}

// The same on memory that is kept, where that is on and the tensor is large; else none.
std::optional<Tensor> kept(const Tensor& like, int32_t dtype, const Sizes& sizes,
                           const Sizes& strides, size_t bytes) {
  void* memory = KeepsMemory::on() && like.is_cpu() ? take_kept(bytes) : nullptr;
  if (memory == nullptr) return std::nullopt;
  AtenTensorHandle handle;
  const auto failed = torch_from_blob(memory, int64_t(sizes.size()), sizes.data(), strides.data(),
                                      0, dtype, like.device_type(), like.get_device_index(),
                                      &handle, aoti_torch_layout_strided(), nullptr, 0, give_back,
                                      reinterpret_cast<void*>(bytes));
  if (failed) {
    give_back(memory, reinterpret_cast<void*>(bytes));
    return std::nullopt;
  }
  return torch::stable::Tensor(handle);
}

std::string device_name(const Tensor& t) {
  return t.is_cpu() ? "cpu" : "cuda:" + std::to_string(t.get_device_index());
}

void check_device(const char* op, const char* name, const Tensor& other, const Tensor& input) {
  FASTCONV_CHECK(
      other.is_cpu() == input.is_cpu() && other.get_device_index() == input.get_device_index(), op,
      ": expected ", name, " on the same device as input, ", device_name(input), ", got ",
      device_name(other), ": ", name, ".to(input.device)");
}

}  // namespace

std::string to_string(const Sizes& sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(sizes[i]);
  return text + ")";
}

std::string to_string(const Tensor& t) {
  return to_string(Sizes(t.sizes().begin(), t.sizes().end()));
}

DType dtype_of(const Tensor& t, const char* op) {
  using torch::headeronly::ScalarType;
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      fail(op, ": expected input of dtype float32, float64, bfloat16 or float16, got ",
           torch::headeronly::toString(t.scalar_type()));
  }
}

Activation parse_activation(const std::optional<Text>& text) {
  if (!text) return Activation::kNone;
  const std::string& name = text->value;
  if (name == "relu") return Activation::kReLU;
  if (name == "relu6") return Activation::kReLU6;
  if (name == "silu") return Activation::kSiLU;
  if (name == "hardswish") return Activation::kHardswish;
  fail("expected activation to be None, 'relu', 'relu6', 'silu' or 'hardswish', got '", name, "'");
}

bool is_wide(const Tensor& t, const Tensor& input) {
  using torch::headeronly::ScalarType;
  return input.scalar_type() == ScalarType::BFloat16 && t.scalar_type() == ScalarType::Float;
}

Tensor narrowed(const Tensor& t, const Tensor& input) {
  if (!is_wide(t, input)) return t;
  return torch::stable::to(t, input.scalar_type());
}

std::optional<Tensor> narrowed(const std::optional<Tensor>& t, const Tensor& input) {
  return t ? std::optional(narrowed(*t, input)) : std::nullopt;
}

void check_like_input_or_wide(const char* op, const char* name, const Tensor& t,
                              const Tensor& input) {
  is_wide(t, input) ? check_device(op, name, t, input) : check_like_input(op, name, t, input);
}

void check_like_input(const char* op, const char* name, const Tensor& other, const Tensor& input) {
  check_device(op, name, other, input);
  FASTCONV_CHECK(other.scalar_type() == input.scalar_type(), op, ": expected ", name,
                 " of the dtype of input (", torch::headeronly::toString(input.scalar_type()),
                 "), got ", torch::headeronly::toString(other.scalar_type()));
}

void check_dim(const char* op, const char* name, const Tensor& t, int64_t dim) {
  FASTCONV_CHECK(t.dim() == dim, op, ": expected ", name, " with ", dim, " dimensions, got ",
                 t.dim(), " in shape ", to_string(t));
}

bool is_dense(const Tensor& t, Layout layout) {
  if (layout == Layout::kNCHW || t.dim() != 4) return t.is_contiguous();
  int64_t expected = 1;
  for (int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

Layout layout_of(const Tensor& t) {
  if (t.is_contiguous() || t.dim() != 4) return Layout::kNCHW;
  if (is_dense(t, Layout::kNHWC)) return Layout::kNHWC;
  // Neither: follow the strides. Channels vary faster than pixels in what was channels_last once.
  const bool channels_fastest =
      t.size(1) > 1 && t.stride(1) < t.stride(3) && t.stride(1) < t.stride(2);
  return channels_fastest ? Layout::kNHWC : Layout::kNCHW;
}

Tensor dense(const Tensor& t, Layout layout) {
  if (is_dense(t, layout)) return t;
  const torch::stable::Tensor& tensor = t;
  try {
    return torch::stable::contiguous(tensor, memory_format(layout));
  } catch (const std::exception&) {  // its text is a line of torch's headers
    fail("not enough memory for a dense copy of a tensor of shape ", to_string(t));
  }
}

Tensor empty_bytes(const Tensor& like, int64_t bytes) {
  return empty(like, aoti_torch_dtype_uint8(), {bytes}, {1});
}

void zero(const Tensor& t) {
  torch::stable::Tensor tensor = t;
  torch::stable::zero_(tensor);
}

Tensor empty_like(const Tensor& like, const Sizes& sizes, Layout layout) {
  const int64_t dim = static_cast<int64_t>(sizes.size());
  Sizes strides(sizes.size());
  int64_t stride = 1;
  for (int64_t i = 0; i < dim; ++i) {
    constexpr int64_t kChannelsLast[] = {1, 3, 2, 0};
    const int64_t d = layout == Layout::kNHWC ? kChannelsLast[i] : dim - 1 - i;
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  const auto dtype = torch::stable::detail::from(like.scalar_type());
  const auto code = torch::stable::detail::to<int32_t>(dtype);
  if (auto result = kept(like, code, sizes, strides, size_t(stride * like.element_size()))) {
    return *result;
  }
  Tensor result = empty(like, code, sizes, strides);
  if (result.is_cpu()) {
    advise_huge_pages(result.mutable_data_ptr(), result.numel() * result.element_size());
  }
  return result;
}

}  // namespace fastconv::ops
