#include "kept_weights.h"

#include <utility>

#include "../core/fork.h"

namespace fbconv {
namespace {

std::mutex& kept_weights_mutex() { return kept_weights().mutex(); }
const bool held = hold_over_forks<kept_weights_mutex>();

}  // namespace

std::optional<Tensor> KeptWeights::find(uintptr_t owner, const Ints& state) const {
  Entry entry;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = kept_.find(owner);
    if (found != kept_.end()) entry = found->second;
  }
  if (entry == nullptr || entry->state != state) return std::nullopt;
  return entry->weight;
}

void KeptWeights::keep(uintptr_t owner, KeptWeight kept) {
  exchange(owner, std::make_shared<const KeptWeight>(std::move(kept)));
}

void KeptWeights::forget(uintptr_t owner) { exchange(owner, nullptr); }

KeptWeights::Entry KeptWeights::exchange(uintptr_t owner, Entry entry) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (entry != nullptr) {
    std::swap(kept_[owner], entry);
    return entry;
  }
  const auto found = kept_.find(owner);
  if (found != kept_.end()) {
    entry = std::move(found->second);
    kept_.erase(found);
  }
  return entry;
}

KeptWeights& kept_weights() {
  static KeptWeights& weights = *new KeptWeights;  // tensors must not die after Python
  return weights;
}

}  // namespace fbconv
