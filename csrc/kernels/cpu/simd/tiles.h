// Tiles: a matrix unit with eight registers of 16 rows of 64 bytes.
//
//   set_shape(s)      how much of the registers is in use; loses what they hold
//   zero<R>           register R is all zeros
//   load<R>, store<R> rows a stride of bytes apart; a load by stride 0 repeats one row
//   multiply<C, A, B> c[i][j] += a[i][2p] * b[p][2j] + a[i][2p + 1] * b[p][2j + 1], summed over p:
//                     c float32, a and b bfloat16, b by pairs of rows as gemm_bfloat16.h has them
//
// Subnormal operands and results count as zero, and sums are rounded to nearest, whatever the
// thread's rounding says. A unit of work has one object, which gives the registers back.
#pragma once

#include <cstdint>

#include "../../common/types.h"

#if defined(FASTCONV_EMULATES_TILES)
#include <cstring>

#include "narrow.h"
#endif

namespace fastconv::FASTCONV_ISA {

constexpr int kTileRegisterRows = 16, kTileRegisterColumns = 16, kTilePairs = 16;

// Registers 0 to 3 are for c, 4 and 6 for a, 5 and 7 for b: 4 and 5 have the whole depth of 16
// pairs unless told otherwise, 6 and 7 the depth that is left at the end.
struct TileShape {
  uint8_t rows, columns;       // of c, up to 16
  uint8_t last_pairs;          // of 6 and 7, up to 16
  uint8_t pairs = kTilePairs;  // of 4 and 5
};

#if defined(__AMX_TILE__) || defined(FASTCONV_EMULATES_TILES)

constexpr bool kHasTiles = true;

// What a processor loads as the shapes of all its registers.
struct alignas(64) TileShapes {
  uint8_t palette, first_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];

  FASTCONV_INLINE explicit TileShapes(TileShape s) : TileShapes{} {
    palette = 1;
    const auto set = [&](int i, int height, int bytes) {
      rows[i] = uint8_t(height), row_bytes[i] = uint16_t(bytes);
    };
    for (int i = 0; i < 4; ++i) set(i, s.rows, 4 * s.columns);
    set(4, s.rows, 4 * s.pairs), set(5, s.pairs, 4 * s.columns);
    set(6, s.rows, 4 * s.last_pairs), set(7, s.last_pairs, 4 * s.columns);
  }

 private:
  TileShapes() = default;
};

#endif

#if defined(__AMX_TILE__)

// By instructions rather than the compiler's intrinsics: those of g++ 12 take no register from a
// template and do not say that they read and write memory.
class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  FASTCONV_INLINE ~Tiles() {
    if (shape_.rows > 0) asm volatile("tilerelease" ::: "memory");
  }

  FASTCONV_INLINE void set_shape(TileShape shape) {
    if (shape.rows == shape_.rows && shape.columns == shape_.columns &&
        shape.last_pairs == shape_.last_pairs && shape.pairs == shape_.pairs) {
      return;
    }
    shape_ = shape;
    const TileShapes shapes(shape);
    asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory");
  }

  template <int R>
  FASTCONV_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"n"(R));
  }
  template <int R>
  FASTCONV_INLINE void load(const void* from, int64_t row_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "n"(R) : "memory");
  }
  template <int R>
  FASTCONV_INLINE void store(void* to, int64_t row_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "n"(R) : "memory");
  }
  template <int C, int A, int B>
  FASTCONV_INLINE void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"n"(C), "n"(A), "n"(B));
  }

 private:
  TileShape shape_{};
};

#elif defined(FASTCONV_EMULATES_TILES)

// What the instructions do, in the order in which they do it.
class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  FASTCONV_INLINE void set_shape(TileShape shape) {
    shapes_ = TileShapes(shape);
    std::memset(registers_, 0, sizeof registers_);
  }

  template <int R>
  FASTCONV_INLINE void zero() {
    std::memset(registers_[R], 0, sizeof registers_[R]);
  }
  template <int R>
  FASTCONV_INLINE void load(const void* from, int64_t row_bytes) {
    zero<R>();
    for (int i = 0; i < shapes_.rows[R]; ++i) {
      std::memcpy(registers_[R][i], static_cast<const char*>(from) + i * row_bytes,
                  shapes_.row_bytes[R]);
    }
  }
  template <int R>
  FASTCONV_INLINE void store(void* to, int64_t row_bytes) {
    for (int i = 0; i < shapes_.rows[R]; ++i) {
      std::memcpy(static_cast<char*>(to) + i * row_bytes, registers_[R][i], shapes_.row_bytes[R]);
    }
  }

  template <int C, int A, int B>
  FASTCONV_INLINE void multiply() {
    for (int i = 0; i < shapes_.rows[C]; ++i) {
      for (int j = 0; j < shapes_.row_bytes[C] / 4; ++j) {
        float first = 0, second = 0;
        for (int p = 0; p < shapes_.rows[B]; ++p) {
          const uint32_t a = registers_[A][i][p], b = registers_[B][p][j];
          first += float_of(a << 16) * float_of(b << 16);
          second += float_of(a & 0xffff0000) * float_of(b & 0xffff0000);
        }
        const float sum = float_of(registers_[C][i][j]) + (first + second);
        registers_[C][i][j] = fits<C, A, B>() ? bits_of(sum) : kNaN;
      }
    }
  }

 private:
  static constexpr uint32_t kNaN = 0x7fc00000;

  // A processor refuses registers whose shapes do not match.
  template <int C, int A, int B>
  FASTCONV_INLINE bool fits() const {
    return shapes_.rows[A] == shapes_.rows[C] && shapes_.row_bytes[A] == 4 * shapes_.rows[B] &&
           shapes_.row_bytes[B] == shapes_.row_bytes[C] && shapes_.rows[B] > 0;
  }

  TileShapes shapes_{TileShape{}};
  uint32_t registers_[8][kTileRegisterRows][kTilePairs];
};

#else

constexpr bool kHasTiles = false;
struct Tiles {};

#endif

}  // namespace fastconv::FASTCONV_ISA
