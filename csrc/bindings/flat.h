// What the shortest ways of calls look at: arrays as most calls bring them.
#pragma once

#include "bindings/array.h"

namespace hotloop {

// The header of an ndarray (no subclass) of float32 or float64, aligned and dense in C order;
// null for anything else. With `columns`, also dense in Fortran's order, which it then says.
inline const py::detail::PyArray_Proxy* flat_array(py::handle object, bool writable, DType* dtype,
                                                   bool* columns = nullptr) {
  using Api = py::detail::npy_api;
  if (Py_TYPE(object.ptr()) != reinterpret_cast<PyTypeObject*>(Api::get().PyArray_Type_)) {
    return nullptr;
  }
  const auto* raw = py::detail::array_proxy(object.ptr());
  if (columns) *columns = !(raw->flags & Api::NPY_ARRAY_C_CONTIGUOUS_);
  const int order =
      columns && *columns ? Api::NPY_ARRAY_F_CONTIGUOUS_ : Api::NPY_ARRAY_C_CONTIGUOUS_;
  const int wanted = order | Api::NPY_ARRAY_ALIGNED_ | (writable ? Api::NPY_ARRAY_WRITEABLE_ : 0);
  const auto* descr = py::detail::array_descriptor_proxy(raw->descr);
  if ((raw->flags & wanted) != wanted || descr->byteorder == '>') return nullptr;
  if (descr->type_num == Api::NPY_FLOAT_) {
    *dtype = DType::f32;
  } else if (descr->type_num == Api::NPY_DOUBLE_) {
    *dtype = DType::f64;
  } else {
    return nullptr;
  }
  return raw;
}

}  // namespace hotloop
