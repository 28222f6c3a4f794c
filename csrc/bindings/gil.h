// The GIL given up for a scope, safely at the end of the program.
#pragma once

#include <pybind11/pybind11.h>

namespace hotloop {

// Like py::gil_scoped_release. But a daemon thread that asks for the GIL back while the interpreter
// is being torn down sleeps until the process ends: before Python 3.14, Python ends such a thread
// by unwinding it through our frames, which aborts the process in a destructor.
class GilReleased {
 public:
  GilReleased() : state_(PyEval_SaveThread()) {}
  ~GilReleased();
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace hotloop
