#include "bindings/activation.h"

#include <stdexcept>
#include <string>

namespace hotloop {

namespace py = pybind11;

FusedActivation parse_activation(const char* op, py::handle name) {
  if (!name || name.is_none()) return {Activation::none, 0.0};
  if (PyUnicode_Check(name.ptr())) {
#define HOTLOOP_X(activation, parameter, saved, cost)                   \
  if (PyUnicode_CompareWithASCIIString(name.ptr(), #activation) == 0) { \
    return {Activation::activation, parameter};                         \
  }
    HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X
  }
  std::string known;
#define HOTLOOP_X(activation, parameter, saved, cost) known += ", \"" #activation "\"";
  HOTLOOP_ACTIVATIONS(HOTLOOP_X)
#undef HOTLOOP_X
  throw std::invalid_argument(std::string(op) + ": activation must be None or one of " +
                              known.substr(2) + ", got " + py::repr(name).cast<std::string>());
}

}  // namespace hotloop
