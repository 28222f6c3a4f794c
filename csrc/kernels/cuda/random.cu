// Uniform and normal numbers: Philox words to fractions, Box and Muller for the normal ones. The
// same numbers as on the CPU (kernels/cuda/random.cuh).
#include "kernels/cuda/random.cuh"

namespace hotloop::cuda {
namespace {

enum class Numbers { uniform, normal, bernoulli };

// A block's four words make four numbers of a chunk of 32 (float) or two of 16 (double).
template <class T, Numbers kind>
__global__ void __launch_bounds__(kTeam)
    fill_numbers(const __grid_constant__ RandomArgs args, std::int64_t blocks) {
  constexpr int numbers = is_float<T> ? 4 : 2;
  const T shift = static_cast<T>(args.shift), scale = static_cast<T>(args.scale);
  T* out = static_cast<T*>(args.out);
  for (std::int64_t block = std::int64_t{kTeam} * blockIdx.x + threadIdx.x; block < blocks;
       block += std::int64_t{kTeam} * gridDim.x) {
    const math::PhiloxBlock words = words_at(args, block);
    const std::uint32_t* const word = words.word;
    T number[numbers];
    if constexpr (is_float<T> && kind == Numbers::normal) {
      HOTLOOP_UNROLL_ALL
      for (int half = 0; half < 2; ++half) {  // the cosines come first
        const double u1 = times(plus(static_cast<double>(word[2 * half]), 0.5), 0x1p-32);
        const auto both = box_muller<T>(static_cast<T>(u1), fraction24(word[2 * half + 1]));
        number[half] = both.first;
        number[2 + half] = both.second;
      }
    } else if constexpr (kind == Numbers::normal) {
      const auto both =
          box_muller<T>(plus(fraction(word[0], word[1]), 0x1p-54), fraction(word[2], word[3]));
      number[0] = both.first;
      number[1] = both.second;
    } else {
      HOTLOOP_UNROLL_ALL
      for (int k = 0; k < numbers; ++k) {
        if constexpr (is_float<T>) {
          number[k] = fraction24(word[k]);
        } else {
          number[k] = fraction(word[2 * k], word[2 * k + 1]);
        }
      }
    }
    const std::int64_t first =
        block / kPhiloxBlocks * (numbers * kPhiloxBlocks) + block % kPhiloxBlocks;
    HOTLOOP_UNROLL_ALL
    for (int k = 0; k < numbers; ++k) {
      const std::int64_t at = first + k * kPhiloxBlocks;
      if (at >= args.size) break;
      out[at] = kind == Numbers::bernoulli ? (number[k] < scale ? T(1) : T(0))
                                           : fma_of(scale, number[k], shift);
    }
  }
}

template <Numbers kind>
void launch_numbers(const RandomArgs& args, cudaStream_t stream) {
  const std::int64_t each = kPhiloxBlocks * (args.dtype == DType::f32 ? 4 : 2);
  const std::int64_t blocks = (args.size + each - 1) / each * kPhiloxBlocks;
  const unsigned grid = blocks_for(blocks, kTeam);
  if (args.dtype == DType::f32) {
    HOTLOOP_LAUNCH((fill_numbers<float, kind>), grid, kTeam, 0, stream, args, blocks);
  } else {
    HOTLOOP_LAUNCH((fill_numbers<double, kind>), grid, kTeam, 0, stream, args, blocks);
  }
}

}  // namespace

HOTLOOP_CUDA_KERNEL(random_uniform, RandomArgs) {
  launch_numbers<Numbers::uniform>(args, stream);
}
HOTLOOP_CUDA_KERNEL(random_normal, RandomArgs) {
  launch_numbers<Numbers::normal>(args, stream);
}
HOTLOOP_CUDA_KERNEL(random_bernoulli, RandomArgs) {
  launch_numbers<Numbers::bernoulli>(args, stream);
}

}  // namespace hotloop::cuda
