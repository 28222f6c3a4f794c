// The activation= argument of fused kernels: a name, or None.
#pragma once

#include <pybind11/pybind11.h>

#include "kernels/activation.h"

namespace hotloop {

struct FusedActivation {
  Activation kind;
  double alpha;  // the default of its parameter (leaky_relu 0.01, elu 1, softplus 1)
};

// None or "relu", "gelu", ...; ValueError naming the known ones otherwise.
FusedActivation parse_activation(const char* op, pybind11::handle name);

}  // namespace hotloop
