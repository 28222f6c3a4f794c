// Arithmetic and elementary functions over the element-wise loop (engines/map.h).
#include "kernels/elementwise.h"

#include "engines/map.h"
#include "simd/math.h"

namespace hotloop::HOTLOOP_LEVEL {

#define HOTLOOP_X(name, value, cost)                                                   \
  void elementwise_##name(const MapArgs& args, std::int64_t begin, std::int64_t end) { \
    map<1>(args, begin, end, [](auto x) { return value; });                            \
  }
HOTLOOP_UNARY(HOTLOOP_X)
#undef HOTLOOP_X

#define HOTLOOP_X(name, value)                                                         \
  void elementwise_##name(const MapArgs& args, std::int64_t begin, std::int64_t end) { \
    map<2>(args, begin, end, [](auto x, auto y) { return value; });                    \
  }
HOTLOOP_BINARY(HOTLOOP_X)
#undef HOTLOOP_X

}  // namespace hotloop::HOTLOOP_LEVEL
