// The class GemmPack: a matrix in the order in which products read it, which gemm_pack makes and
// gemm, linear and gemm_int8 take.
#pragma once

#include "bindings/array.h"
#include "core/arena.h"
#include "kernels/dot.h"

namespace hotloop {

struct GemmPack {
  DType dtype;
  std::int64_t k, n, columns;  // of a panel
  std::int64_t sums_at, bytes;
  Scratch memory;

  GemmPack(DType type, std::int64_t rows, std::int64_t width);
  // What it stands for, as an argument: (k, n). Only its sizes and dtype are looked at.
  Array array() const;
  // As B of a product of bf16 or bytes.
  void describe(DotProblem& p) const;
};

// The pack that `object` is, or null; trans_b has no meaning then.
const GemmPack* as_pack(py::handle object);
const GemmPack* as_pack(const char* op, py::handle object, bool trans_b);

// In the module's table: the class and gemm_pack.
void define_gemm_pack(py::module_& module);

}  // namespace hotloop
