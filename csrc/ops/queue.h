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

// What is left to do of a call: stages, each of which wants the one before to be done. A work owns
// the tensors that it reads.
class Work {
 public:
  static constexpr int kMostStages = 5;

  virtual ~Work() = default;

  // Units [begin, end) of a stage; they may run in any order and on any thread. All threads share
  // shared_bytes at `shared`, aligned to 64, which no other work touches meanwhile.
  virtual void run(int stage, char* shared, int64_t begin, int64_t end) = 0;

  int64_t units[kMostStages] = {};
  double cost[kMostStages] = {};  // rough nanoseconds that all units of a stage take on one thread
  int64_t shared_bytes = 0;
};

class Queue {
 public:
  void add(std::unique_ptr<Work> work) { works_.push_back(std::move(work)); }

  // t itself where it is dense in layout, else a copy, which is taken when all work here is done.
  Tensor dense(const Tensor& t, Layout layout);

  // Does all work, in the order in which it came, on torch's threads, and forgets it.
  void run();

 private:
  std::vector<std::unique_ptr<Work>> works_;
};

}  // namespace fastconv::ops
