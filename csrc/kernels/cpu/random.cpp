// Uniform and normal numbers: Philox words to fractions, Box and Muller for the normal ones.
#include "kernels/random.h"

#include "engines/random.h"

namespace hotloop::HOTLOOP_LEVEL {

namespace {

enum class Numbers { uniform, normal, bernoulli };

template <class T, Numbers kind>
void fill_units(const RandomArgs& args, std::int64_t begin, std::int64_t end) {
  using V = simd::Vec<T>;
  const V shift = simd::set1<T>(static_cast<T>(args.shift));
  const V scale = simd::set1<T>(static_cast<T>(args.scale));
  const random::Stream numbers(args.seed, args.stream);
  T* out = static_cast<T*>(args.out);
  alignas(64) T number[kRandomUnit];
  for (std::int64_t unit = begin; unit < end; ++unit) {
    if constexpr (kind == Numbers::normal) {
      random::normal_unit(numbers, static_cast<std::uint64_t>(unit), number);
    } else {
      random::uniform_unit(numbers, static_cast<std::uint64_t>(unit), number);
    }
    const std::int64_t first = unit * kRandomUnit;
    for (std::int64_t i = 0; i < kRandomUnit && first + i < args.size; i += V::lanes) {
      V x = simd::load(number + i);
      if constexpr (kind == Numbers::bernoulli) {
        x = simd::select(x < scale, simd::set1<T>(T(1)), simd::zero<T>());
      } else {
        x = simd::fma(scale, x, shift);
      }
      simd::store_upto(out + first + i, x, args.size - first - i);
    }
  }
}

}  // namespace

void random_uniform(const RandomArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? fill_units<float, Numbers::uniform>(args, begin, end)
                           : fill_units<double, Numbers::uniform>(args, begin, end);
}

void random_normal(const RandomArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? fill_units<float, Numbers::normal>(args, begin, end)
                           : fill_units<double, Numbers::normal>(args, begin, end);
}

void random_bernoulli(const RandomArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? fill_units<float, Numbers::bernoulli>(args, begin, end)
                           : fill_units<double, Numbers::bernoulli>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
