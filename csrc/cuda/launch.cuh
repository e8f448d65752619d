// Grid-stride launches and the block reduction.  Only nvcc reads this.
#pragma once

#include <cstdint>

namespace fbconv {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
// Room for 80 registers a thread.  Left alone, ptxas spills a few of a small kernel's in order to
// fill the multiprocessor.
constexpr int kBlocksPerMultiprocessor = 3;
#define FBCONV_KERNEL_BOUNDS __launch_bounds__(kThreads, kBlocksPerMultiprocessor)

// Blocks for `work` items of which a block takes `per_block` at a time.  Kernels stride over the
// grid, so the cap bounds only how many blocks wait.
inline unsigned blocks_for(int64_t work, int64_t per_block) {
  constexpr int64_t kMaxBlocks = int64_t{1} << 20;
  const int64_t blocks = (work + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

// Threads of a block that reduces `terms` terms: eight each, whole warps, at most kThreads.
inline unsigned threads_for(int64_t terms) {
  const int64_t warps = (terms + 8 * kWarp - 1) / (8 * kWarp);
  constexpr int64_t kMaxWarps = kThreads / kWarp;
  return static_cast<unsigned>(kWarp * (warps < 1 ? 1 : warps < kMaxWarps ? warps : kMaxWarps));
}

__device__ inline int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t item_stride() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

template <typename T>
__device__ inline T warp_sum(T value) {
#pragma unroll
  for (int lane = kWarp / 2; lane > 0; lane /= 2) value += __shfl_down_sync(~0u, value, lane);
  return value;
}

// The sum over a block's threads, in thread 0.  Every thread of the block has to call it; it may be
// called again after it.
template <typename T>
__device__ inline T block_sum(T value) {
  __shared__ T warp_sums[kThreads / kWarp];
  value = warp_sum(value);
  if (blockDim.x == kWarp) return value;
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  if (threadIdx.x < kWarp) {
    value = warp_sum(threadIdx.x < blockDim.x / kWarp ? warp_sums[threadIdx.x] : T(0));
  }
  __syncthreads();
  return value;
}

}  // namespace fbconv
