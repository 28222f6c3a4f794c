// Uniform and normal numbers: Philox words to fractions, Box and Muller for the normal ones; and
// permutations. The same numbers as on the CPU (kernels/cuda/random.cuh).
#include "kernels/cuda/random.cuh"

namespace hotloop::cuda {
namespace {

constexpr int kShuffleTeam = 1024;

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

// Fisher and Yates' shuffle, with the result of one that goes step by step: from the last place
// down, place i is exchanged with a place drawn from [0, i]. Steps that touch different places may
// be taken at once; where they meet, the one with the larger i comes first. So one block keeps as
// many steps at hand as it has threads, the largest that are left; each marks both of its places
// with its round and its i, the largest mark stays, and who finds both marks his own takes his
// step. (Shun, Gu, Blelloch, Fineman, Gibbons: Sequential random permutation ... are highly
// parallel, 2015)
__global__ void __launch_bounds__(kShuffleTeam)
    shuffle(const __grid_constant__ PermutationArgs args) {
  using Mark = unsigned long long;
  __shared__ int idle_of[kShuffleTeam / kWarp];
  std::int64_t* const order = args.order;
  Mark* const marks = static_cast<Mark*>(args.scratch);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  for (std::int64_t i = thread; i < args.size; i += kShuffleTeam) {
    order[i] = i;
    marks[i] = 0;
  }
  std::int64_t next = args.size - 1;  // the largest step that nobody has
  std::int64_t mine = 0, with = 0;    // 0: none
  for (Mark round = 1;; ++round) {
    const unsigned idle = __ballot_sync(kAllLanes, mine == 0);
    if (lane == 0) idle_of[warp] = __popc(idle);
    __syncthreads();
    int before = __popc(idle & ((1u << lane) - 1)), all = 0;
    for (int w = 0; w < kShuffleTeam / kWarp; ++w) {
      if (w < warp) before += idle_of[w];
      all += idle_of[w];
    }
    if (mine == 0 && next - before > 0) {
      mine = next - before;
      const std::int64_t index = args.size - 1 - mine;
      const math::PhiloxBlock words = words_at(args, index / 2);
      const bool odd = index % 2 != 0;  // chosen, not indexed: that would need memory
      const std::uint32_t pair[2] = {odd ? words.word[2] : words.word[0],
                                     odd ? words.word[3] : words.word[1]};
      with =
          static_cast<std::int64_t>(math::philox_below(pair, static_cast<std::uint64_t>(mine) + 1));
    }
    next = next > all ? next - all : 0;
    const Mark mark = round << 40 | static_cast<Mark>(mine);
    if (mine != 0) {
      atomicMax(marks + mine, mark);
      atomicMax(marks + with, mark);
    }
    __syncthreads();
    if (mine != 0 && __ldcg(marks + mine) == mark && __ldcg(marks + with) == mark) {
      const std::int64_t held = order[mine];
      order[mine] = order[with];
      order[with] = held;
      mine = 0;
    }
    if (__syncthreads_and(mine == 0 && next == 0)) return;
  }
}

}  // namespace

HOTLOOP_CUDA_WORKSPACE(permutation, PermutationArgs) {
  return args.size * static_cast<std::int64_t>(sizeof(unsigned long long));
}
HOTLOOP_CUDA_KERNEL(permutation, PermutationArgs) {
  HOTLOOP_LAUNCH(shuffle, 1, kShuffleTeam, 0, stream, args);
}

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
