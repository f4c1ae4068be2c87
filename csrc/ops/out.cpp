#include "out.h"

namespace fastconv::ops {

namespace {

struct Range {
  uintptr_t begin, end;
};

Range memory_of(const Tensor& t) {
  const auto begin = reinterpret_cast<uintptr_t>(t.const_data_ptr());
  if (t.numel() == 0) return {begin, begin};
  const auto sizes = t.sizes(), strides = t.strides();
  int64_t last = 0;
  for (size_t d = 0; d < sizes.size(); ++d) last += (sizes[d] - 1) * strides[d];
  return {begin, begin + (last + 1) * t.element_size()};
}

}  // namespace

void check_apart(const Tensor& out, const Tensor& input) {
  const Range a = memory_of(out), b = memory_of(input);
  FASTCONV_CHECK(a.end <= b.begin || b.end <= a.begin,
                 "expected out to share no memory with an input, got out of shape ", to_string(out),
                 " within an input of shape ", to_string(input), "; clone() one of them");
}

Tensor output_of(const char* op, Out out, const Tensor& like, const Sizes& sizes, Layout layout) {
  if (out == nullptr) return empty_like(like, sizes, layout);
  check_like_input(op, "out", *out, like);
  const auto came = out->sizes();
  FASTCONV_CHECK(
      came.size() == sizes.size() && std::equal(sizes.begin(), sizes.end(), came.begin()), op,
      ": expected out of shape ", to_string(sizes), ", got ", to_string(*out));
  FASTCONV_CHECK(is_dense(*out, layout), op, ": expected out dense in the memory format of input (",
                 layout == Layout::kNHWC ? "channels_last" : "contiguous", "), got strides ",
                 to_string(Sizes(out->strides().begin(), out->strides().end())));
  return *out;
}

}  // namespace fastconv::ops
