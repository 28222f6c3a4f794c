// Table of contents of the extension module. Every bindings/<family>.cpp defines bind_<family>; the
// build lists them in bindings.inc, so that a family is added by adding its file.
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace hotloop {
#define HOTLOOP_BINDING(family) void bind_##family(py::module_& module);
#include "bindings.inc"
#undef HOTLOOP_BINDING
}  // namespace hotloop

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
  module.attr("__version__") = HOTLOOP_VERSION;
#define HOTLOOP_BINDING(family) hotloop::bind_##family(module);
#include "bindings.inc"
#undef HOTLOOP_BINDING
}
