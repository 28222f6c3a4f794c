#include "bindings/gemm_pack.h"

#include <memory>
#include <stdexcept>
#include <string>

#include "bindings/dot.h"

namespace hotloop {

namespace {

PyObject* gemm_pack_type = nullptr;  // the class GemmPack, alive as long as the module

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64;
}

// Bytes of the panels, which are checked to be few enough; sums of columns follow.
std::int64_t panel_bytes(DType dtype, std::int64_t k, std::int64_t n, std::int64_t columns) {
  const std::int64_t item = is_float(dtype) ? item_size(dtype) : 4;
  const std::int64_t depth = is_float(dtype) ? k : (k + 3) / (4 / item_size(dtype));
  const std::int64_t sizes[2] = {(n + columns - 1) / columns * columns, depth + 64};
  checked_product("gemm_pack", sizes, 2, 2 * item);
  return is_float(dtype) ? gemm_packed_size(n, k, columns) * item
                         : dot_packed_words(dtype, n, k, columns) * item;
}

std::unique_ptr<GemmPack> pack_call(py::handle b_object, bool trans_b) {
  const char* op = "gemm_pack";
  const Array b = input(op, "b", b_object, kFloats | dtypes(DType::bf16, DType::s8, DType::u8));
  require_ndim(op, "b", b, 2);
  const Matrices right(b, trans_b);
  auto pack = std::make_unique<GemmPack>(b.dtype, right.rows, right.columns);
  const GemmMatrix matrix{b.data, right.row_step, right.column_step, 0, nullptr};
  if (is_float(b.dtype)) {
    gemm_pack_b(b.dtype, matrix, pack->n, pack->k, pack->columns, pack->memory.get());
  } else if (pack->n > 0) {
    DotProblem p;
    pack->describe(p);
    dot_pack_b(b.dtype, matrix, pack->n, pack->k, pack->columns, pack->memory.as<float>(),
               const_cast<std::int32_t*>(p.packed_sums));
  }
  return pack;
}

}  // namespace

GemmPack::GemmPack(DType type, std::int64_t rows, std::int64_t width)
    : dtype(type),
      k(rows),
      n(width),
      columns(is_float(type) ? gemm_packed_columns(type) : dot_packed_panel()),
      sums_at(panel_bytes(type, rows, width, columns)),
      bytes(sums_at + (is_float(type) ? 0 : 4 * dot_packed_sums(type, width, rows, columns))),
      memory(static_cast<std::size_t>(bytes)) {}

Array GemmPack::array() const {
  Array array;
  array.data = memory.get();
  array.dtype = dtype;
  array.ndim = 2;
  array.size = k * n;
  array.shapes[0] = k;
  array.shapes[1] = n;
  array.strides[0] = columns;
  array.strides[1] = 1;
  return array;
}

void GemmPack::describe(DotProblem& p) const {
  p.packed_panel = columns;
  p.packed_b = memory.as<float>();
  p.packed_sums =
      dtype == DType::bf16 ? nullptr : reinterpret_cast<std::int32_t*>(memory.as<char>() + sums_at);
}

const GemmPack* as_pack(py::handle object) {
  if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) != gemm_pack_type) return nullptr;
  return object.cast<const GemmPack*>();
}

const GemmPack* as_pack(const char* op, py::handle object, bool trans_b) {
  const GemmPack* pack = as_pack(object);
  if (pack && trans_b) {
    throw std::invalid_argument(std::string(op) +
                                ": trans_b must be False where b is packed, got True; "
                                "gemm_pack(b, trans_b=True) transposes");
  }
  return pack;
}

void define_gemm_pack(py::module_& module) {
  py::class_<GemmPack> pack(module, "GemmPack",
                            "A matrix in the order in which products read it: see gemm_pack, which "
                            "makes it.");
  pack.def_property_readonly("shape",
                             [](const GemmPack& self) { return py::make_tuple(self.k, self.n); });
  pack.def_property_readonly("dtype", [](const GemmPack& self) { return numpy_dtype(self.dtype); });
  pack.def_property_readonly("nbytes", [](const GemmPack& self) { return self.bytes; });
  gemm_pack_type = pack.ptr();
  module.def("gemm_pack", &pack_call);
}

}  // namespace hotloop
