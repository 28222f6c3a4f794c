// Uniform and normal numbers: Philox words to fractions, Box and Muller for the normal ones.
#include "kernels/random.h"

#include "engines/random.h"

namespace hotloop::HOTLOOP_LEVEL {

namespace {

template <class T, bool kNormal>
void fill_units(const RandomArgs& args, std::int64_t begin, std::int64_t end) {
  using V = simd::Vec<T>;
  const V shift = simd::set1<T>(static_cast<T>(args.shift));
  const V scale = simd::set1<T>(static_cast<T>(args.scale));
  T* out = static_cast<T*>(args.out);
  alignas(64) T number[kRandomUnit];
  for (std::int64_t unit = begin; unit < end; ++unit) {
    if constexpr (kNormal) {
      random::normal_unit(args.seed, args.stream, static_cast<std::uint64_t>(unit), number);
    } else {
      random::uniform_unit(args.seed, args.stream, static_cast<std::uint64_t>(unit), number);
    }
    const std::int64_t first = unit * kRandomUnit;
    for (std::int64_t i = 0; i < kRandomUnit && first + i < args.size; i += V::lanes) {
      simd::store_upto(out + first + i, simd::fma(scale, simd::load(number + i), shift),
                       args.size - first - i);
    }
  }
}

}  // namespace

void random_uniform(const RandomArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? fill_units<float, false>(args, begin, end)
                           : fill_units<double, false>(args, begin, end);
}

void random_normal(const RandomArgs& args, std::int64_t begin, std::int64_t end) {
  args.dtype == DType::f32 ? fill_units<float, true>(args, begin, end)
                           : fill_units<double, true>(args, begin, end);
}

}  // namespace hotloop::HOTLOOP_LEVEL
