// Kernels for AVX-512 F, VL, BW, DQ.
#define FBCONV_ISA avx512
#define FBCONV_VECTOR_BYTES 64
#include "kernels.inl"
