// What was derived from a pattern and a geometry, kept between calls and found by content: a
// pattern that comes back in another tensor finds its plan, one that was changed in place does not.
#pragma once

#include <memory>

#include "plan_store.h"

namespace fbconv {

// The plans of one kind.  Plan::bytes() says how many its members point to.
template <typename Plan>
class PlanCache {
 public:
  // The plan of that key, or what `make` fills a new one with.
  template <typename Make>
  std::shared_ptr<const Plan> get(const PlanKey& key, const Make& make) {
    if (key.content.known()) {
      if (auto found = PlanStore::shared().find(this, key)) {
        return std::static_pointer_cast<const Plan>(found);
      }
    }
    const auto plan = std::make_shared<Plan>();
    make(plan.get());
    if (key.content.known()) {
      const int64_t bytes = static_cast<int64_t>(sizeof(Plan)) + plan->bytes();
      PlanStore::shared().keep(this, key, plan, bytes);
    }
    return plan;
  }
};

}  // namespace fbconv
