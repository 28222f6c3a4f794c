// Labels and indices on a GPU are checked by the kernels that read them: a round trip to the host
// for each call would cost more than the call. What is out of range does no harm, and is told at
// the next synchronization or read-back.
#pragma once

#include <cstdint>

namespace hotloop {

// What must hold, in words of the host's memory; the device only carries the pointer.
struct IndexRule {
  const char *name, *remedy;  // "labels"; what follows the semicolon of the error
  bool is_index_error;        // IndexError instead of ValueError
};

// In the device's memory, one for each device. What was found first stays until it has been told;
// of several in one launch any may be the one.
struct IndexFault {
  const IndexRule* rule;  // null: nothing was found
  const char* op;
  std::int64_t value, bound, position;  // among the flattened indices
};

struct IndexCheck {
  IndexFault* fault;  // null on the CPU, where the binding has checked
  const IndexRule* rule;
  const char* op;
};

}  // namespace hotloop
