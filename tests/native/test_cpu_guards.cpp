// Operators on tensors that end, or begin, where memory does: whoever touches more is stopped by
// the system.  Each call is its thread's first, so that scratch memory is new too.
#include <thread>

#include "cpu_engine.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#define FBCONV_HAS_MMAP
#endif

namespace fbconv::test {
namespace {

#ifdef FBCONV_HAS_MMAP

// Elements right before, or right behind, a page that must not be touched.
template <typename T>
class Guarded {
 public:
  Guarded(int64_t count, bool at_end) : count_(count) {
    const int64_t page = sysconf(_SC_PAGESIZE), bytes = count * sizeof(T);
    const int64_t inside = std::max<int64_t>(1, (bytes + page - 1) / page) * page;
    size_ = inside + 2 * page;
    void* all = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::runtime_error("mmap");
    pages_ = static_cast<char*>(all);
    if (mprotect(pages_ + page, inside, PROT_READ | PROT_WRITE) != 0) {
      throw std::runtime_error("mprotect");
    }
    data_ = reinterpret_cast<T*>(pages_ + page + (at_end ? inside - bytes : 0));
    std::fill(data_, data_ + count, std::numeric_limits<T>::quiet_NaN());
  }
  Guarded(const Dense& values, bool at_end) : Guarded(static_cast<int64_t>(values.size()), at_end) {
    std::copy(values.begin(), values.end(), data_);
  }
  Guarded(const Guarded&) = delete;
  ~Guarded() { munmap(pages_, size_); }

  T* data() const { return data_; }
  Dense dense() const { return Dense(data_, data_ + count_); }
  // As a contiguous map.
  MapView<T> view(const Shape& s) const {
    return {data_, s.channels * s.rows * s.columns, s.rows * s.columns, s.columns, 1};
  }
  MapView<const T> const_view(const Shape& s) const { return read(view(s)); }

 private:
  static MapView<const T> read(const MapView<T>& v) {
    return {v.data, v.batch_stride, v.channel_stride, v.row_stride, v.column_stride};
  }

  int64_t count_, size_;
  char* pages_;
  T* data_;
};

// Outputs as large as inputs, on maps that fill their last vector to different degrees.
std::vector<Case> guarded_cases() {
  return {
      {"4x4", {3, 3, 4, 4, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1}},
      {"one lane missing", {2, 3, 3, 5, 30, 3, 3, 1, 1, 1, 1, 1, 1, 1}},
      {"one lane in the last vector", {2, 4, 7, 7, 6, 3, 3, 1, 1, 1, 1, 1, 1, 2}},
      {"batch of 9", {9, 3, 5, 6, 4, 3, 3, 1, 1, 2, 2, 2, 2, 1}},
      {"5x5", {2, 2, 15, 2, 4, 5, 5, 1, 1, 2, 2, 1, 1, 1}},
      {"pointwise", {2, 5, 5, 7, 3, 1, 1, 1, 1, 0, 0, 1, 1, 1}},
      {"copied", {2, 2, 19, 17, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1}},
      {"rows of vectors", {2, 3, 5, 16, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1}},
      {"rows of vectors, dilated", {9, 2, 4, 32, 30, 3, 3, 1, 1, 2, 2, 2, 2, 1}},
      {"wide", {1, 2, 2, 39, 29, 3, 3, 1, 1, 1, 1, 1, 1, 1}},
      {"strided", {2, 3, 9, 7, 4, 3, 3, 2, 2, 1, 1, 1, 1, 1}},
      {"no padding", {2, 3, 9, 7, 4, 3, 3, 1, 1, 0, 0, 1, 1, 1}},
  };
}

template <typename F>
void in_new_thread(const F& f) {
  std::thread(f).join();
}

// One convolution's tensors, all guarded at the same side.
template <typename T>
struct GuardedProblem {
  const CpuEngine& engine;
  const ConvGeometry& g;
  const Pattern& pattern;
  const Problem& problem;
  bool at_end;
  std::string what;
  Shape x = input_shape(g), y = output_shape(g);
  Guarded<T> input{problem.input, at_end}, grad{problem.grad, at_end}, bias{problem.bias, at_end};
  Guarded<T> output{y.count(), at_end}, grad_input{x.count(), at_end};
  Guarded<T> grad_values{pattern.nnz(), at_end};
  Dense weight_grad = naive_weight_grad(g, problem.grad, problem.input);
  Dense weight_grad_scale = naive_weight_grad(g, absolute(problem.grad), absolute(problem.input));

  // `weight` has its own scale where it is composed of products.
  void check_maps(const Dense& weight, const Dense& scale, const std::string& op) const {
    const Dense magnitudes = absolute(problem.input);
    check_close<T>(output.dense(), naive_output(g, problem.input, weight, problem.bias),
                   naive_output(g, magnitudes, scale, absolute(problem.bias)), what + op);
    check_close<T>(grad_input.dense(), naive_input_grad(g, problem.grad, weight),
                   naive_input_grad(g, absolute(problem.grad), scale), what + op + " grad input");
  }
};

template <typename T>
void check_guarded_sparse(const GuardedProblem<T>& t, Random& random) {
  const Dense values = random_dense(random, t.pattern.nnz()), weight = t.pattern.scatter(values);
  const Guarded<T> v(values, t.at_end);
  const PatternView p = t.pattern.view();
  in_new_thread([&] {
    t.engine.template sparse_conv2d<T>(t.g, p, t.input.const_view(t.x), v.data(), t.bias.data(),
                                       t.output.view(t.y));
  });
  in_new_thread([&] {
    t.engine.template sparse_conv2d_grad_input<T>(t.g, p, t.grad.const_view(t.y), v.data(),
                                                  t.grad_input.view(t.x));
  });
  in_new_thread([&] {
    t.engine.template sparse_conv2d_grad_values<T>(t.g, p, t.grad.const_view(t.y),
                                                   t.input.const_view(t.x), t.grad_values.data());
  });
  t.check_maps(weight, absolute(weight), " sparse");
  check_close<T>(t.grad_values.dense(), t.pattern.gather(t.weight_grad),
                 t.pattern.gather(t.weight_grad_scale), t.what + " sparse grad values");
}

template <typename T>
void check_guarded_basis(const GuardedProblem<T>& t, MixOrder order, Random& random) {
  const NaiveBasis layout{1, t.pattern.taps, false};
  const BasisProblem s(t.g, layout, t.pattern, random);
  const BasisLayout bases{1, layout.elements, false};
  const Guarded<T> v(s.values, t.at_end), f(s.basis, t.at_end);
  const Guarded<T> grad_basis(static_cast<int64_t>(s.basis.size()), t.at_end);
  const PatternView p = t.pattern.view();
  const MapView<const T> input = t.input.const_view(t.x), grad = t.grad.const_view(t.y);
  in_new_thread([&] {
    t.engine.template fb_conv2d<T>(t.g, bases, order, p, input, f.data(), v.data(), t.bias.data(),
                                   t.output.view(t.y));
  });
  in_new_thread([&] {
    t.engine.template fb_conv2d_grad_input<T>(t.g, bases, p, grad, f.data(), v.data(),
                                              t.grad_input.view(t.x));
  });
  in_new_thread([&] {
    t.engine.template fb_conv2d_grad_values<T>(t.g, bases, p, grad, input, f.data(),
                                               t.grad_values.data());
  });
  in_new_thread([&] {
    t.engine.template fb_conv2d_grad_basis<T>(t.g, bases, p, grad, input, v.data(),
                                              grad_basis.data());
  });
  t.check_maps(s.weight, s.weight_scale, " basis");
  check_close<T>(t.grad_values.dense(),
                 t.pattern.gather(s.coefficient_grad(t.g, t.weight_grad, s.basis)),
                 t.pattern.gather(s.coefficient_grad(t.g, t.weight_grad_scale, absolute(s.basis))),
                 t.what + " basis grad values");
  check_close<T>(grad_basis.dense(), s.basis_grad(t.g, t.weight_grad, s.coefficients),
                 s.basis_grad(t.g, t.weight_grad_scale, absolute(s.coefficients)),
                 t.what + " grad basis");
}

template <typename T>
void test_guarded(const CpuEngine& engine) {
  Random random(77);
  for (const Case& c : guarded_cases()) {
    const ConvGeometry& g = c.geometry;
    const Problem problem(g, random);
    for (const double density : {.1, .6}) {
      const Pattern pattern =
          random_pattern(random, g.out_channels, g.group_inputs(), g.taps(), density);
      for (const bool at_end : {false, true}) {
        const std::string side = at_end ? ", at the end," : ", at the beginning,";
        const GuardedProblem<T> t{engine, g, pattern, problem, at_end, c.name + side};
        check_guarded_sparse(t, random);
        check_guarded_basis(t, MixOrder::kBasisFirst, random);
        check_guarded_basis(t, MixOrder::kMixFirst, random);
      }
    }
  }
}

// Sums without a bias start at zeros that a thread keeps, and that grow with its first layers.
void test_first_call(const CpuEngine& engine) {
  Random random(78);
  for (const int64_t outputs : {4, 8, 16, 40}) {
    const ConvGeometry g{2, 16, 8, 16, outputs, 3, 3, 1, 1, 1, 1, 1, 1, 1};
    const Problem problem(g, random);
    const Pattern pattern = random_pattern(random, outputs, 16, 9, .3);
    const NaiveBasis layout{1, 9, false};
    const BasisProblem sides(g, layout, pattern, random);
    in_new_thread([&] {
      check_basis_maps<float>(engine, problem, sides, pattern, Layout::kContiguous, "first call");
    });
    in_new_thread([&] {
      check_sparse<float>(engine, problem, pattern, Layout::kContiguous, random, "first call");
    });
  }
}

#endif

}  // namespace
}  // namespace fbconv::test

int main() {
  using namespace fbconv::test;
  const int unusable = check_capability();
  if (unusable != 0) return unusable;
#ifdef FBCONV_HAS_MMAP
  const CpuEngine engine{{1, [](int64_t tasks, void (*body)(void*, int64_t), void* context) {
                            for (int64_t task = 0; task < tasks; ++task) body(context, task);
                          }}};
  test_guarded<float>(engine);
  test_guarded<double>(engine);
  test_first_call(engine);
  return verdict();
#else
  std::cout << "pages are guarded with mprotect\n";
  return kSkipped;
#endif
}
