// Machine code made at run time: pages that are written first and executed then, never both.
#pragma once

#include <cstdint>

namespace fbconv {

class Executable {
 public:
  Executable() = default;
  Executable(const Executable&) = delete;
  Executable& operator=(const Executable&) = delete;
  ~Executable();

  // Takes a copy of the code; false where the system does not allow it.
  bool assign(const uint8_t* code, int64_t size);

  const uint8_t* data() const { return static_cast<const uint8_t*>(pages_); }
  int64_t bytes() const { return bytes_; }

 private:
  void release();

  void* pages_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace fbconv
