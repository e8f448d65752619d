// What the emitter writes, read back by a disassembler.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "../../csrc/cpu/emitter.h"
#include "check.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#define FBCONV_HAS_PIPES
#endif

namespace fbconv::test {
namespace {

constexpr Register kBases[] = {Register::kFirst,  Register::kSecond, Register::kThird,
                               Register::kFourth, Register::kFifth,  Register::kSixth};
constexpr int64_t kLowest = std::numeric_limits<int32_t>::min();
constexpr int64_t kHighest = std::numeric_limits<int32_t>::max();

// The calling convention's order of arguments, by name.
std::string name_of(Register base) {
  switch (base) {
    case Register::kFirst:
      return "%rdi";
    case Register::kSecond:
      return "%rsi";
    case Register::kThird:
      return "%rdx";
    case Register::kFourth:
      return "%rcx";
    case Register::kFifth:
      return "%r8";
    case Register::kSixth:
      return "%r9";
  }
  return "";
}

std::string zmm(int vector) { return "%zmm" + std::to_string(vector); }

std::string text_of(Address address) {
  std::ostringstream text;
  text << (address.offset < 0 ? "-" : "") << "0x" << std::hex << std::abs(address.offset) << "("
       << name_of(address.base) << ")";
  return text.str();
}

// Around zero, around the ends of short offsets of accesses of `scale` bytes, and far away.
std::vector<int64_t> offsets(int64_t scale) {
  std::vector<int64_t> all{0, 1, -1, 4, -4, 64, -64, 100000, -100000, kLowest, kHighest};
  for (const int64_t end : {-128 * scale, 127 * scale}) {
    for (const int64_t step : {-scale, -scale / 2, int64_t{-1}, int64_t{0}, int64_t{1}, scale}) {
      all.push_back(end + step);
    }
  }
  return all;
}

// Bytes of an offset in its instruction: one where it counts whole accesses, few enough.
int64_t offset_bytes(int64_t offset, int64_t scale) {
  return offset % scale == 0 && offset >= -128 * scale && offset <= 127 * scale ? 1 : 4;
}

struct Line {
  int64_t address;
  std::string text;
};

// Instructions and what a disassembler has to say about them.
class Listing {
 public:
  // `bare` is the instruction's size without its offset.
  template <typename Emit>
  void add(const std::string& text, int64_t bare, Address address, int64_t scale,
           const Emit& emit) {
    expect(text);
    const int64_t before = emitter.size();
    emit();
    const int64_t size = bare + offset_bytes(address.offset, scale);
    CHECK(emitter.size() == before + size, text + ": " + std::to_string(size) + " bytes");
  }
  void expect(const std::string& text) { lines.push_back({emitter.size(), text}); }

  Emitter emitter;
  std::vector<Line> lines;
};

constexpr int64_t kVectorBytes = 64, kFloatBytes = 4, kEvex = 6;  // prefix, opcode, operands

void list_vectors(Listing* to) {
  for (int vector = 0; vector < Emitter::kVectors; ++vector) {
    for (const Register base : kBases) {
      for (const int64_t offset : offsets(kVectorBytes)) {
        const Address at{base, offset};
        for (const bool masked : {false, true}) {
          to->add("vmovups " + text_of(at) + "," + zmm(vector) + (masked ? "{%k1}{z}" : ""), kEvex,
                  at, kVectorBytes, [&] { to->emitter.load(vector, at, masked); });
          to->add("vmovups " + zmm(vector) + "," + text_of(at) + (masked ? "{%k1}" : ""), kEvex, at,
                  kVectorBytes, [&] { to->emitter.store(at, vector, masked); });
        }
      }
      for (const int64_t offset : offsets(kFloatBytes)) {
        const Address at{base, offset};
        to->add("vbroadcastss " + text_of(at) + "," + zmm(vector), kEvex, at, kFloatBytes,
                [&] { to->emitter.broadcast(vector, at); });
      }
    }
  }
}

void list_products(Listing* to) {
  const auto add = [&](int sum, int factor, Address at) {
    const std::string operands = " " + text_of(at) + "{1to16}," + zmm(factor) + "," + zmm(sum);
    to->add("vfmadd231ps" + operands, kEvex, at, kFloatBytes,
            [&] { to->emitter.multiply_add(sum, factor, at); });
    to->add("vmulps" + operands, kEvex, at, kFloatBytes,
            [&] { to->emitter.multiply(sum, factor, at); });
  };
  for (int sum = 0; sum < Emitter::kVectors; ++sum) {
    for (int factor = 0; factor < Emitter::kVectors; ++factor) {
      for (const Register base : kBases) add(sum, factor, {base, 4 * (sum - factor)});
    }
    for (const int64_t offset : offsets(kFloatBytes)) {
      for (const Register base : kBases) add(sum, 31 - sum, {base, offset});
    }
  }
}

void list_others(Listing* to) {
  for (int vector = 0; vector < Emitter::kVectors; ++vector) {
    to->expect("vpxord " + zmm(vector) + "," + zmm(vector) + "," + zmm(vector));
    to->emitter.zero(vector);
  }
  for (const Register base : kBases) {
    const bool extended = static_cast<int>(base) >= 8;
    for (const int64_t offset : offsets(1)) {
      const Address at{base, offset};
      to->add("prefetcht1 " + text_of(at), extended ? 4 : 3, at, 1, [&] { to->emitter.fetch(at); });
      if (extended) continue;
      to->add("kmovw " + text_of(at) + ",%k1", 4, at, 1, [&] { to->emitter.load_mask(at); });
    }
  }
  to->expect("vzeroupper");
  to->emitter.finish();
  to->lines.push_back({to->emitter.size() - 1, "ret"});
}

#ifdef FBCONV_HAS_PIPES

std::string run(const std::string& command) {
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return output;
  char part[4096];
  for (size_t size; (size = fread(part, 1, sizeof part, pipe)) > 0;) output.append(part, size);
  pclose(pipe);
  return output;
}

bool has_disassembler() {
  return run("objdump --version 2>/dev/null").find("objdump") != std::string::npos;
}

// Lines are "address:<tab>mnemonic   operands".
std::vector<Line> disassemble(const Emitter& emitter) {
  const char* folder = std::getenv("TMPDIR");
  std::string path = std::string(folder ? folder : "/tmp") + "/fbconv_emitter_XXXXXX";
  const int file = mkstemp(path.data());
  CHECK(file >= 0, path);
  if (file < 0) return {};
  close(file);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(emitter.data()), emitter.size());
  std::istringstream output(
      run("objdump -D -w -b binary -m i386:x86-64 -M att --no-show-raw-insn '" + path + "'"));
  unlink(path.c_str());
  std::vector<Line> lines;
  for (std::string line; std::getline(output, line);) {
    const size_t colon = line.find(":\t");
    if (colon == std::string::npos) continue;
    std::istringstream words(line.substr(colon + 2));
    std::string mnemonic, operands;
    words >> mnemonic >> operands;
    if (mnemonic == "retq") mnemonic = "ret";  // before binutils 2.37
    lines.push_back({std::stoll(line.substr(0, colon), nullptr, 16),
                     operands.empty() ? mnemonic : mnemonic + " " + operands});
  }
  return lines;
}

#else

bool has_disassembler() { return false; }
std::vector<Line> disassemble(const Emitter&) { return {}; }

#endif

void test_instructions() {
  Listing listing;
  list_vectors(&listing);
  list_products(&listing);
  list_others(&listing);
  CHECK(listing.emitter.fits(), "32 bits hold all of these offsets");
  const std::vector<Line> got = disassemble(listing.emitter);
  CHECK(got.size() == listing.lines.size(),
        std::to_string(got.size()) + " instructions, not " + std::to_string(listing.lines.size()));
  for (size_t i = 0; i < std::min(got.size(), listing.lines.size()); ++i) {
    const Line& expected = listing.lines[i];
    CHECK(got[i].text == expected.text, "expected " + expected.text + ", got " + got[i].text);
    CHECK(got[i].address == expected.address, expected.text);
  }
}

// Every kind of instruction notices an offset that it has no room for, and later ones do not
// make up for it.
void test_limits() {
  using Emit = void (*)(Emitter*, Address);
  const Emit kinds[] = {[](Emitter* e, Address at) { e->load(1, at, false); },
                        [](Emitter* e, Address at) { e->load(1, at, true); },
                        [](Emitter* e, Address at) { e->store(at, 1, false); },
                        [](Emitter* e, Address at) { e->store(at, 1, true); },
                        [](Emitter* e, Address at) { e->broadcast(1, at); },
                        [](Emitter* e, Address at) { e->multiply_add(1, 2, at); },
                        [](Emitter* e, Address at) { e->multiply(1, 2, at); },
                        [](Emitter* e, Address at) { e->load_mask(at); },
                        [](Emitter* e, Address at) { e->fetch(at); }};
  for (const Emit emit : kinds) {
    for (const int64_t offset : {kLowest - 64, kLowest - 1, kLowest, int64_t{0}, kHighest,
                                 kHighest + 1, int64_t{1} << 32, int64_t{1} << 40}) {
      Emitter emitter;
      emit(&emitter, {Register::kThird, offset});
      emit(&emitter, {Register::kThird, 100001});
      CHECK(emitter.fits() == (offset >= kLowest && offset <= kHighest), std::to_string(offset));
    }
  }
}

}  // namespace
}  // namespace fbconv::test

int main() {
  if (!fbconv::test::has_disassembler()) {
    std::cout << "objdump was not found\n";
    return fbconv::test::kSkipped;
  }
  fbconv::test::test_instructions();
  fbconv::test::test_limits();
  return fbconv::test::verdict();
}
