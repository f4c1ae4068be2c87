#include "probe.h"

#include <torch/csrc/stable/ops.h>

#include <atomic>

#include "../kernels/cpu/registry.h"
#include "../kernels/depthwise_conv2d.h"
#include "../kernels/probe.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

constexpr int64_t kLine = 16;  // floats of a cache line: parts begin at whole lines

// f(begin, count) for one part of [0, count) on each thread.
template <class F>
void in_parts(int64_t count, const F& f) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t part = div_up(div_up(count, threads), kLine) * kLine;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t first = min_of(t * part, count);
      f(first, min_of(part, count - first));
    }
  });
}

std::atomic<float> result;  // what was computed is used

int64_t on_every_thread(float (*multiply_add)(int64_t, int64_t&), int64_t rounds) {
  std::atomic<int64_t> operations{0};
  const int64_t threads = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    int64_t done = 0;
    for (int64_t t = begin; t < end; ++t) result = multiply_add(rounds, done);
    operations += done;
  });
  return operations;
}

}  // namespace

int64_t probe_multiply_add(int64_t rounds, bool bfloat16) {
  return on_every_thread(
      bfloat16 ? probe_bfloat16_kernels().multiply_add : probe_kernels().multiply_add, rounds);
}

int64_t probe_multiply_add_loading(int64_t rounds) {
  return on_every_thread(probe_kernels().multiply_add_loading, rounds);
}

void probe_read(const float* data, int64_t count, int64_t rounds) {
  in_parts(count, [&](int64_t first, int64_t n) {
    for (int64_t round = 0; round < rounds; ++round) result = probe_kernels().read(data + first, n);
  });
}

void probe_copy(const float* from, float* to, int64_t count) {
  in_parts(count,
           [&](int64_t first, int64_t n) { probe_kernels().copy(from + first, to + first, n); });
}

void probe_stream_copy(const float* from, float* to, int64_t count) {
  in_parts(count, [&](int64_t first, int64_t n) {
    probe_kernels().stream_copy(from + first, to + first, n);
  });
}

void probe_depthwise_conv2d(const DepthwiseConv2dParams& p, int64_t rounds) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t units = depthwise_conv2d_units(p.shape);
  const int64_t bytes = depthwise_conv2d_scratch(p.shape);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    void* memory = scratch(Purpose::kOwn, bytes);
    const int64_t first = units * begin / threads, last = units * end / threads;
    for (int64_t round = 0; round < rounds; ++round) {
      depthwise_conv2d_kernels().forward(p, memory, first, last);
    }
  });
}

}  // namespace fastconv::ops
