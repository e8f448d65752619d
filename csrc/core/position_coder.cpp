#include "position_coder.h"

#include <algorithm>
#include <utility>

namespace fbconv {
namespace {

constexpr uint32_t kWhole = 0xFFFFFFFF;
constexpr uint32_t kSmallest = uint32_t{1} << 24;  // below, a byte leaves and the range grows again

// The upper part of a range that stands for "kept": in proportion, and never none or all of it.
uint32_t kept_part(uint32_t range, int64_t kept, int64_t left) {
  const uint64_t part = uint64_t{range} * static_cast<uint64_t>(kept) / static_cast<uint64_t>(left);
  return static_cast<uint32_t>(std::clamp<uint64_t>(part, 1, range - 1));
}

class Encoder {
 public:
  // One element, of which it is known that `kept` of the `left` from it on are kept.
  void put(bool upper, int64_t kept, int64_t left) {
    const uint32_t part = kept_part(range_, kept, left);
    if (upper) low_ += range_ - part;
    range_ = upper ? part : range_ - part;
    while (range_ < kSmallest) {
      shift();
      range_ <<= 8;
    }
  }

  // The number within the range that ends in most zeros, which are left out.
  std::vector<uint8_t> finish() {
    const uint64_t top = low_ + range_ - 1;
    int zeros = 32;
    while ((top >> zeros << zeros) < low_) --zeros;
    low_ = top >> zeros << zeros;
    for (int i = 0; i < 5; ++i) shift();
    while (!bytes_.empty() && bytes_.back() == 0) bytes_.pop_back();
    return std::move(bytes_);
  }

 private:
  // Moves the top byte of low_ out.  A carry may still run into it, and through any 0xFF after it,
  // so these wait until the next byte that stops one.
  void shift() {
    if (low_ < 0xFF000000 || low_ > kWhole) {
      const uint8_t carry = static_cast<uint8_t>(low_ >> 32);
      if (started_) bytes_.push_back(static_cast<uint8_t>(waiting_ + carry));
      bytes_.insert(bytes_.end(), full_, static_cast<uint8_t>(0xFF + carry));
      started_ = true;  // nothing lies before the first byte, and no carry leaves it
      full_ = 0;
      waiting_ = static_cast<uint8_t>(low_ >> 24);
    } else {
      ++full_;
    }
    low_ = (low_ & 0x00FFFFFF) << 8;
  }

  uint64_t low_ = 0;  // below 2^33: the bit above the lower 32 is the carry
  uint32_t range_ = kWhole;
  uint8_t waiting_ = 0;
  int64_t full_ = 0;
  bool started_ = false;
  std::vector<uint8_t> bytes_;
};

class Decoder {
 public:
  Decoder(const uint8_t* bytes, int64_t count) : next_(bytes), end_(bytes + count) {
    for (int i = 0; i < 4; ++i) code_ = code_ << 8 | byte();
  }

  bool kept(int64_t kept, int64_t left) {
    const uint32_t part = kept_part(range_, kept, left);
    const bool upper = code_ >= range_ - part;
    if (upper) code_ -= range_ - part;
    range_ = upper ? part : range_ - part;
    while (range_ < kSmallest) {
      code_ = code_ << 8 | byte();
      range_ <<= 8;
    }
    return upper;
  }

 private:
  uint32_t byte() { return next_ == end_ ? 0 : *next_++; }

  const uint8_t* next_;
  const uint8_t* end_;
  uint32_t code_ = 0;  // below range_, unless the bytes are no code
  uint32_t range_ = kWhole;
};

}  // namespace

std::vector<uint8_t> encode_positions(const int64_t* positions, int64_t kept, int64_t size) {
  Encoder encoder;
  // Nothing is left to say once none, or all, of the rest are kept.
  for (int64_t i = 0, k = 0; k < kept && kept - k < size - i; ++i) {
    const bool here = positions[k] == i;
    encoder.put(here, kept - k, size - i);
    k += here;
  }
  return encoder.finish();
}

bool decode_positions(const uint8_t* bytes, int64_t count, int64_t size, int64_t kept,
                      int64_t* positions) {
  Decoder decoder(bytes, count);
  int64_t i = 0, k = 0;
  for (; k < kept && kept - k < size - i; ++i) {
    if (decoder.kept(kept - k, size - i)) positions[k++] = i;
  }
  while (k < kept) positions[k++] = i++;
  // Other bytes may mean the same positions; that these are not the encoder's own shows that the
  // file is damaged.
  const std::vector<uint8_t> own = encode_positions(positions, kept, size);
  return std::equal(own.begin(), own.end(), bytes, bytes + count);
}

}  // namespace fbconv
