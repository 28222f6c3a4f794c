// Arithmetic, elementary functions and comparisons over the element-wise loop (engines/map.h).
#include "kernels/elementwise.h"

#include "engines/map.h"
#include "engines/predicate.h"
#include "simd/math.h"
#include "simd/pow.h"
#include "simd/trig.h"

namespace hotloop::HOTLOOP_LEVEL {
namespace {

// -1, 0 or 1; NaN and both zeros give 0, as in PyTorch.
template <class T>
[[gnu::always_inline]] inline simd::Vec<T> sign_of(simd::Vec<T> x) {
  const simd::Vec<T> one = simd::set1<T>(T(1)), none = simd::zero<T>();
  return simd::select(x > none, one, simd::select(x < none, -one, none));
}

// Out of line: the loop holds its function several times over, and these are long.
template <class T>
[[gnu::noinline]] simd::Vec<T> power(simd::Vec<T> x, simd::Vec<T> y) {
  return simd::pow(x, y);
}
template <int Quarters, class T>
[[gnu::noinline]] simd::Vec<T> wave(simd::Vec<T> x) {
  return simd::sine<Quarters>(x);
}

}  // namespace

#define HOTLOOP_X(name, value, cost)                                                   \
  void elementwise_##name(const MapArgs& args, std::int64_t begin, std::int64_t end) { \
    map<1>(args, begin, end, [](auto x) { return value; });                            \
  }
HOTLOOP_UNARY(HOTLOOP_X)
#undef HOTLOOP_X

#define HOTLOOP_X(name, value, cost)                                                   \
  void elementwise_##name(const MapArgs& args, std::int64_t begin, std::int64_t end) { \
    map<2>(args, begin, end, [](auto x, auto y) { return value; });                    \
  }
HOTLOOP_BINARY(HOTLOOP_X)
#undef HOTLOOP_X

#define HOTLOOP_X(name, value)                                                         \
  void elementwise_##name(const MapArgs& args, std::int64_t begin, std::int64_t end) { \
    const auto compare = [](auto x, auto y) { return value; };                         \
    if (args.dtype == DType::f32) {                                                    \
      compare_rows<float>(args, begin, end, compare);                                  \
    } else {                                                                           \
      compare_rows<double>(args, begin, end, compare);                                 \
    }                                                                                  \
  }
HOTLOOP_COMPARE(HOTLOOP_X)
#undef HOTLOOP_X

void elementwise_where(const MapArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.dtype == DType::f32) {
    select_rows<float>(args, begin, end);
  } else {
    select_rows<double>(args, begin, end);
  }
}

void elementwise_clip(const MapArgs& args, std::int64_t begin, std::int64_t end) {
  map<3>(args, begin, end, [](auto x, auto low, auto high) { return min(max(x, low), high); });
}

}  // namespace hotloop::HOTLOOP_LEVEL
