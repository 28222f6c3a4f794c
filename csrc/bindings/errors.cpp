// The exception types of errors.h as Python knows them.
#include "core/errors.h"

#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace hotloop {

namespace {

PyObject *shape_error, *dtype_error, *output_error, *device_error;

PyObject* add_type(py::module_& module, const char* name, const char* doc, PyObject* base) {
  const std::string path = std::string("hotloop.") + name;
  PyObject* type = PyErr_NewExceptionWithDoc(path.c_str(), doc, base, nullptr);
  if (!type) throw py::error_already_set();
  module.add_object(name, py::reinterpret_borrow<py::object>(type));
  return type;  // never freed: the translators below outlive the module
}

}  // namespace

void bind_errors(py::module_& module) {
  shape_error = add_type(module, "ShapeError", "Sizes or axes that do not fit the operation.",
                         PyExc_ValueError);
  dtype_error =
      add_type(module, "DTypeError", "An array or argument of the wrong type.", PyExc_TypeError);
  output_error =
      add_type(module, "OutputError",
               "An out array that is read-only or shares memory with an input.", PyExc_ValueError);
  device_error =
      add_type(module, "DeviceError", "A device that is missing or failed.", PyExc_RuntimeError);
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ShapeError& error) {
      PyErr_SetString(shape_error, error.what());
    } catch (const DTypeError& error) {
      PyErr_SetString(dtype_error, error.what());
    } catch (const OutputError& error) {
      PyErr_SetString(output_error, error.what());
    } catch (const DeviceError& error) {
      PyErr_SetString(device_error, error.what());
    } catch (const Interrupted&) {
      // The hook has left the signal handler's exception pending.
      if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
    }
  });
}

}  // namespace hotloop
