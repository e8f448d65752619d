// The arithmetic of the CUDA kernels, run on the host as the kernels run it, and their promise that
// no pattern, however malformed, leads out of bounds (for which this runs under the sanitizers).
#include "../../csrc/cuda/basis_conv.cuh"
#include "../../csrc/cuda/dense.cuh"
#include "../../csrc/cuda/sparse_conv.cuh"
#include "op_suite.h"

namespace fbconv::test {
namespace {

// Sums the parts that a block's threads would compute.
template <typename T, typename Part>
T block_total(const Part& part) {
  constexpr int64_t kThreads = 32;
  T total = T(0);
  for (int64_t thread = 0; thread < kThreads; ++thread) total += part(thread, kThreads);
  return total;
}

struct HostEngine {
  template <typename T>
  void sparse_conv2d(const ConvGeometry& g, const PatternView& p, MapView<const T> input,
                     const T* values, const T* bias, MapView<T> output) const {
    const DeviceConv c(g);
    for (int64_t i = 0; i < c.outputs(); ++i) {
      const Site out = site_at(i, c.out_channels, c.out_h, c.out_w);
      element(output, out) = sparse_output(c, p, input, values, bias, out);
    }
  }

  template <typename T>
  void sparse_conv2d_grad_input(const ConvGeometry& g, const PatternView& p, MapView<const T> grad,
                                const T* values, MapView<T> grad_input) const {
    const DeviceConv c(g);
    for (int64_t i = 0; i < c.inputs(); ++i) {
      const Site in = site_at(i, c.in_channels, c.in_h, c.in_w);
      element(grad_input, in) = sparse_input_grad(c, p, grad, values, in);
    }
  }

  template <typename T>
  void sparse_conv2d_grad_values(const ConvGeometry& g, const PatternView& p, MapView<const T> grad,
                                 MapView<const T> input, T* grad_values) const {
    const DeviceConv c(g);
    for (int32_t k = 0; k < p.nnz; ++k) {
      grad_values[k] = block_total<T>([&](int64_t thread, int64_t threads) {
        return sparse_value_grad_part(c, p, grad, input, k, thread, threads);
      });
    }
  }

  template <typename T>
  void fb_conv2d(const ConvGeometry& g, const BasisLayout& layout, MixOrder, const PatternView& p,
                 MapView<const T> input, const T* basis, const T* values, const T* bias,
                 MapView<T> output) const {
    const DeviceConv c(g);
    const DeviceBasis b(g, layout);
    for (int64_t i = 0; i < c.outputs(); ++i) {
      const Site out = site_at(i, c.out_channels, c.out_h, c.out_w);
      element(output, out) = basis_output(c, b, p, input, basis, values, bias, out);
    }
  }

  template <typename T>
  void fb_conv2d_grad_input(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                            MapView<const T> grad, const T* basis, const T* values,
                            MapView<T> grad_input) const {
    const DeviceConv c(g);
    const DeviceBasis b(g, layout);
    for (int64_t i = 0; i < c.inputs(); ++i) {
      const Site in = site_at(i, c.in_channels, c.in_h, c.in_w);
      element(grad_input, in) = basis_input_grad(c, b, p, grad, basis, values, in);
    }
  }

  template <typename T>
  std::vector<T> correlations(const DeviceConv& c, const PatternView& p, MapView<const T> grad,
                              MapView<const T> input) const {
    std::vector<T> result = unwritten<T>(p.nnz * c.taps);
    for (int64_t i = 0; i < p.nnz * c.taps; ++i) {
      const int32_t k = static_cast<int32_t>(i / c.taps), tap = static_cast<int32_t>(i % c.taps);
      bool written = true;
      const T total = block_total<T>([&](int64_t thread, int64_t threads) {
        T part = T(0);
        written &= correlation_part_of(c, p, grad, input, k, tap, thread, threads, &part);
        return part;
      });
      if (written) result[i] = total;
    }
    return result;
  }

  template <typename T>
  void fb_conv2d_grad_values(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                             MapView<const T> grad, MapView<const T> input, const T* basis,
                             T* grad_values) const {
    const DeviceConv c(g);
    const DeviceBasis b(g, layout);
    const std::vector<T> correlation = correlations(c, p, grad, input);
    for (int32_t k = 0; k < p.nnz; ++k) {
      grad_values[k] = basis_value_grad(c, b, p, basis, correlation.data(), k);
    }
  }

  template <typename T>
  void fb_conv2d_grad_basis(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                            MapView<const T> grad, MapView<const T> input, const T* values,
                            T* grad_basis) const {
    const DeviceConv c(g);
    const DeviceBasis b(g, layout);
    const BasisChunks chunks(g, layout);
    const std::vector<T> correlation = correlations(c, p, grad, input);
    const int64_t count = b.bases * b.elements * c.taps;
    std::fill(grad_basis, grad_basis + count, T(0));
    for (int64_t i = 0; i < chunks.chunks * count; ++i) {
      const Site at = site_at(i, b.bases, b.elements, c.taps);
      grad_basis[i % count] +=
          basis_grad_part(c, b, chunks, p, values, correlation.data(), at.image, at.channel,
                          static_cast<int32_t>(at.row), static_cast<int32_t>(at.column));
    }
  }

  template <typename T>
  void embed(const PatternView& p, const T* values, const T* frozen, T* dense) const {
    const int64_t count = p.rows * p.channels * p.taps;
    for (int64_t i = 0; i < count; ++i) dense[i] = frozen != nullptr ? frozen[i] : T(0);
    for (int32_t k = 0; k < p.nnz; ++k) {
      const int64_t place = dense_place(p, k);
      if (place >= 0) dense[place] = values[k];
    }
  }

  template <typename T>
  void gather_values(const PatternView& p, const T* dense, T* values) const {
    for (int32_t k = 0; k < p.nnz; ++k) {
      const int64_t place = dense_place(p, k);
      values[k] = place >= 0 ? dense[place] : T(0);
    }
  }
};

// Bases of more rows than the parts they are cut into, and of several rows a part.
void test_chunks() {
  for (const int64_t rows : {1, 2, 1023, 1024, 1025, 5000}) {
    for (const int64_t bases : {1, 5}) {
      for (const bool per_output : {false, true}) {
        ConvGeometry g{1, 5, 1, 1, rows * bases, 1, 1, 1, 1, 0, 0, 1, 1, 1};
        const BasisChunks chunks(g, {bases, 1, per_output});
        const int64_t covered = per_output ? rows : rows * bases;
        const std::string what = std::to_string(rows) + " rows";
        CHECK(chunks.chunks * chunks.rows_each >= covered, what);
        CHECK((chunks.chunks - 1) * chunks.rows_each < covered, what);
        CHECK(chunks.chunks * bases <= 1024 + bases, what);
      }
    }
  }
}

// The partial sums of a layer with more rows than chunks.
void test_many_rows() {
  Random random(3);
  const ConvGeometry g{1, 2, 2, 2, 2500, 1, 1, 1, 1, 0, 0, 1, 1, 1};
  const Problem problem(g, random);
  for (const NaiveBasis& bases :
       {NaiveBasis{1, 2, false}, NaiveBasis{2, 2, false}, NaiveBasis{2, 2, true}}) {
    const Pattern mix = random_pattern(random, g.out_channels, g.in_channels, bases.elements, .5);
    const BasisProblem sides(g, bases, mix, random);
    check_basis_params<double>(HostEngine(), problem, sides, mix, Layout::kContiguous, "many rows");
  }
}

// An entry whose index leaves its row counts as absent, also where the address would be inside.
void test_entry_outside_its_row() {
  const Pattern good(std::vector<bool>(12, true), 3, 2, 2);
  const Dense ones(12, 1.);
  for (const int32_t index : {-1, 4}) {
    Pattern bad = good;
    bad.packed[kPatternHeader + 4 + 5] = index;  // entry 5, in the middle row
    Dense dense(12), gathered(12);
    HostEngine().embed<double>(bad.view(), ones.data(), nullptr, dense.data());
    HostEngine().gather_values<double>(bad.view(), ones.data(), gathered.data());
    for (int64_t i = 0; i < 12; ++i) {
      CHECK(dense[i] == (i == 5 ? 0 : 1), "embed at " + std::to_string(i));
      CHECK(gathered[i] == (i == 5 ? 0 : 1), "gather at " + std::to_string(i));
    }
  }
}

// A word that is small, huge or negative with equal chance.
int32_t garbage(Random& random) {
  const int32_t word = static_cast<int32_t>(random());
  return random() % 2 == 0 ? word : word % 40;
}

void run_everything(const ConvGeometry& g, const Problem& t, const Pattern& sparse,
                    const Pattern& mix, const BasisLayout& layout) {
  const HostEngine engine;
  const PatternView p = sparse.view(), q = mix.view();
  const Dense ones(std::max(sparse.nnz(), mix.nnz()), 1.);
  const Dense basis(layout.bases * layout.elements * g.taps(), 1.);
  const Map<double> input(input_shape(g), Layout::kSlice, t.input);
  const Map<double> grad(output_shape(g), Layout::kSlice, t.grad);
  Map<double> output(output_shape(g), Layout::kSlice), grad_input(input_shape(g), Layout::kSlice);
  Dense values(ones.size()), grad_basis(basis.size());
  Dense dense(sparse.mask.size());
  engine.sparse_conv2d<double>(g, p, input.view(), ones.data(), nullptr, output.view());
  engine.sparse_conv2d_grad_input<double>(g, p, grad.view(), ones.data(), grad_input.view());
  engine.sparse_conv2d_grad_values<double>(g, p, grad.view(), input.view(), values.data());
  engine.embed<double>(p, ones.data(), nullptr, dense.data());
  engine.gather_values<double>(p, dense.data(), values.data());
  engine.fb_conv2d<double>(g, layout, MixOrder::kBasisFirst, q, input.view(), basis.data(),
                           ones.data(), nullptr, output.view());
  engine.fb_conv2d_grad_input<double>(g, layout, q, grad.view(), basis.data(), ones.data(),
                                      grad_input.view());
  engine.fb_conv2d_grad_values<double>(g, layout, q, grad.view(), input.view(), basis.data(),
                                       values.data());
  engine.fb_conv2d_grad_basis<double>(g, layout, q, grad.view(), input.view(), ones.data(),
                                      grad_basis.data());
  CHECK(output.gaps_untouched() && grad_input.gaps_untouched(), "malformed pattern");
}

// All lists garbage, or one word of a good pattern.
void damage(Pattern* pattern, bool all, Random& random) {
  std::vector<int32_t>& words = pattern->packed;
  const size_t first = kPatternHeader;
  if (!all) words[first + random() % (words.size() - first)] = garbage(random);
  for (size_t i = first; i < words.size() && all; ++i) words[i] = garbage(random);
}

void test_malformed_patterns() {
  Random random(4);
  const ConvGeometry geometries[] = {{2, 4, 5, 4, 6, 2, 3, 2, 1, 1, 1, 1, 2, 2},
                                     {1, 3, 4, 4, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1}};
  for (int64_t round = 0; round < 200; ++round) {
    const ConvGeometry& g = geometries[round % 2];
    const Problem problem(g, random);
    const Shape w = weight_shape(g);
    const bool per_output = random() % 2 == 0;
    const int64_t channels = per_output ? g.out_channels : g.in_channels;
    const BasisLayout layout{random() % 2 == 0 ? 1 : channels, 3, per_output};
    Pattern sparse = random_pattern(random, w.batch, w.channels, g.taps(), .5);
    Pattern mix = random_pattern(random, w.batch, w.channels, layout.elements, .7);
    damage(&sparse, round % 4 < 2, random);
    damage(&mix, round % 4 < 2, random);
    run_everything(g, problem, sparse, mix, layout);
  }
}

}  // namespace
}  // namespace fbconv::test

int main() {
  fbconv::test::check_all<float>(fbconv::test::HostEngine());
  fbconv::test::check_all<double>(fbconv::test::HostEngine());
  fbconv::test::test_chunks();
  fbconv::test::test_many_rows();
  fbconv::test::test_entry_outside_its_row();
  fbconv::test::test_malformed_patterns();
  return fbconv::test::verdict();
}
