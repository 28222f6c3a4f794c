#include "bindings/random_key.h"

#include <string>

#include "bindings/params.h"
#include "core/errors.h"

namespace hotloop {

RandomKey parse_key(const char* op, py::handle key) {
  if (key.is_none()) return next_key();
  if (PyTuple_Check(key.ptr()) && PyTuple_GET_SIZE(key.ptr()) == 2) {
    std::uint64_t part[2];
    bool good = true;
    for (int i = 0; i < 2 && good; ++i) {
      const py::object number =
          py::reinterpret_steal<py::object>(PyNumber_Index(PyTuple_GET_ITEM(key.ptr(), i)));
      if (number) part[i] = PyLong_AsUnsignedLongLong(number.ptr());
      if (PyErr_Occurred()) {
        PyErr_Clear();
        good = false;
      }
    }
    if (good) return {part[0], part[1]};
  }
  throw DTypeError(std::string(op) +
                   ": key must be a tuple (seed, stream) of integers from 0 to 2**64 - 1, got " +
                   py::repr(key).cast<std::string>() + "; random_key() gives one");
}

}  // namespace hotloop
