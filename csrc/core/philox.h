// Keys for random numbers: Philox 4x32-10 (Salmon et al., SC11), keyed by (seed, stream, element
// index). The formulas are in math/philox.h, shared with the kernels; here is the process-wide
// state.
#pragma once

#include <cstdint>

namespace hotloop {

struct RandomKey {
  std::uint64_t seed;
  std::uint64_t stream;
};

void set_seed(std::uint64_t seed);  // also returns the stream counter to 0
// A key that no other call gets: the process's seed and the next stream.
RandomKey next_key();
RandomKey next_keys(std::uint64_t count);  // the first of as many in a row
RandomKey peek_key();                      // what next_key would give, for saving a state
void set_key(const RandomKey& key);        // restores a saved state

}  // namespace hotloop
