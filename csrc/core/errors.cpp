#include "core/errors.h"

namespace hotloop {

std::string shape_text(const std::int64_t* sizes, int count) {
  std::string text = "(";
  for (int i = 0; i < count; ++i) {
    if (i) text += ", ";
    text += std::to_string(sizes[i]);
  }
  if (count == 1) text += ",";
  return text + ")";
}

std::int64_t checked_product(const char* op, const std::int64_t* sizes, int count,
                             std::int64_t item_bytes) {
  const auto fail = [&](const std::string& what) {
    throw ShapeError(std::string(op) + ": " + what + ", got " + shape_text(sizes, count) +
                     "; check the sizes");
  };
  bool empty = false;
  for (int i = 0; i < count; ++i) {
    if (sizes[i] < 0) fail("sizes must not be negative");
    empty = empty || sizes[i] == 0;
  }
  // As in NumPy, an empty array's other sizes must fit too: strides are products of them.
  std::int64_t product = 1, bytes = 0;
  bool overflow = false;
  for (int i = 0; i < count; ++i) {
    if (sizes[i] > 0) overflow = overflow || __builtin_mul_overflow(product, sizes[i], &product);
  }
  overflow = overflow || __builtin_mul_overflow(product, item_bytes, &bytes);
  if (overflow) fail("the array must fit into 63 bits of bytes");
  return empty ? 0 : product;
}

}  // namespace hotloop
