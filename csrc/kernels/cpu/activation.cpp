// y = f(x) and dx = dy f'(x) for every activation of the list; the formulas are in
// math/activation.h, the loop in engines/map.h. One pass over memory each: bound by bandwidth out
// of the caches.
#include "kernels/activation.h"

#include "engines/map.h"
#include "math/activation.h"
#include "simd/gate.h"
#include "simd/math.h"

namespace hotloop::HOTLOOP_LEVEL {

#define HOTLOOP_X(name, parameter, saved, cost)                                                  \
  void name##_forward(const MapArgs& args, std::int64_t begin, std::int64_t end) {               \
    map<1>(args, begin, end, [alpha = args.scalar](auto x) { return formula::name(x, alpha); }); \
  }                                                                                              \
  void name##_backward(const MapArgs& args, std::int64_t begin, std::int64_t end) {              \
    map<2>(args, begin, end, [alpha = args.scalar](auto dy, auto kept) {                         \
      return formula::name##_backward(dy, kept, alpha);                                          \
    });                                                                                          \
  }
HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X

}  // namespace hotloop::HOTLOOP_LEVEL
