// The key of a call that needs random numbers: (seed, stream), or the process's next one.
#pragma once

#include <pybind11/pybind11.h>

#include "core/philox.h"

namespace hotloop {

RandomKey parse_key(const char* op, pybind11::handle key);

}  // namespace hotloop
