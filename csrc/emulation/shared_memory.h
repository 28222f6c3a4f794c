// The block's shared memory: static arrays, found through the symbol table of this library, and the
// dynamic one. Both are poisoned before each block.
//
// __shared__ becomes `static thread_local` for the one purpose that its symbols are of the type TLS
// and, inside of functions, begin with _ZZ: so the arrays of a template are found as well, which a
// section attribute does not do under gcc 12. Nothing else here may be thread_local in a function.
#pragma once

#include <cstddef>
#include <vector>

namespace hotloop::emulation {

class SharedMemory {
 public:
  explicit SharedMemory(std::size_t dynamic_bytes);
  void poison();
  // Nothing was written beside the dynamic array.
  bool intact() const;
  void* data() const { return data_; }

 private:
  std::size_t bytes_;
  std::vector<char> memory_;
  char* data_;
};

}  // namespace hotloop::emulation
