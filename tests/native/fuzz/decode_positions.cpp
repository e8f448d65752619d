// Any bytes as the code of any number of positions: these rise strictly within the size, and only
// the encoder's own bytes are accepted.
#include "../../../csrc/core/position_coder.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t count) {
  using namespace fbconv;
  fuzz::Input input(data, count);
  // Longer masks are no harder, but slower.
  const int64_t size = input.number(2) % 4097, kept = input.number(2) % (size + 1);
  const std::vector<uint8_t> code = input.bytes();
  std::vector<int64_t> positions(kept, -1);
  const bool accepted = decode_positions(code.data(), static_cast<int64_t>(code.size()), size, kept,
                                         positions.data());
  int64_t least = 0;
  for (const int64_t position : positions) {
    fuzz::must(position >= least && position < size, "positions rise strictly within the size");
    least = position + 1;
  }
  fuzz::must(accepted == (encode_positions(positions.data(), kept, size) == code),
             "the encoder's bytes are accepted, and no others");
  return 0;
}
