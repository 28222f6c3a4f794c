// What the normalizations of channels and of rows share: weights and statistics, where to compute.
#pragma once

#include "bindings/array.h"
#include "bindings/gil.h"

namespace hotloop {

inline constexpr std::int64_t kReleaseElements = 32768;  // worth giving the GIL away for

template <class Body>
void compute_norm(std::int64_t elements, Body body) {
  if (elements >= kReleaseElements) {
    const GilReleased released;
    body();
  } else {
    body();
  }
}

// Finite and not negative.
double parse_eps(const char* op, double eps);
// A fresh packed array, where the call runs.
Array dense(const char* op, DType dtype, const Shape& shape);
// weight, bias and statistics: of x's dtype and that shape, packed. Null where None was given.
Array vector(const char* op, const char* name, py::handle object, const Array& x,
             const Shape& shape);
// No overlap with out, where there is an array at all.
void apart(const char* op, const Output& out, const char* name, const Array& array);

}  // namespace hotloop
