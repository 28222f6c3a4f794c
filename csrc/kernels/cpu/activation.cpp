// y = f(x) and dx = dy f'(x) for every activation of the list; the formulas are in
// math/activation.h, the loops in engines/map.h and, for float32 under AVX-512,
// engines/activation_pieces.h. One pass over memory each: bound by bandwidth out of the caches.
#include "kernels/activation.h"

#include "engines/activation_pieces.h"

namespace hotloop::HOTLOOP_LEVEL {

#define HOTLOOP_X(name, parameter, saved, cost)                                                    \
  void name##_forward(const MapArgs& args, std::int64_t begin, std::int64_t end) {                 \
    map_activation<pieces::name##_forward, 1>(                                                     \
        args, begin, end, [alpha = args.scalar](auto x) { return formula::name(x, alpha); });      \
  }                                                                                                \
  void name##_backward(const MapArgs& args, std::int64_t begin, std::int64_t end) {                \
    map_activation<pieces::name##_backward, 2>(args, begin, end,                                   \
                                               [alpha = args.scalar](auto dy, auto kept) {         \
                                                 return formula::name##_backward(dy, kept, alpha); \
                                               });                                                 \
  }
HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X

}  // namespace hotloop::HOTLOOP_LEVEL
