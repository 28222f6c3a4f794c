#include "emulation/shared_memory.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "emulation/block.h"

namespace hotloop::emulation {
namespace {

constexpr std::size_t kFence = 64;  // bytes on both sides

thread_local char anchor;  // tells this library's segment

struct Piece {
  std::size_t offset, bytes;
};

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Close>;

template <class T>
bool read_at(const File& file, std::uint64_t offset, T* to, std::size_t count) {
  return std::fseek(file.get(), static_cast<long>(offset), SEEK_SET) == 0 &&
         std::fread(to, sizeof(T), count, file.get()) == count;
}

// The thread_local variables inside of functions, from the symbol table of the file.
std::vector<Piece> find_pieces() {
  std::vector<Piece> pieces;
  Dl_info info{};
  if (!dladdr(reinterpret_cast<const void*>(&find_pieces), &info)) return pieces;
  File file(std::fopen(info.dli_fname, "rb"));
  if (!file) file.reset(std::fopen("/proc/self/exe", "rb"));
  ElfW(Ehdr) header;
  if (!file || !read_at(file, 0, &header, 1) || header.e_shnum == 0) return pieces;
  std::vector<ElfW(Shdr)> sections(header.e_shnum);
  if (!read_at(file, header.e_shoff, sections.data(), sections.size())) return pieces;
  for (const ElfW(Shdr) & section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    const ElfW(Shdr)& strings = sections[section.sh_link];
    std::vector<ElfW(Sym)> symbols(section.sh_size / sizeof(ElfW(Sym)));
    std::vector<char> names(strings.sh_size + 1);
    if (!read_at(file, section.sh_offset, symbols.data(), symbols.size())) continue;
    if (!read_at(file, strings.sh_offset, names.data(), strings.sh_size)) continue;
    for (const ElfW(Sym) & symbol : symbols) {
      if ((symbol.st_info & 0xf) != STT_TLS || symbol.st_shndx == SHN_UNDEF) continue;
      if (symbol.st_name >= names.size()) continue;
      if (std::strncmp(names.data() + symbol.st_name, "_ZZ", 3) != 0) continue;
      pieces.push_back({symbol.st_value, symbol.st_size});
    }
  }
  return pieces;
}

const std::vector<Piece>& static_pieces() {
  static const std::vector<Piece> pieces = find_pieces();
  return pieces;
}

// The calling thread's segment.
int find_segment(dl_phdr_info* info, std::size_t, void* to) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type != PT_TLS || !info->dlpi_tls_data) continue;
    char* const data = static_cast<char*>(info->dlpi_tls_data);
    if (&anchor < data || &anchor >= data + info->dlpi_phdr[i].p_memsz) continue;
    *static_cast<char**>(to) = data;
    return 1;
  }
  return 0;
}

}  // namespace

SharedMemory::SharedMemory(std::size_t dynamic_bytes)
    : bytes_(dynamic_bytes), memory_(dynamic_bytes + 2 * kFence + 256) {
  anchor = 1;  // brings the segment into being
  char* const begin = memory_.data() + kFence;
  data_ = begin + (256 - reinterpret_cast<std::uintptr_t>(begin) % 256) % 256;
}

void SharedMemory::poison() {
  if (!static_pieces().empty()) {
    char* segment = nullptr;
    dl_iterate_phdr(find_segment, &segment);
    if (segment) {
      for (const Piece& piece : static_pieces()) {
        std::memset(segment + piece.offset, kPoison, piece.bytes);
      }
    }
  }
  std::memset(data_ - kFence, kPoison, bytes_ + 2 * kFence);
}

bool SharedMemory::intact() const {
  for (std::size_t i = 0; i < kFence; ++i) {
    const auto changed = [](char value) { return static_cast<unsigned char>(value) != kPoison; };
    if (changed(data_[i - kFence]) || changed(data_[bytes_ + i])) return false;
  }
  return true;
}

}  // namespace hotloop::emulation
