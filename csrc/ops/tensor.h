// What every adapter needs: checks with messages, layouts, allocation, and splitting the work.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/MemoryFormat.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../kernels/common/activation.h"
#include "../kernels/common/types.h"
#include "../kernels/variants.h"
#include "counters.h"
#include "known_tensor.h"

namespace fastconv::ops {

using Sizes = std::vector<int64_t>;

// A string argument of an op. Torch (2.10 to 2.13) unboxes std::string through a string that it
// never frees: 256 bytes lost a call (300 000 residual adds with and without an activation).
struct Text {
  std::string value;
};

// Raises RuntimeError with the pieces joined: the argument's name, what was wanted, what came.
template <class... Pieces>
[[noreturn]] void fail(const Pieces&... pieces) {
  std::ostringstream message;
  (message << ... << pieces);
  throw std::runtime_error(message.str());
}

#define FASTCONV_CHECK(condition, ...)                    \
  do {                                                    \
    if (!(condition)) ::fastconv::ops::fail(__VA_ARGS__); \
  } while (0)

std::string to_string(const Sizes& sizes);  // e.g. "(1, 8, 7, 7)"
std::string to_string(const Tensor& t);     // its shape

DType dtype_of(const Tensor& t, const char* op);
Activation parse_activation(const std::optional<Text>& name);

// Raises unless other has the device and the dtype of input.
void check_like_input(const char* op, const char* name, const Tensor& other, const Tensor& input);

// Whether t is float32 beside an input in bfloat16, as a bias may be.
bool is_wide(const Tensor& t, const Tensor& input);
// As check_like_input, but t may be wide.
void check_like_input_or_wide(const char* op, const char* name, const Tensor& t,
                              const Tensor& input);
// t itself unless it is wide, then a copy in the dtype of input.
Tensor narrowed(const Tensor& t, const Tensor& input);
std::optional<Tensor> narrowed(const std::optional<Tensor>& t, const Tensor& input);

void check_dim(const char* op, const char* name, const Tensor& t, int64_t dim);

// The memory format a result takes: channels_last where the strides of t say so, else contiguous.
// Ties (one channel, one pixel) go to contiguous, as fastconv/layout.py decides too.
Layout layout_of(const Tensor& t);
bool is_dense(const Tensor& t, Layout layout);

// t itself where it is dense in layout, else a copy that is.
Tensor dense(const Tensor& t, Layout layout);
Tensor empty_like(const Tensor& like, const Sizes& sizes, Layout layout);

// A uint8 tensor on the device of `like`.
Tensor empty_bytes(const Tensor& like, int64_t bytes);

void zero(const Tensor& t);

// While it lives, this thread reads subnormal numbers as zero and rounds them to zero: each would
// cost the processor up to a hundred cycles. The state before, torch.set_flush_denormal's too, is
// then restored.
class FlushSubnormals {
#if defined(__x86_64__)
 public:
  FlushSubnormals() { _mm_setcsr(before_ | kToZero | kAreZero); }
  ~FlushSubnormals() { _mm_setcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  static constexpr unsigned kToZero = 1u << 15, kAreZero = 1u << 6;
  unsigned before_ = _mm_getcsr();
#endif
};

// Runs f(begin, end) over [0, units) on torch's threads, subnormal numbers taken as zero; cost is
// the rough number of nanoseconds a unit takes on one thread, so that small work stays on the
// calling thread.
template <class F>
void parallel(int64_t units, double cost, const F& f) {
  constexpr double kWorthAThread = 4000;  // ns; waking torch's pool was measured at 2 to 4 us
  if (units <= 0) return;
  const auto grain = static_cast<int64_t>(kWorthAThread / std::max(cost, 1e-3)) + 1;
  const auto run = [&](int64_t begin, int64_t end) {
    [[maybe_unused]] const FlushSubnormals flush;
    f(begin, end);
  };
  if (units <= grain) return run(0, units);
  torch::stable::parallel_for(0, units, grain, run);
}

}  // namespace fastconv::ops

template <>
struct torch::stable::detail::ToImpl<fastconv::ops::Text> {
  static fastconv::ops::Text call(StableIValue value, uint64_t, bool) {
    const auto handle = to<StringHandle>(value);
    const char* text;
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &text));
    fastconv::ops::Text copy{text};
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return copy;
  }
};
