// What the adapters of batch norm and of a convolution with one behind it share.
#pragma once

#include "../kernels/batch_norm.h"
#include "tensor.h"

namespace fastconv::ops {

// A parameter or statistic of each channel as a dense tensor, none where there is none.
std::optional<Tensor> of_channels(const char* op, const char* name, const std::optional<Tensor>& t,
                                  const Tensor& input);

BatchNormParams batch_norm_params(const char* op, const Tensor& input, double eps,
                                  const std::optional<Text>& activation);

// One tensor of a number a channel, in the accumulation type.
Tensor new_of_channels(const Tensor& input, bool used);

template <class Kernel>
void over_units(const BatchNormParams& p, Kernel kernel, int64_t passes) {
  constexpr double kNanosecondsAByte = 0.05;  // 20 GB/s a thread
  const int64_t units = BatchNormUnits(p).units;
  const double bytes =
      static_cast<double>(passes * p.batch * p.channels * p.pixels * size_of(p.dtype));
  parallel(units, bytes * kNanosecondsAByte / static_cast<double>(std::max<int64_t>(units, 1)),
           [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
}

}  // namespace fastconv::ops
