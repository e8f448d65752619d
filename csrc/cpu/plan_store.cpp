#include "plan_store.h"

#include <utility>

#include "../core/fork.h"

namespace fbconv {

PlanStore& PlanStore::shared() {
  // Never destroyed: threads may still run kernels while the process ends.
  static PlanStore& store = *[] {
    hold_over_forks<shared_mutex>();
    return new PlanStore(Limits{});
  }();
  return store;
}

std::mutex& PlanStore::shared_mutex() { return shared().mutex_; }

std::shared_ptr<const void> PlanStore::find(const void* kind, const PlanKey& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++lookups_;
  const auto found = places_.find({kind, key});
  if (found == places_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found->second);
  found->second->used = lookups_;
  return found->second->plan;
}

void PlanStore::keep(const void* kind, const PlanKey& key, std::shared_ptr<const void> plan,
                     int64_t bytes) {
  std::list<Kept> dropped;  // destroyed without the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  const Name name{kind, key};
  if (places_.count(name) != 0) return;
  bytes += static_cast<int64_t>(sizeof(Kept) + sizeof(Name));
  kept_.push_front({name, std::move(plan), bytes, lookups_});
  places_.emplace(name, kept_.begin());
  bytes_ += bytes;
  while (kept_.size() > 1 && is_too_much(kept_.back())) {
    bytes_ -= kept_.back().bytes;
    places_.erase(kept_.back().name);
    dropped.splice(dropped.begin(), kept_, std::prev(kept_.end()));
  }
}

bool PlanStore::is_too_much(const Kept& oldest) const {
  if (bytes_ > limits_.bytes || kept_.size() > limits_.plans) return true;
  return bytes_ > limits_.idle_bytes && lookups_ - oldest.used > limits_.lookups;
}

int64_t PlanStore::bytes() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return bytes_;
}

size_t PlanStore::plans() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return kept_.size();
}

size_t PlanStore::Hash::operator()(const Name& name) const {
  const PlanKey& key = name.key;
  size_t hash = reinterpret_cast<size_t>(name.kind);
  for (const int64_t part :
       {key.geometry.batch, key.geometry.in_h, key.geometry.in_w, key.threads, key.element_size}) {
    hash = hash * 31 + static_cast<size_t>(part);
  }
  return hash ^ static_cast<size_t>(key.content.low);
}

}  // namespace fbconv
