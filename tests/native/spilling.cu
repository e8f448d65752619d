// A kernel that needs far more registers than it may have: check_ptxas.py has to reject it.
__global__ void __launch_bounds__(1024, 2) spilling_kernel(const float* from, float* to) {
  float kept[256];
  for (int i = 0; i < 256; ++i) kept[i] = from[i * blockDim.x + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 256; ++i) to[i * blockDim.x + threadIdx.x] = kept[255 - i] * kept[i];
}
