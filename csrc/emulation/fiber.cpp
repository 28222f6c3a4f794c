#include "emulation/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#if defined(HOTLOOP_EMULATION_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace hotloop::emulation {
namespace {

#if defined(HOTLOOP_EMULATION_ASAN)
constexpr std::size_t kStackBytes = 256 << 10;
Fiber* leaving = nullptr;  // whose stack the sanitizer is told about on arrival
#else
constexpr std::size_t kStackBytes = 64 << 10;
#endif

std::size_t page_bytes() {
  static const std::size_t bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

#if defined(__x86_64__)
extern "C" void hotloop_emulation_switch(void** save, void* load);
asm(R"(
.text
.globl hotloop_emulation_switch
.hidden hotloop_emulation_switch
.type hotloop_emulation_switch, @function
hotloop_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size hotloop_emulation_switch, . - hotloop_emulation_switch
)");
#endif

Fiber::~Fiber() {
  if (memory_) munmap(memory_, size_ + 2 * page_bytes());
}

bool Fiber::start(void (*entry)()) {
  if (!memory_) {
    const std::size_t page = page_bytes(), bytes = kStackBytes + 2 * page;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    memory_ = static_cast<char*>(memory);
    mprotect(memory_, page, PROT_NONE);
    mprotect(memory_ + page + kStackBytes, page, PROT_NONE);
    bottom_ = memory_ + page;
    size_ = kStackBytes;
  }
#if defined(HOTLOOP_EMULATION_ASAN)
  __asan_unpoison_memory_region(bottom_, size_);  // what an abandoned thread left behind
#endif
#if defined(__x86_64__)
  // As switch leaves a stack: six registers, where to return to, and no return from there.
  void** const end = reinterpret_cast<void**>(memory_ + page_bytes() + kStackBytes);
  end[-1] = nullptr;
  end[-2] = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(entry));
  for (int i = 3; i <= 8; ++i) end[-i] = nullptr;
  top_ = end - 8;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = memory_ + page_bytes();
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
  return true;
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
#if defined(HOTLOOP_EMULATION_ASAN)
  void* fake = nullptr;
  leaving = &from;
  __sanitizer_start_switch_fiber(&fake, to.bottom_, to.size_);
#endif
#if defined(__x86_64__)
  hotloop_emulation_switch(&from.top_, to.top_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
#if defined(HOTLOOP_EMULATION_ASAN)
  __sanitizer_finish_switch_fiber(fake, &leaving->bottom_, &leaving->size_);
#endif
}

void Fiber::arrived() {
#if defined(HOTLOOP_EMULATION_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &leaving->bottom_, &leaving->size_);
#endif
}

}  // namespace hotloop::emulation
