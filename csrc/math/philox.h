// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC11), a
// keyed bijection of a 128-bit counter: number i of a stream needs no state, so any thread can make
// it. Counter: (element index, stream). Key: seed. Shared by the CPU kernels and CUDA.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define HOTLOOP_PHILOX_FN __host__ __device__ static inline
#else
#define HOTLOOP_PHILOX_FN [[maybe_unused]] static inline
#endif

namespace hotloop::math {

struct PhiloxBlock {
  std::uint32_t word[4];
};

inline constexpr std::uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
inline constexpr std::uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;
inline constexpr int kPhiloxRounds = 10;

HOTLOOP_PHILOX_FN PhiloxBlock philox(PhiloxBlock counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const std::uint64_t product0 = static_cast<std::uint64_t>(kPhiloxM0) * counter.word[0];
    const std::uint64_t product1 = static_cast<std::uint64_t>(kPhiloxM1) * counter.word[2];
    counter = {{static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0,
                static_cast<std::uint32_t>(product1),
                static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
                static_cast<std::uint32_t>(product0)}};
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
  return counter;
}

// The four words that belong to block `index` of the stream.
HOTLOOP_PHILOX_FN PhiloxBlock philox_at(std::uint64_t seed, std::uint64_t stream,
                                        std::uint64_t index) {
  return philox({{static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                  static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)}},
                static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
}

// Two words, scaled to [0, bound): the upper 64 bits of their product with it (Lemire 2019). What
// that leaves uneven is below bound / 2^64.
HOTLOOP_PHILOX_FN std::uint64_t philox_below(const std::uint32_t* word, std::uint64_t bound) {
  const std::uint64_t low = word[0], high = word[1];
  const std::uint64_t upper = bound >> 32, lower = bound & 0xffffffffu;
  const std::uint64_t middle = high * lower + (low * lower >> 32);
  const std::uint64_t crossed = low * upper + (middle & 0xffffffffu);
  return high * upper + (middle >> 32) + (crossed >> 32);
}

}  // namespace hotloop::math
