// What was derived from a pattern and a geometry, kept between calls and found by content: a
// pattern that comes back in another tensor finds its plan, one that was changed in place does not.
#pragma once

#include <cstring>
#include <list>
#include <memory>
#include <mutex>

#include "../core/geometry.h"
#include "../core/pattern.h"

namespace fbconv {

// Everything that a plan depends on.  All members are 64-bit words, so that keys compare as bytes.
struct PlanKey {
  Fingerprint content;
  ConvGeometry geometry;
  int64_t basis_elements, bases, basis_per_output;
  int64_t nnz, element_size, lanes, threads;

  bool operator==(const PlanKey& other) const {
    return std::memcmp(this, &other, sizeof(PlanKey)) == 0;
  }
};
static_assert(sizeof(PlanKey) % sizeof(int64_t) == 0);

// The most recently used plans of one kind, up to a number of bytes.  Plan::bytes() says how many
// one takes.
template <typename Plan>
class PlanCache {
 public:
  // The plan of that key, or what `make` fills a new one with.
  template <typename Make>
  std::shared_ptr<const Plan> get(const PlanKey& key, const Make& make) {
    if (key.content.known()) {
      if (std::shared_ptr<const Plan> found = find(key)) return found;
    }
    const auto plan = std::make_shared<Plan>();
    make(plan.get());
    if (key.content.known()) keep(key, plan);
    return plan;
  }

 private:
  static constexpr int64_t kBytes = int64_t{256} << 20;
  static constexpr size_t kPlans = 1024;  // found by walking the list

  struct Kept {
    PlanKey key;
    std::shared_ptr<const Plan> plan;
  };

  std::shared_ptr<const Plan> find(const PlanKey& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto i = kept_.begin(); i != kept_.end(); ++i) {
      if (!(i->key == key)) continue;
      kept_.splice(kept_.begin(), kept_, i);
      return i->plan;
    }
    return nullptr;
  }

  void keep(const PlanKey& key, std::shared_ptr<const Plan> plan) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bytes_ += plan->bytes();
    kept_.push_front({key, std::move(plan)});
    while ((bytes_ > kBytes || kept_.size() > kPlans) && kept_.size() > 1) {
      bytes_ -= kept_.back().plan->bytes();
      kept_.pop_back();
    }
  }

  std::mutex mutex_;
  std::list<Kept> kept_;
  int64_t bytes_ = 0;
};

}  // namespace fbconv
