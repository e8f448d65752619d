// Grow-only, cache-line aligned scratch that is never initialised: fresh pages cost more than the
// kernels that would use them, so every thread keeps its own from call to call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace fbconv {

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }

  // At least `count` elements; what was there before is lost when it has to grow.  Never null:
  // kernels walk over what no entry reads, and null has no offsets.
  T* reserve(int64_t count) {
    if (count > capacity_ || data_ == nullptr) {
      release();
      data_ = static_cast<T*>(::operator new(sizeof(T) * static_cast<size_t>(count), kAlignment));
      capacity_ = count;
    }
    return data_;
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t bytes() const { return capacity_ * static_cast<int64_t>(sizeof(T)); }

 private:
  static constexpr std::align_val_t kAlignment{64};

  void release() {
    if (data_ != nullptr) ::operator delete(data_, kAlignment);
    data_ = nullptr;
    capacity_ = 0;
  }

  T* data_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace fbconv
