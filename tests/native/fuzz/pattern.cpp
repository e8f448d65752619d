// Any words as a packed pattern: the validator accepts the well-formed ones, and on what it accepts
// no kernel leaves its memory.
#include "../../../csrc/core/pattern.h"

#include <string>

#include "../../../csrc/cpu/ops.h"
#include "../well_formed.h"
#include "input.h"

namespace {

using namespace fbconv;

constexpr int64_t kImages = 2, kRows = 5, kColumns = 7;
constexpr Parallel kSerial{1, [](int64_t tasks, void (*body)(void*, int64_t), void* context) {
                             for (int64_t task = 0; task < tasks; ++task) body(context, task);
                           }};

// The tensors of a convolution whose weights have a pattern, and all passes on them.
class Layer {
 public:
  Layer(const ConvGeometry& g, const PatternView& p)
      : g_(g),
        p_(p),
        bases_{1, p.taps, false},
        input_(g.batch * g.in_channels * g.in_h * g.in_w, 1),
        output_(g.batch * g.out_channels * g.out_h() * g.out_w(), 1),
        values_(p.nnz, 1),
        basis_(p.taps * g.taps(), 1),
        dense_(p.rows * p.channels * p.taps, 1) {}

  void run_forward_half() {
    sparse_conv2d<float>(g_, p_, x(), values_.data(), nullptr, y(), kSerial);
    sparse_conv2d_grad_values<float>(g_, p_, read(y()), x(), values_.data(), kSerial);
    embed<float>(p_, values_.data(), nullptr, dense_.data(), kSerial);
    gather_values<float>(p_, dense_.data(), values_.data(), kSerial);
    for (const MixOrder order : {MixOrder::kBasisFirst, MixOrder::kMixFirst}) {
      fb_conv2d<float>(g_, bases_, order, p_, x(), basis_.data(), values_.data(), nullptr, y(),
                       kSerial);
    }
    fb_conv2d_grad_input<float>(g_, bases_, p_, read(y()), basis_.data(), values_.data(),
                                map(&input_, g_.in_channels, g_.in_h, g_.in_w), kSerial);
    fb_conv2d_grad_basis<float>(g_, bases_, p_, read(y()), x(), values_.data(), basis_.data(),
                                kSerial);
    fb_conv2d_grad_values<float>(g_, bases_, p_, read(y()), x(), basis_.data(), values_.data(),
                                 kSerial);
  }

  void run_transposed_half() {
    sparse_conv2d_grad_input<float>(g_, p_, read(y()), values_.data(),
                                    map(&input_, g_.in_channels, g_.in_h, g_.in_w), kSerial);
  }

 private:
  static MapView<float> map(std::vector<float>* data, int64_t channels, int64_t rows,
                            int64_t columns) {
    return {data->data(), channels * rows * columns, rows * columns, columns, 1};
  }
  static MapView<const float> read(const MapView<float>& v) {
    return {v.data, v.batch_stride, v.channel_stride, v.row_stride, v.column_stride};
  }
  MapView<const float> x() { return read(map(&input_, g_.in_channels, g_.in_h, g_.in_w)); }
  MapView<float> y() { return map(&output_, g_.out_channels, g_.out_h(), g_.out_w()); }

  ConvGeometry g_;
  PatternView p_;
  BasisLayout bases_;
  std::vector<float> input_, output_, values_, basis_, dense_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t count) {
  fuzz::Input input(data, count);
  const int64_t rows = 1 + input.number(1) % 16, channels = 1 + input.number(1) % 16;
  const int64_t kernel_h = 1 + input.number(1) % 3, kernel_w = 1 + input.number(1) % 3;
  const int64_t stride = 1 + input.number(1) % 2, taps = kernel_h * kernel_w;
  const std::vector<int32_t> words = input.words();
  const int64_t nnz = pattern_nnz(static_cast<int64_t>(words.size()), rows, channels);
  if (nnz < 0) return 0;
  const PatternView view = view_pattern(words.data(), rows, channels, taps, nnz);
  Layer layer({kImages, channels, kRows, kColumns, rows, kernel_h, kernel_w, stride, stride,
               (kernel_h - 1) / 2, (kernel_w - 1) / 2, 1, 1, 1},
              view);
  for (const PatternHalf half : {PatternHalf::kForward, PatternHalf::kTransposed}) {
    const bool accepted = pattern_error(words.data(), view, half).empty();
    fuzz::must(accepted == test::is_well_formed(words, {rows, channels, taps, nnz}, half),
               "well-formed patterns are accepted, and no others");
    if (!accepted) continue;
    half == PatternHalf::kForward ? layer.run_forward_half() : layer.run_transposed_half();
  }
  return 0;
}
