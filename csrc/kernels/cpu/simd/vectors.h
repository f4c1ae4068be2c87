// Walks a run of elements one vector at a time, the last one short.
#pragma once

#include "simd.h"

namespace fastconv::FASTCONV_ISA {

struct AllLanes {};
struct FirstLanes {
  int64_t n;
};
struct Streamed {};  // all lanes, stored past the caches

template <class T>
FASTCONV_INLINE vec_t<T> load(const T* p, AllLanes) {
  return load(p);
}

template <class T>
FASTCONV_INLINE vec_t<T> load(const T* p, FirstLanes lanes) {
  return load_partial(p, lanes.n);
}

template <class T>
FASTCONV_INLINE void store(T* p, vec_t<T> a, AllLanes) {
  store(p, a);
}

template <class T>
FASTCONV_INLINE void store(T* p, vec_t<T> a, FirstLanes lanes) {
  store_partial(p, a, lanes.n);
}

template <class T>
FASTCONV_INLINE vec_t<T> load(const T* p, Streamed) {
  return load(p);
}

template <class T>
FASTCONV_INLINE void store(T* p, vec_t<T> a, Streamed) {
  stream(p, a);
}

// Calls body(i, lanes) for i = 0, L, 2L, ... below count; lanes goes to load and store.
template <class T, class Body>
FASTCONV_INLINE void for_each_vector(int64_t count, const Body& body) {
  constexpr int L = kLanes<T>;
  int64_t i = 0;
  for (; i + L <= count; i += L) body(i, AllLanes{});
  if (i < count) body(i, FirstLanes{count - i});
}

// The same with a short first vector, so that the others store to out past the caches.
template <class T, class Body>
FASTCONV_INLINE void for_each_vector_streamed(const T* out, int64_t count, const Body& body) {
  constexpr int L = kLanes<T>;
  const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) / sizeof(T) % L);
  int64_t i = min_of(count, (L - past) % L);
  if (i > 0) body(0, FirstLanes{i});
  for (; i + L <= count; i += L) body(i, Streamed{});
  if (i < count) body(i, FirstLanes{count - i});
}

// Asks for the cache line of p, which may lie outside any array.
FASTCONV_INLINE void prefetch(const void* p) {
  __builtin_prefetch(p);
}

}  // namespace fastconv::FASTCONV_ISA
