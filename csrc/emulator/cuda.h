// CUDA's words for a kernel that g++ compiles and the CPU runs; included before every .cu file by
// the command line. A block's threads are fibers that take turns at barriers; see fiber.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define FASTCONV_EMULATED
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __grid_constant__
// The dynamic shared memory of the block, as kernels declare it; see number.cuh.
#define FASTCONV_SHARED(name) unsigned char* const name = ::fastconv::emulator::state.shared

namespace fastconv::emulator {

struct Index {
  unsigned x, y, z;
};

// The thread that runs now, and the launch it belongs to.
struct State {
  Index thread, block, threads, blocks;
  unsigned char* shared;
};
extern State state;

void sync_block();
bool sync_block_or(bool vote);  // whether any thread votes for
void sync_warp(unsigned mask);

// What each lane of a warp sees of the others' values of up to 64 bytes: all bring theirs, then
// each takes the one of lane `source`.
void exchange(unsigned mask, const void* mine, void* theirs, int source, int bytes);
// The values of all lanes, one after the other.
void gather(const void* mine, void* all, int bytes);

// Fill 16 bytes of shared memory with `bytes` from elsewhere, then zeros. They are late, as a GPU's
// may be: a thread's are made when it waits for them, group by group.
void copy_async(void* to, const void* from, int bytes);
void commit_copies();
void wait_copies(int pending);

}  // namespace fastconv::emulator

#define threadIdx (::fastconv::emulator::state.thread)
#define blockIdx (::fastconv::emulator::state.block)
#define blockDim (::fastconv::emulator::state.threads)
#define gridDim (::fastconv::emulator::state.blocks)

inline void __syncthreads() {
  ::fastconv::emulator::sync_block();
}
inline int __syncthreads_or(int vote) {
  return ::fastconv::emulator::sync_block_or(vote != 0);
}
inline void __syncwarp(unsigned mask = ~0u) {
  ::fastconv::emulator::sync_warp(mask);
}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = threadIdx.x % 32;
  T result;
  ::fastconv::emulator::exchange(mask, &value, &result,
                                 (lane & ~(width - 1)) | (source & (width - 1)), sizeof(T));
  return result;
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = threadIdx.x % 32;
  return __shfl_sync(mask, value, (lane % width) ^ bits, width);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, int by, int width = 32) {
  const int lane = threadIdx.x % 32 % width;
  return __shfl_sync(mask, value, lane - by >= 0 ? lane - by : lane, width);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, int by, int width = 32) {
  const int lane = threadIdx.x % 32 % width;
  return __shfl_sync(mask, value, lane + by < width ? lane + by : lane, width);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  unsigned all = 0;
  for (int lane = 0; lane < 32; ++lane) all |= __shfl_sync(mask, unsigned(vote), lane) << lane;
  return all;
}

template <class T>
inline T __ldg(const T* from) {
  return *from;
}
inline float rsqrtf(float x) {
  return 1 / std::sqrt(x);
}

inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __expf(float x) {
  return std::exp(x);
}
