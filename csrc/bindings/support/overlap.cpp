// Whether an output shares memory with an input.
#include "bindings/array.h"
#include "bindings/device.h"

namespace hotloop {

namespace {

const py::detail::PyArray_Proxy* proxy(py::handle object) {
  return py::detail::array_proxy(object.ptr());
}

// First and one past the last byte that an array touches.
std::pair<std::intptr_t, std::intptr_t> extent(py::handle object) {
  const auto* raw = proxy(object);
  auto low = reinterpret_cast<std::intptr_t>(raw->data);
  auto high = low;
  for (int axis = 0; axis < raw->nd; ++axis) {
    if (raw->dimensions[axis] == 0) return {low, low};
    const std::intptr_t reach = raw->strides[axis] * (raw->dimensions[axis] - 1);
    (reach < 0 ? low : high) += reach;
  }
  return {low, high + py::cast<py::array>(object).itemsize()};
}

// The same for what the wall has read, which is all there is of an array on a GPU.
std::pair<std::intptr_t, std::intptr_t> extent(const Array& array) {
  auto low = reinterpret_cast<std::intptr_t>(array.data), high = low;
  if (array.size == 0) return {low, low};
  for (int axis = 0; axis < array.ndim; ++axis) {
    const std::int64_t reach = array.stride(axis) * (array.shape(axis) - 1) * array.item();
    (reach < 0 ? low : high) += reach;
  }
  return {low, high + array.item()};
}

bool same_view(const Array& x, const Array& y) {
  if (x.data != y.data || x.ndim != y.ndim || x.item() != y.item()) return false;
  for (int axis = 0; axis < x.ndim; ++axis) {
    if (x.shape(axis) != y.shape(axis)) return false;
    if (x.shape(axis) != 1 && x.stride(axis) != y.stride(axis)) return false;
  }
  return true;
}

bool same_view(py::handle a, py::handle b) {
  const auto *x = proxy(a), *y = proxy(b);
  if (x->data != y->data || x->nd != y->nd) return false;
  for (int axis = 0; axis < x->nd; ++axis) {
    if (x->dimensions[axis] != y->dimensions[axis]) return false;
    if (x->dimensions[axis] != 1 && x->strides[axis] != y->strides[axis]) return false;
  }
  return true;
}

}  // namespace

void no_overlap(const char* op, const char* out_name, py::handle out, const char* name,
                const Array& x, Overlap rule) {
  if (x.device >= 0) {
    Array to = describe(out);
    to.is_flags = as_device_array(out)->dtype.kind() == 'b';
    const auto [low, high] = extent(to);
    const auto [x_low, x_high] = extent(x);
    if (low >= x_high || x_low >= high) return;
    if (rule == Overlap::same_allowed && same_view(to, x)) return;
  } else {
    const auto [out_low, out_high] = extent(out);
    const auto [x_low, x_high] = extent(x.owner);
    if (out_low >= x_high || x_low >= out_high) return;
    if (rule == Overlap::same_allowed && same_view(out, x.owner)) return;
    // The extents cross; interleaved views may still be disjoint, which NumPy can tell.
    const py::object shares = py::module_::import("numpy").attr("may_share_memory");
    if (!shares(out, x.owner, py::arg("max_work") = 10000).cast<bool>()) return;
  }
  throw OutputError(std::string(op) + ": " + out_name + " must not overlap " + name + ", got " +
                    "shapes " + shape_text(describe(out).shape_vector()) + " and " +
                    shape_text(x.shape_vector()) + " that share memory; pass a separate array");
}

void no_overlap(const char* op, const Output& out, const char* name, const Array& x, Overlap rule) {
  if (out.is_fresh) return;
  // Where both have been read; most arrays lie apart.
  if (x.data && out.array.owner.is(out.target)) {
    const auto [low, high] = extent(out.array);
    const auto [x_low, x_high] = extent(x);
    if (low >= x_high || x_low >= high) return;
  }
  no_overlap(op, "out", out.target, name, x, rule);
}

}  // namespace hotloop
