// Kernels for plain x86-64 (SSE2) or any other architecture's baseline.
#define FBCONV_ISA baseline
#define FBCONV_VECTOR_BYTES 16
#include "kernels.inl"
