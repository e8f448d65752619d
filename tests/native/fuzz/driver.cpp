// Stands in for libFuzzer where the compiler has none, with those of its options that are used
// here:
//
//   fuzz_<target> [-runs=N] [-max_total_time=SECONDS] [-seed=N] FOLDER_OR_FILE...
//
// It replays every input and then tries as many others (or for as long) as it is told, by changing
// inputs at random.  It does not see which code they reach.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t count);
// Of the sanitizer, in builds that have one.
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

using Bytes = std::vector<uint8_t>;
using Clock = std::chrono::steady_clock;

constexpr const char* kCrash = "crash-input";
constexpr size_t kLongest = 4096;

struct Options {
  int64_t runs = 0, seconds = 0, seed = 1;
  std::vector<std::string> paths;
};

Options parse(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const auto given = [&](const std::string& name, int64_t* value) {
      if (argument.rfind(name, 0) != 0) return false;
      *value = std::atoll(argument.c_str() + name.size());
      return true;
    };
    const bool known = given("-runs=", &options.runs) ||
                       given("-max_total_time=", &options.seconds) ||
                       given("-seed=", &options.seed);
    // libFuzzer has more options, which mean nothing here.
    if (!known && argument[0] != '-') options.paths.push_back(argument);
  }
  return options;
}

Bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

// In the order of their names, so that a seed gives the same inputs on every machine.
std::vector<Bytes> read_corpus(const std::vector<std::string>& paths) {
  std::vector<std::filesystem::path> files;
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.emplace_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Bytes> corpus;
  for (const auto& file : files) corpus.push_back(read(file));
  return corpus;
}

class Mutator {
 public:
  Mutator(std::vector<Bytes> corpus, uint64_t seed) : corpus_(std::move(corpus)), random_(seed) {
    if (corpus_.empty()) corpus_.emplace_back();
  }

  Bytes next() {
    Bytes bytes = corpus_[below(corpus_.size())];
    for (uint64_t changes = 1 + below(4); changes > 0; --changes) change(&bytes);
    return bytes;
  }

 private:
  uint64_t below(uint64_t bound) { return random_() % bound; }

  void change(Bytes* bytes) {
    const uint64_t at = below(bytes->size() + 1), left = bytes->size() - at;
    const uint64_t count = std::min<uint64_t>(left, 1 + below(8));
    const auto from = bytes->begin() + static_cast<int64_t>(at);
    switch (below(6)) {
      case 0:
        if (left != 0) *from ^= static_cast<uint8_t>(1u << below(8));
        break;
      case 1:
        if (left != 0) *from = static_cast<uint8_t>(below(256));
        break;
      case 2:
        if (left != 0) *from = static_cast<uint8_t>(*from + below(9) - 4);
        break;
      case 3:
        bytes->erase(from, from + static_cast<int64_t>(count));
        break;
      case 4:
        if (bytes->size() < kLongest) bytes->insert(from, count, static_cast<uint8_t>(below(256)));
        break;
      default:
        std::fill_n(from, count, below(2) == 0 ? 0 : 0xFF);
    }
  }

  std::vector<Bytes> corpus_;
  std::mt19937_64 random_;
};

const Bytes* running = nullptr;

// Nothing here may allocate: the heap may be what is broken.
void keep_input() {
  if (running == nullptr) return;
  std::FILE* file = std::fopen(kCrash, "wb");
  if (file == nullptr) return;
  std::fwrite(running->data(), 1, running->size(), file);
  std::fclose(file);
  std::fprintf(stderr, "the input is in %s\n", kCrash);
}

void on_signal(int signal) {
  keep_input();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

// A sanitizer reports bad addresses itself, and better.
void keep_input_of_crashes() {
  std::signal(SIGABRT, on_signal);
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(keep_input);
    return;
  }
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) std::signal(signal, on_signal);
}

void try_input(const Bytes& bytes) {
  running = &bytes;
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  running = nullptr;
}

}  // namespace

int main(int count, char** arguments) {
  const Options options = parse(count, arguments);
  keep_input_of_crashes();
  const Clock::time_point end = Clock::now() + std::chrono::seconds(options.seconds);
  const std::vector<Bytes> corpus = read_corpus(options.paths);
  for (const Bytes& bytes : corpus) try_input(bytes);
  int64_t executions = static_cast<int64_t>(corpus.size());
  Mutator mutator(corpus, static_cast<uint64_t>(options.seed));
  const auto goes_on = [&](int64_t run) {
    return run < options.runs || (options.runs == 0 && Clock::now() < end);
  };
  for (int64_t run = 0; goes_on(run); ++run, ++executions) try_input(mutator.next());
  std::printf("stat::number_of_executed_units: %lld\n", static_cast<long long>(executions));
  return 0;
}
