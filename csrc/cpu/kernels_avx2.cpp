// Kernels for AVX2 and FMA.
#define FBCONV_ISA avx2
#define FBCONV_VECTOR_BYTES 32
#include "kernels.inl"
