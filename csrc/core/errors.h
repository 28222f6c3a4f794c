// Typed errors. Messages read "op: what must hold, got what; remedy".
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace hotloop {

struct ShapeError : std::invalid_argument {  // Python: ShapeError(ValueError)
  using std::invalid_argument::invalid_argument;
};
struct DTypeError : std::invalid_argument {  // Python: DTypeError(TypeError)
  using std::invalid_argument::invalid_argument;
};
struct OutputError
    : std::invalid_argument {  // Python: OutputError(ValueError): read-only, overlapping out
  using std::invalid_argument::invalid_argument;
};
struct DeviceError : std::runtime_error {  // Python: DeviceError(RuntimeError)
  using std::runtime_error::runtime_error;
};
struct Interrupted : std::exception {};  // Python: the pending KeyboardInterrupt

// The product of sizes; throws ShapeError when one is negative or the product times item_bytes
// leaves 63 bits. The one place where sizes are multiplied before memory is asked for.
std::int64_t checked_product(const char* op, const std::int64_t* sizes, int count,
                             std::int64_t item_bytes = 1);

std::string shape_text(const std::int64_t* sizes, int count);  // "(2, 3)", "(4,)", "()"

}  // namespace hotloop
