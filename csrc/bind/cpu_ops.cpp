// The operators on the CPU: torch's thread pool under the kernels of csrc/cpu.
#include <exception>
#include <mutex>
#include <unordered_set>
#include <utility>

#include "../core/fork.h"
#include "../cpu/fingerprint.h"
#include "register.h"

namespace fbconv {
namespace {

// torch's stable interface would make one message of whatever a task throws.
class FirstError {
 public:
  void keep(std::exception_ptr error) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (error_ == nullptr) error_ = std::move(error);
  }
  void rethrow() const {
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

void run_on_torch_threads(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  FirstError error;
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t task = begin; task < end; ++task) body(context, task);
    } catch (...) {
      error.keep(std::current_exception());
    }
  });
  error.rethrow();
}

// Contents whose indices were found right.
class RightPatterns {
 public:
  bool contains(const Fingerprint& content) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return known_.count(content) != 0;
  }
  std::mutex& mutex() { return mutex_; }
  void add(const Fingerprint& content) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (known_.size() >= kMost) known_.clear();
    known_.insert(content);
  }

 private:
  static constexpr size_t kMost = 1 << 16;
  struct Hash {
    size_t operator()(const Fingerprint& content) const { return content.low; }
  };
  std::mutex mutex_;
  std::unordered_set<Fingerprint, Hash> known_;
};

RightPatterns& right_patterns() {
  static RightPatterns& patterns = *new RightPatterns;  // threads may outlive the main one
  return patterns;
}

std::mutex& right_patterns_mutex() { return right_patterns().mutex(); }
const bool held = hold_over_forks<right_patterns_mutex>();

class CpuBackend {
 public:
  explicit CpuBackend(const Tensor&)
      : parallel_{static_cast<int64_t>(torch::stable::get_num_threads()), run_on_torch_threads} {}

  // A content that was once found right need not be read again; its fingerprint finds its plans.
  void check_indices(const char* op, const Tensor& pattern, PatternHalf half,
                     PatternView* view) const {
    view->content = fingerprint(*view, half);
    if (right_patterns().contains(view->content)) return;
    const std::string error = pattern_error(data_of<int32_t>(pattern), *view, half);
    if (!error.empty()) fail(op, "pattern is damaged: " + error);
    right_patterns().add(view->content);
  }

#define FBCONV_FORWARD_TO_CPU(name)                \
  template <typename T, typename... Arguments>     \
  void name(const Arguments&... arguments) const { \
    fbconv::name<T>(arguments..., parallel_);      \
  }
  FBCONV_FORWARD_TO_CPU(sparse_conv2d)
  FBCONV_FORWARD_TO_CPU(sparse_conv2d_grad_input)
  FBCONV_FORWARD_TO_CPU(sparse_conv2d_grad_values)
  FBCONV_FORWARD_TO_CPU(fb_conv2d)
  FBCONV_FORWARD_TO_CPU(fb_conv2d_grad_input)
  FBCONV_FORWARD_TO_CPU(fb_conv2d_grad_basis)
  FBCONV_FORWARD_TO_CPU(fb_conv2d_grad_values)
  FBCONV_FORWARD_TO_CPU(embed)
  FBCONV_FORWARD_TO_CPU(gather_values)
#undef FBCONV_FORWARD_TO_CPU

 private:
  Parallel parallel_;
};

}  // namespace
}  // namespace fbconv

STABLE_TORCH_LIBRARY_IMPL(fbconv, CPU, m) { fbconv::register_operators<fbconv::CpuBackend>(m); }
