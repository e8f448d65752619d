#include "executable.h"

#include <cstring>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#define FBCONV_HAS_MMAP
#endif

namespace fbconv {

Executable::~Executable() { release(); }

#ifdef FBCONV_HAS_MMAP

bool Executable::assign(const uint8_t* code, int64_t size) {
  release();
  if (size == 0) return true;
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t bytes = (size + page - 1) / page * page;
  void* pages = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return false;
  pages_ = pages;
  bytes_ = bytes;
  std::memcpy(pages, code, static_cast<size_t>(size));
  if (mprotect(pages, static_cast<size_t>(bytes), PROT_READ | PROT_EXEC) == 0) return true;
  release();
  return false;
}

void Executable::release() {
  if (pages_ != nullptr) munmap(pages_, static_cast<size_t>(bytes_));
  pages_ = nullptr;
  bytes_ = 0;
}

#else

bool Executable::assign(const uint8_t*, int64_t) { return false; }
void Executable::release() {}

#endif

}  // namespace fbconv
