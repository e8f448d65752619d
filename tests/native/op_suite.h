// Every operator of an engine against the oracle, over geometries, densities and memory layouts.
//
// An Engine has the functions of csrc/cpu/ops.h without the last argument.
#pragma once

#include <limits>

#include "../../csrc/cpu/ops.h"
#include "fixture.h"

namespace fbconv::test {

template <typename T>
std::vector<T> unwritten(int64_t count) {
  return std::vector<T>(count, std::numeric_limits<T>::quiet_NaN());
}

template <typename T>
Dense widen(const std::vector<T>& values) {
  return Dense(values.begin(), values.end());
}

// The tensors of one convolution, and the magnitudes that bound the rounding of its results.
struct Problem {
  ConvGeometry g;
  Dense input, grad, bias;

  Problem(const ConvGeometry& geometry, Random& random)
      : g(geometry),
        input(random_dense(random, input_shape(g).count())),
        grad(random_dense(random, output_shape(g).count())),
        bias(random_dense(random, g.out_channels)) {}
};

template <typename T>
void check_map(const Map<T>& got, const Dense& expected, const Dense& scale,
               const std::string& what) {
  check_close<T>(got.dense(), expected, scale, what);
  CHECK(got.gaps_untouched(), what);
}

template <typename T, typename Engine>
void check_sparse(const Engine& engine, const Problem& t, const Pattern& pattern, Layout layout,
                  Random& random, const std::string& what) {
  const Dense values = random_dense(random, pattern.nnz()), weight = pattern.scatter(values);
  const std::vector<T> v = cast<T>(values), b = cast<T>(t.bias);
  const Map<T> input(input_shape(t.g), layout, t.input), grad(output_shape(t.g), layout, t.grad);
  const PatternView p = pattern.view();

  for (const bool with_bias : {false, true}) {
    const Dense bias = with_bias ? t.bias : Dense();
    Map<T> output(output_shape(t.g), layout);
    engine.template sparse_conv2d<T>(t.g, p, input.view(), v.data(), with_bias ? b.data() : nullptr,
                                     output.view());
    check_map(output, naive_output(t.g, t.input, weight, bias),
              naive_output(t.g, absolute(t.input), absolute(weight), absolute(bias)),
              what + " forward");
  }
  Map<T> grad_input(input_shape(t.g), layout);
  engine.template sparse_conv2d_grad_input<T>(t.g, p, grad.view(), v.data(), grad_input.view());
  check_map(grad_input, naive_input_grad(t.g, t.grad, weight),
            naive_input_grad(t.g, absolute(t.grad), absolute(weight)), what + " grad input");

  std::vector<T> grad_values = unwritten<T>(pattern.nnz());
  engine.template sparse_conv2d_grad_values<T>(t.g, p, grad.view(), input.view(),
                                               grad_values.data());
  check_close<T>(widen(grad_values), pattern.gather(naive_weight_grad(t.g, t.grad, t.input)),
                 pattern.gather(naive_weight_grad(t.g, absolute(t.grad), absolute(t.input))),
                 what + " grad values");
}

template <typename T, typename Engine>
void check_embedding(const Engine& engine, const Pattern& pattern, Random& random,
                     const std::string& what) {
  const int64_t count = pattern.rows * pattern.channels * pattern.taps;
  const Dense values = random_dense(random, pattern.nnz()), frozen = random_dense(random, count);
  const std::vector<T> v = cast<T>(values), f = cast<T>(frozen);
  for (const bool with_frozen : {false, true}) {
    Dense expected = pattern.scatter(values);
    for (int64_t i = 0; i < count && with_frozen; ++i) {
      if (!pattern.mask[i]) expected[i] = frozen[i];
    }
    std::vector<T> dense = unwritten<T>(count);
    engine.template embed<T>(pattern.view(), v.data(), with_frozen ? f.data() : nullptr,
                             dense.data());
    check_close<T>(widen(dense), expected, Dense(count), what + " embed");
  }
  std::vector<T> gathered = unwritten<T>(pattern.nnz());
  engine.template gather_values<T>(pattern.view(), f.data(), gathered.data());
  check_close<T>(widen(gathered), pattern.gather(frozen), Dense(pattern.nnz()), what + " gather");
}

// The coefficients and bases of a filter-basis layer with what they compose to.
struct BasisProblem {
  NaiveBasis layout;
  Dense values, basis, coefficients, weight, weight_scale;

  BasisProblem(const ConvGeometry& g, const NaiveBasis& given, const Pattern& pattern,
               Random& random)
      : layout(given),
        values(random_dense(random, pattern.nnz())),
        basis(random_dense(random, layout.bases * layout.elements * g.taps())),
        coefficients(pattern.scatter(values)),
        weight(layout.compose(g, coefficients, basis)),
        weight_scale(layout.compose(g, absolute(coefficients), absolute(basis))) {}

  Dense coefficient_grad(const ConvGeometry& g, const Dense& weight_grad, const Dense& with) const {
    Dense result(coefficients.size());
    layout.for_each_product(
        g, [&](int64_t w, int64_t c, int64_t b) { result[c] += weight_grad[w] * with[b]; });
    return result;
  }
  Dense basis_grad(const ConvGeometry& g, const Dense& weight_grad, const Dense& with) const {
    Dense result(basis.size());
    layout.for_each_product(
        g, [&](int64_t w, int64_t c, int64_t b) { result[b] += weight_grad[w] * with[c]; });
    return result;
  }
};

template <typename T, typename Engine>
void check_basis_maps(const Engine& engine, const Problem& t, const BasisProblem& s,
                      const Pattern& pattern, Layout layout, const std::string& what) {
  const std::vector<T> v = cast<T>(s.values), f = cast<T>(s.basis), b = cast<T>(t.bias);
  const BasisLayout bases{s.layout.bases, s.layout.elements, s.layout.per_output};
  const Map<T> input(input_shape(t.g), layout, t.input), grad(output_shape(t.g), layout, t.grad);
  const PatternView p = pattern.view();
  for (const MixOrder order : {MixOrder::kBasisFirst, MixOrder::kMixFirst}) {
    for (const bool with_bias : {false, true}) {
      const Dense bias = with_bias ? t.bias : Dense();
      Map<T> output(output_shape(t.g), layout);
      engine.template fb_conv2d<T>(t.g, bases, order, p, input.view(), f.data(), v.data(),
                                   with_bias ? b.data() : nullptr, output.view());
      check_map(output, naive_output(t.g, t.input, s.weight, bias),
                naive_output(t.g, absolute(t.input), s.weight_scale, absolute(bias)),
                what + (order == MixOrder::kMixFirst ? " mix first" : " basis first"));
    }
  }
  Map<T> grad_input(input_shape(t.g), layout);
  engine.template fb_conv2d_grad_input<T>(t.g, bases, p, grad.view(), f.data(), v.data(),
                                          grad_input.view());
  check_map(grad_input, naive_input_grad(t.g, t.grad, s.weight),
            naive_input_grad(t.g, absolute(t.grad), s.weight_scale), what + " grad input");
}

template <typename T, typename Engine>
void check_basis_params(const Engine& engine, const Problem& t, const BasisProblem& s,
                        const Pattern& pattern, Layout layout, const std::string& what) {
  const std::vector<T> v = cast<T>(s.values), f = cast<T>(s.basis);
  const BasisLayout bases{s.layout.bases, s.layout.elements, s.layout.per_output};
  const Map<T> input(input_shape(t.g), layout, t.input), grad(output_shape(t.g), layout, t.grad);
  const Dense weight_grad = naive_weight_grad(t.g, t.grad, t.input);
  const Dense scale = naive_weight_grad(t.g, absolute(t.grad), absolute(t.input));
  const PatternView p = pattern.view();

  std::vector<T> grad_values = unwritten<T>(pattern.nnz());
  engine.template fb_conv2d_grad_values<T>(t.g, bases, p, grad.view(), input.view(), f.data(),
                                           grad_values.data());
  check_close<T>(widen(grad_values), pattern.gather(s.coefficient_grad(t.g, weight_grad, s.basis)),
                 pattern.gather(s.coefficient_grad(t.g, scale, absolute(s.basis))),
                 what + " grad values");

  std::vector<T> grad_basis = unwritten<T>(s.basis.size());
  engine.template fb_conv2d_grad_basis<T>(t.g, bases, p, grad.view(), input.view(), v.data(),
                                          grad_basis.data());
  check_close<T>(widen(grad_basis), s.basis_grad(t.g, weight_grad, s.coefficients),
                 s.basis_grad(t.g, scale, absolute(s.coefficients)), what + " grad basis");
}

// One basis for all, several per input and per output channel blocks, fewer and more elements than
// taps.
inline std::vector<NaiveBasis> basis_layouts(const ConvGeometry& g) {
  const int64_t taps = g.taps();
  std::vector<NaiveBasis> layouts{{1, taps, false}, {1, taps + 2, true}, {1, 1, false}};
  layouts.push_back({g.in_channels, 3, false});
  layouts.push_back({g.out_channels, 2, true});
  if (g.in_channels % 2 == 0) layouts.push_back({g.in_channels / 2, 3, false});
  if (g.out_channels % 2 == 0) layouts.push_back({g.out_channels / 2, taps, true});
  return layouts;
}

template <typename T, typename Engine>
void check_all(const Engine& engine) {
  Random random(20);
  for (const Case& c : conv_cases()) {
    const Problem problem(c.geometry, random);
    const Shape w = weight_shape(c.geometry);
    for (const double density : {0., .15, .6, 1.}) {
      const std::string what = std::string(c.name) + ", density " + std::to_string(density);
      const Pattern pattern =
          random_pattern(random, w.batch, w.channels, w.rows * w.columns, density);
      check_embedding<T>(engine, pattern, random, what);
      for (const Layout layout : kLayouts) {
        check_sparse<T>(engine, problem, pattern, layout, random, what);
      }
      for (const NaiveBasis& bases : basis_layouts(c.geometry)) {
        const Pattern mix = random_pattern(random, w.batch, w.channels, bases.elements, density);
        const BasisProblem sides(c.geometry, bases, mix, random);
        const std::string which = what + ", " + std::to_string(bases.bases) + " bases";
        const Layout layout = kLayouts[random() % 3];
        check_basis_maps<T>(engine, problem, sides, mix, layout, which);
        check_basis_params<T>(engine, problem, sides, mix, layout, which);
      }
    }
  }
}

}  // namespace fbconv::test
