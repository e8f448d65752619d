// Values into a dense weight and out of it.
#pragma once

#include "common.h"

namespace fbconv::op {

template <typename Backend>
Tensor embed(Tensor values, std::optional<Tensor> frozen, Tensor pattern, Ints shape) {
  const char* op = "embed";
  check_floating(op, "values", values);
  PatternView p = check_pattern(op, pattern, values, "values", shape);
  check_values(op, values, p);
  if (frozen.has_value()) {
    check_like(op, "frozen", *frozen, "values", values);
    check_shape(op, "frozen", *frozen, shape);
  }
  Backend backend(values);
  backend.check_indices(op, pattern, PatternHalf::kForward, &p);
  const Tensor v = as_contiguous(op, computable(op, values));
  std::optional<Tensor> f;
  if (frozen.has_value()) f = as_contiguous(op, computable(op, *frozen));
  Tensor out = new_tensor(op, v, shape, v.scalar_type());
  with_type(op, v, [&](auto zero) {
    using T = decltype(zero);
    backend.template embed<T>(p, data_of<T>(v), data_of<T>(f), mutable_data_of<T>(out));
  });
  return as_dtype(op, out, values.scalar_type());
}

template <typename Backend>
Tensor gather(Tensor dense, Tensor pattern) {
  const char* op = "gather";
  check_floating(op, "dense", dense);
  PatternView p = check_pattern(op, pattern, dense, "dense", sizes_of(dense));
  Backend backend(dense);
  backend.check_indices(op, pattern, PatternHalf::kForward, &p);
  const Tensor d = as_contiguous(op, computable(op, dense));
  Tensor out = new_tensor(op, d, {p.nnz}, d.scalar_type());
  with_type(op, d, [&](auto zero) {
    using T = decltype(zero);
    backend.template gather_values<T>(p, data_of<T>(d), mutable_data_of<T>(out));
  });
  return as_dtype(op, out, dense.scalar_type());
}

}  // namespace fbconv::op
