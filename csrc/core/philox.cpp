#include "core/philox.h"

#include <atomic>

namespace hotloop {
namespace {

// Seed 0 until told otherwise: a program that never calls seed() is reproducible too.
std::atomic<std::uint64_t> seed_in_force{0};
std::atomic<std::uint64_t> next_stream{0};

}  // namespace

void set_seed(std::uint64_t seed) {
  set_key({seed, 0});
}

RandomKey next_key() {
  return next_keys(1);
}

RandomKey next_keys(std::uint64_t count) {
  return {seed_in_force.load(), next_stream.fetch_add(count)};
}

RandomKey peek_key() {
  return {seed_in_force.load(), next_stream.load()};
}

void set_key(const RandomKey& key) {
  seed_in_force.store(key.seed);
  next_stream.store(key.stream);
}

}  // namespace hotloop
