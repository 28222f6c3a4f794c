// conv_pack, and convolutions' weights as an array or a pack.
#include <memory>
#include <string>

#include "bindings/conv.h"

namespace hotloop::conv {
namespace {

PyObject* conv_pack_type = nullptr;  // the class ConvPack, alive as long as the module

std::unique_ptr<ConvPack> pack_call(py::handle w_object, py::handle groups, py::handle layout) {
  const char* op = "conv_pack";
  const Array w = input(op, "w", w_object);
  const int dims = w.ndim - 2;
  if (dims < 1 || dims > 3) {
    fail(op, "w must have 3 to 5 axes, two of them channels, got shape " +
                 shape_text(w.shape_vector()));
  }
  static constexpr const char* kFirst[] = {"NCL", "NCHW", "NCDHW"};
  const py::str usual(kFirst[dims - 1]);
  const py::int_ one(1), zero(0);
  const Settings s =
      parse_settings(op, dims, one, zero, one, groups, given(layout) ? layout : py::handle(usual));
  require_sizes(op, "w", w.shape_vector(), dims, s.weight_text());
  const Shape sizes = w.shape_vector();
  ConvProblem p{};
  p.dtype = w.dtype;
  p.groups = s.groups;
  p.o = at(sizes, s.axes.weight_o);
  p.c = at(sizes, s.axes.weight_i) * s.groups;
  p.kd = at(sizes, s.axes.weight_d);
  p.kh = at(sizes, s.axes.weight_h);
  p.kw = at(sizes, s.axes.weight_w);
  p.stride_d = p.stride_h = p.stride_w = p.dilation_d = p.dilation_h = p.dilation_w = 1;
  if (p.o % p.groups != 0) {
    fail(op, "groups must divide the output channels of w, got " + std::to_string(p.groups) +
                 " groups for " + std::to_string(p.o) + " channels");
  }
  auto pack = std::make_unique<ConvPack>(p, dims);
  conv_pack_weights(p, kernel_of(w, s.axes), pack->memory.get());
  return pack;
}

}  // namespace

ConvPack::ConvPack(const ConvProblem& p, int axes)
    : dtype(p.dtype),
      o(p.o),
      i(p.c / p.groups),
      d(p.kd),
      h(p.kh),
      w(p.kw),
      dims(axes),
      groups(p.groups),
      bytes(conv_packed_bytes(p)),
      memory(static_cast<std::size_t>(bytes)) {}

Shape ConvPack::shape(const Settings& s) const {
  Shape sizes(static_cast<std::size_t>(s.dims) + 2);
  const auto set = [&](int axis, std::int64_t size) {
    if (axis >= 0) sizes[static_cast<std::size_t>(axis)] = size;
  };
  set(s.axes.weight_o, o), set(s.axes.weight_i, i), set(s.axes.weight_d, d);
  set(s.axes.weight_h, h), set(s.axes.weight_w, w);
  return sizes;
}

Weights read_weights(const char* op, const Array& x, py::handle w) {
  Weights weights;
  if (reinterpret_cast<PyObject*>(Py_TYPE(w.ptr())) == conv_pack_type) {
    weights.pack = w.cast<const ConvPack*>();
    weights.array.dtype = weights.pack->dtype;
  } else {
    weights.array = input(op, "w", w);
  }
  same_dtype(op, "x", x, "w", weights.array);
  return weights;
}

ConvProblem infer_forward(const char* op, const Array& x, const Settings& s, const Weights& w) {
  if (w.pack && (w.pack->dims != s.dims || w.pack->groups != s.groups)) {
    fail(op, "w must be packed for this rank and these groups, got a pack for conv" +
                 std::to_string(w.pack->dims) + "d with groups=" + std::to_string(w.pack->groups) +
                 " and groups=" + std::to_string(s.groups) + "; conv_pack takes groups");
  }
  ConvProblem problem = infer(op, x.dtype, s, "x", x.shape_vector(), "w", w.shape(s));
  if (w.pack) problem.packed = w.pack->memory.get();
  return problem;
}

void bind_pack(py::module_& module) {
  py::class_<ConvPack> pack(module, "ConvPack",
                            "Weights in the order in which convolutions read them: see conv_pack, "
                            "which makes it.");
  pack.def_property_readonly("dtype", [](const ConvPack& self) { return numpy_dtype(self.dtype); });
  pack.def_property_readonly("groups", [](const ConvPack& self) { return self.groups; });
  pack.def_property_readonly("nbytes", [](const ConvPack& self) { return self.bytes; });
  conv_pack_type = pack.ptr();
  module.def("conv_pack", &pack_call);
}

}  // namespace hotloop::conv
