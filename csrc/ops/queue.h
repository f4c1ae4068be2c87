// Calls of ops that are checked and planned and have yet to compute, so that several share one
// call of torch's pool.
//
// An op that offers this takes `Queue& queue` before its `Out out`, adds its work, and returns the
// tensor that the work fills. An op that must compute at once calls queue.run() first. Registered
// by impl_with_out (out.h) it runs its work alone; sequence.cpp queues many.
#pragma once

#include <memory>

#include "tensor.h"

namespace fastconv::ops {

// Copies of those tensors that were not dense.
struct Copies {
  std::vector<Tensor> held;

  // What t points to where it is dense in layout, else its copy.
  const void* read(const Tensor& t, Layout layout) {
    if (is_dense(t, layout)) return t.const_data_ptr();
    return held.emplace_back(dense(t, layout)).const_data_ptr();
  }
  const void* read(const std::optional<Tensor>& t, Layout layout = Layout::kNCHW) {
    return t ? read(*t, layout) : nullptr;
  }
  // As read, of a vector that is first narrowed to the dtype of input.
  const void* read_narrowed(const std::optional<Tensor>& t, const Tensor& input) {
    if (!t || !is_wide(*t, input)) return read(t);
    return read(held.emplace_back(narrowed(*t, input)), Layout::kNCHW);
  }
};

// How a work makes the rows of its output, image by image, each from some rows of its input; row
// and in_image are bytes, dense. images is 0 where a work does not offer this.
struct Rows {
  int64_t images = 0;
  const void* input = nullptr;
  int64_t in_image = 0, in_height = 0;
  void* output = nullptr;
  int64_t row = 0, height = 0;
  int64_t kernel = 0, stride = 0, pad_top = 0;
  int64_t unit = 0;  // rows made at a time; fewer at the end of an image

  // The rows of the input that output rows [begin, end) read.
  int64_t first_read(int64_t begin) const {
    return std::clamp<int64_t>(begin * stride - pad_top, 0, in_height);
  }
  int64_t end_read(int64_t end) const {
    return std::clamp<int64_t>((end - 1) * stride - pad_top + kernel, 0, in_height);
  }
};

// What is left to do of a call: stages, each of which wants the one before to be done. What it
// reads and writes must live until it is run; but for copies that it had made, it holds none of
// that, and may then be run again while all lies where it lay.
class Work {
 public:
  static constexpr int kMostStages = 6;

  explicit Work(Variant runs) : variant(runs) {}

  virtual ~Work() = default;

  // Units [begin, end) of a stage; they may run in any order and on any thread. All threads share
  // shared_bytes at `shared`, aligned to 64, which no other work touches meanwhile.
  virtual void run(int stage, char* shared, int64_t begin, int64_t end) = 0;

  // Rows [begin, end) of an image, units of rows.unit; row 0 of the image is, or would be, here.
  virtual void run_rows([[maybe_unused]] const void* input, [[maybe_unused]] void* output,
                        [[maybe_unused]] int64_t begin, [[maybe_unused]] int64_t end) {}

  int64_t units[kMostStages] = {};
  double cost[kMostStages] = {};  // rough nanoseconds that all units of a stage take on one thread
  int64_t shared_bytes = 0;
  Copies copies;
  Variant variant;
  Rows rows;
  bool passes = false;  // only the work that follows reads the output, which may be left unwritten
};

class Queue {
 public:
  void add(std::shared_ptr<Work> work) { works_.push_back(std::move(work)); }
  const std::vector<std::shared_ptr<Work>>& works() const { return works_; }

  // Before a work reads t, which other work may have yet to fill: runs that where t must be copied.
  void fill(const Tensor& t, Layout layout) {
    if (!is_dense(t, layout)) run();
  }

  // Does all work, in the order in which it came, on torch's threads, and forgets it.
  void run();

 private:
  std::vector<std::shared_ptr<Work>> works_;
};

}  // namespace fastconv::ops
