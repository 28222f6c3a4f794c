// y = x scale where word i of the stream is at least the threshold, else 0: the elements that the
// CPU drops. A thread takes the four elements of a Philox block, eight apart; a warp reads and
// writes whole sectors of 32 bytes.
#include "kernels/dropout.h"

#include "kernels/cuda/random.cuh"

namespace hotloop::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kTeam)
    drop(const __grid_constant__ DropoutArgs args, std::int64_t blocks) {
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const T scale = static_cast<T>(args.scale);
  for (std::int64_t block = std::int64_t{kTeam} * blockIdx.x + threadIdx.x; block < blocks;
       block += std::int64_t{kTeam} * gridDim.x) {
    const math::PhiloxBlock words = words_at(args, block);
    const std::int64_t first = block / kPhiloxBlocks * kRandomUnit + block % kPhiloxBlocks;
    T value[4];
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < 4; ++k) {
      const std::int64_t at = first + k * kPhiloxBlocks;
      value[k] = at < args.size ? x[at] : T(0);
    }
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < 4; ++k) {
      const std::int64_t at = first + k * kPhiloxBlocks;
      if (at < args.size) y[at] = words.word[k] >= args.threshold ? value[k] * scale : T(0);
    }
  }
}

}  // namespace

HOTLOOP_CUDA_KERNEL(dropout_apply, DropoutArgs) {
  const std::int64_t blocks = (args.size + kRandomUnit - 1) / kRandomUnit * kPhiloxBlocks;
  const unsigned grid = blocks_for(blocks, kTeam);
  if (args.dtype == DType::f32) {
    HOTLOOP_LAUNCH((drop<float>), grid, kTeam, 0, stream, args, blocks);
  } else {
    HOTLOOP_LAUNCH((drop<double>), grid, kTeam, 0, stream, args, blocks);
  }
}

}  // namespace hotloop::cuda
