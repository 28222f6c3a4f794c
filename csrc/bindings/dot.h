// What the products of bf16 and of bytes share on the way to a DotProblem, and the bf16 product,
// which kernels.gemm calls for arrays of bf16.
#pragma once

#include <vector>

#include "bindings/array.h"
#include "kernels/dot.h"

namespace hotloop {

// A stack of matrices: the last two axes, perhaps exchanged, and the axes before them.
struct Matrices {
  const Array* array;
  std::int64_t rows, columns, row_step, column_step;
  int lead;  // leading axes

  Matrices(const Array& array, bool transposed);
  std::int64_t lead_size(int back) const { return back < lead ? array->shape(lead - 1 - back) : 1; }
  std::int64_t lead_step(int back) const {
    return back < lead && lead_size(back) != 1 ? array->stride(lead - 1 - back) : 0;
  }
};

// ShapeError where there are fewer than two axes.
void require_matrix(const char* op, const char* name, const Array& array);
// Checks that a and b multiply, and returns the shape of the product.
Shape product_shape(const char* op, const Array& a, bool trans_a, const Array& b, bool trans_b);
// Fills in m, n, k, the matrices and the batch axes of p, then runs it into `out`, whose last axis
// may have any stride. C is read where `reads_out`.
py::object run_product(const char* op, DotProblem& p, const Matrices& a, const Matrices& b,
                       Output& out, bool reads_out);

// The values of a row in f32, from bf16 or f32 of any stride.
std::vector<float> floats_of(const Array& row);

// The product of bf16, which kernels.gemm runs where its first argument is_bf16.
bool is_bf16(py::handle a);
py::object gemm_bf16(py::handle a, py::handle b, bool trans_a, bool trans_b, py::handle out,
                     py::handle bias = {}, py::handle residual = {}, double alpha = 1,
                     double beta = 0, py::handle activation = {});

}  // namespace hotloop
