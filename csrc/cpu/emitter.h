// The few AVX-512 instructions that compiled patterns consist of, as bytes.  Intel's manual (volume
// 2, sections 2.3 and 2.7) gives the encodings; tests/native/test_emitter.cpp checks them against a
// disassembler.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace fbconv {

// Argument registers of the System V calling convention, by their encoding.
enum class Register : uint8_t {
  kFirst = 7,
  kSecond = 6,
  kThird = 2,
  kFourth = 1,
  kFifth = 8,
  kSixth = 9
};

// Bytes from what a register points to.
struct Address {
  Register base;
  int64_t offset;
};

class Emitter {
 public:
  static constexpr int kVectors = 32;  // zmm0 .. zmm31

  // Lanes without their bit in mask register k1 become zero (load) or are left alone (store), and
  // are not touched in memory.
  void load(int vector, Address from, bool masked) {
    evex(k0F, kNoPrefix, 0x10, vector, 0, from, kVectorBytes, {masked, masked, false});
  }
  void store(Address to, int vector, bool masked) {
    evex(k0F, kNoPrefix, 0x11, vector, 0, to, kVectorBytes, {masked, false, false});
  }
  // All lanes become the float at `from`.
  void broadcast(int vector, Address from) {
    evex(k0F38, k66, 0x18, vector, 0, from, kFloatBytes, {});
  }
  // sum += factor * the float at `from`.
  void multiply_add(int sum, int factor, Address from) {
    evex(k0F38, k66, 0xB8, sum, factor, from, kFloatBytes, {false, false, true});
  }
  // product = factor * the float at `from`.
  void multiply(int product, int factor, Address from) {
    evex(k0F, kNoPrefix, 0x59, product, factor, from, kFloatBytes, {false, false, true});
  }
  void zero(int vector) {
    // vpxord, whose memory operand is a register here.
    const auto absent = [&](int bit) { return (vector & bit) == 0; };
    byte(0x62);
    byte(absent(8) << 7 | absent(16) << 6 | absent(8) << 5 | absent(16) << 4 | k0F);
    byte((~vector & 15) << 3 | 1 << 2 | k66);
    byte(2 << 5 | absent(16) << 3);
    byte(0xEF);
    byte(0xC0 | (vector & 7) << 3 | (vector & 7));
  }
  // k1 = the 16 bits at `from`, whose register must be one of the first eight.
  void load_mask(Address from) {
    byte(0xC5);
    byte(0xF8);
    byte(0x90);
    memory(1, from, 1);
  }
  // Brings the line at `at` into the second cache; no address is wrong.
  void fetch(Address at) {
    if (static_cast<int>(at.base) & 8) byte(0x41);
    byte(0x0F);
    byte(0x18);
    memory(2, at, 1);
  }
  // Clears the upper halves of vector registers, as code of older instruction sets expects.
  void finish() {
    byte(0xC5);
    byte(0xF8);
    byte(0x77);  // vzeroupper
    byte(0xC3);  // ret
  }

  int64_t size() const { return static_cast<int64_t>(code_.size()); }
  const uint8_t* data() const { return code_.data(); }
  // Whether every offset so far had room in an instruction.
  bool fits() const { return fits_; }

 private:
  enum Map : uint8_t { k0F = 1, k0F38 = 2 };
  enum Prefix : uint8_t { kNoPrefix = 0, k66 = 1 };
  struct Options {
    bool masked = false, zeroing = false, broadcast = false;
  };
  static constexpr int64_t kVectorBytes = 64, kFloatBytes = 4;

  void byte(int value) { code_.push_back(static_cast<uint8_t>(value)); }

  // Register numbers are spread over the prefix, inverted.  Bit 3 of `source` is in the second
  // byte with its lower bits.
  void evex(Map map, Prefix prefix, int opcode, int vector, int source, Address address,
            int64_t scale, Options o) {
    const int base = static_cast<int>(address.base);
    const auto absent = [](int number, int bit) { return (number & bit) == 0; };
    byte(0x62);
    byte(absent(vector, 8) << 7 | 1 << 6 | absent(base, 8) << 5 | absent(vector, 16) << 4 | map);
    byte((~source & 15) << 3 | 1 << 2 | prefix);
    byte(o.zeroing << 7 | 2 << 5 | o.broadcast << 4 | absent(source, 16) << 3 | o.masked);
    byte(opcode);
    memory(vector, address, scale);
  }

  // Short offsets count in units of what is accessed.
  void memory(int reg, Address address, int64_t scale) {
    const int modrm = (reg & 7) << 3 | (static_cast<int>(address.base) & 7);
    const int64_t offset = address.offset, units = offset / scale;
    if (offset % scale == 0 && units >= -128 && units <= 127) {
      byte(0x40 | modrm);
      byte(static_cast<int>(units & 0xFF));
      return;
    }
    fits_ &= offset >= std::numeric_limits<int32_t>::min() &&
             offset <= std::numeric_limits<int32_t>::max();
    byte(0x80 | modrm);
    const uint32_t low = static_cast<uint32_t>(offset);
    for (int shift = 0; shift < 32; shift += 8) byte(static_cast<int>(low >> shift & 0xFF));
  }

  std::vector<uint8_t> code_;
  bool fits_ = true;
};

}  // namespace fbconv
