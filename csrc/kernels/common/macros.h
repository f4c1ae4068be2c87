// Words shared by CPU and CUDA kernels.
#pragma once

// Helpers compiled once per instruction set must never be emitted as a shared symbol: the linker
// would keep one copy for all, and a scalar path could then run an AVX-512 body.
#if defined(__CUDACC__)
#define FASTCONV_INLINE __host__ __device__ __forceinline__
#else
#define FASTCONV_INLINE inline __attribute__((always_inline))
#endif

// Names the namespace of one instruction set; the build passes scalar, avx2, avx512, ...
#ifndef FASTCONV_ISA
#define FASTCONV_ISA scalar
#endif
