// What one thread moves by one access: packs of elements, read and written wide or number by number
// at an edge.
#pragma once

#include "number.cuh"

namespace fastconv::cuda {

// What one access moves, up to 16 bytes; more are several.
template <class T, int count>
struct alignas(min_of<int>(count * sizeof(T), 16)) Pack {
  T values[count];
};

// Elements of a 16-byte access.
template <class T>
constexpr int kWide = 16 / sizeof(T);

// A pack in memory, of which there are `left` elements, or the zeros that stand for the others.
template <int count, class T>
FASTCONV_INLINE Pack<T, count> load_pack(const T* from, int64_t left) {
  if (left >= count) return *reinterpret_cast<const Pack<T, count>*>(from);
  Pack<T, count> pack{};
#pragma unroll
  for (int i = 0; i < count - 1; ++i) {
    if (i < left) pack.values[i] = from[i];
  }
  return pack;
}

template <int count, class T>
FASTCONV_INLINE void load_wide(const T* from, accumulate_t<T>* to, int64_t left) {
  const Pack<T, count> pack = load_pack<count>(from, left);
#pragma unroll
  for (int i = 0; i < count; ++i) to[i] = widen(pack.values[i]);
}

// A whole pack to global memory, by one access for certain: where the elements come from all over
// the registers, the compiler takes the copy of a pack apart and stores them one by one.
template <class T, int count>
FASTCONV_INLINE void store_pack(T* to, const Pack<T, count>& pack) {
#if defined(__CUDA_ARCH__)
  constexpr int kWords = sizeof(pack) / 4;
  if constexpr (kWords == 2 || kWords == 4) {
    uint32_t words[kWords];
    memcpy(words, &pack, sizeof pack);
    if constexpr (kWords == 4) {
      asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
                   "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                   : "memory");
    } else {
      asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)),
                   "r"(words[0]), "r"(words[1])
                   : "memory");
    }
    return;
  }
#endif
  *reinterpret_cast<Pack<T, count>*>(to) = pack;
}

template <int count, class T>
FASTCONV_INLINE void store_narrow(T* to, const accumulate_t<T>* from, int64_t left) {
  Pack<T, count> pack;
#pragma unroll
  for (int i = 0; i < count; ++i) pack.values[i] = narrow<T>(from[i]);
  if (left >= count) {
    store_pack(to, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < count - 1; ++i) {
    if (i < left) to[i] = pack.values[i];
  }
}

}  // namespace fastconv::cuda
