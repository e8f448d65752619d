// Any mask: its code gives it back, ends in no zero byte, and means it no longer when it is cut.
#include "../../../csrc/core/position_coder.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t count) {
  using namespace fbconv;
  fuzz::Input input(data, count);
  const int64_t unused = input.number(1) % 8;
  const std::vector<uint8_t> mask = input.bytes();
  const int64_t size = mask.empty() ? 0 : 8 * static_cast<int64_t>(mask.size()) - unused;
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < size; ++i) {
    if (mask[i / 8] >> i % 8 & 1) positions.push_back(i);
  }
  const int64_t kept = static_cast<int64_t>(positions.size());
  const std::vector<uint8_t> code = encode_positions(positions.data(), kept, size);
  const auto means_them = [&](std::vector<uint8_t> bytes) {
    std::vector<int64_t> decoded(kept, -1);
    const int64_t length = static_cast<int64_t>(bytes.size());
    return decode_positions(bytes.data(), length, size, kept, decoded.data()) &&
           decoded == positions;
  };
  fuzz::must(means_them(code), "a code gives back its positions");
  if (code.empty()) return 0;
  fuzz::must(code.back() != 0, "a code has no trailing zero");
  fuzz::must(!means_them({code.begin(), code.end() - 1}), "a code is the only one");
  return 0;
}
