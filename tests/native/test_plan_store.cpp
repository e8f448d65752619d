// Plans of all kinds under one limit: who stays, who goes, and when.
#include <string>
#include <vector>

#include "check.h"
#include "cpu/plan_store.h"

namespace fbconv::test {
namespace {

constexpr int64_t kPlanBytes = 1 << 20;
constexpr int kKind = 0, kOther = 0;

PlanKey key(uint64_t content) {
  PlanKey key{};
  key.content = {content, content};
  return key;
}

void keep(PlanStore* store, uint64_t content, const void* kind = &kKind) {
  store->keep(kind, key(content), std::make_shared<uint64_t>(content), kPlanBytes);
}

bool has(PlanStore* store, uint64_t content, const void* kind = &kKind) {
  const auto found = store->find(kind, key(content));
  return found != nullptr && *static_cast<const uint64_t*>(found.get()) == content;
}

// Room for three plans at rest and for six at work, of those that were used in 10 lookups.
PlanStore::Limits small() { return {7 * kPlanBytes / 2, 13 * kPlanBytes / 2, 10, 100}; }

void test_kinds_do_not_mix() {
  PlanStore store(small());
  keep(&store, 1, &kKind);
  CHECK(has(&store, 1, &kKind) && !has(&store, 1, &kOther), "a plan of one kind");
}

void test_a_plan_is_kept_once() {
  PlanStore store(small());
  keep(&store, 1);
  keep(&store, 1);
  CHECK(store.plans() == 1 && store.bytes() < 2 * kPlanBytes, "made by two threads");
}

void test_idle_plans_go() {
  PlanStore store(small());
  for (uint64_t content = 1; content <= 3; ++content) keep(&store, content);
  for (int i = 0; i < 20; ++i) CHECK(has(&store, 2), "in use");
  keep(&store, 4);
  CHECK(!has(&store, 1), "the longest idle");
  CHECK(has(&store, 2) && has(&store, 3) && has(&store, 4), "what there is room for");
}

void test_a_large_network_stays() {
  PlanStore store(small());
  for (uint64_t content = 1; content <= 6; ++content) keep(&store, content);
  for (int step = 0; step < 5; ++step) {
    for (uint64_t content = 1; content <= 6; ++content) CHECK(has(&store, content), "in each step");
  }
  keep(&store, 7);
  CHECK(store.plans() == 6 && !has(&store, 1), "the limit of all");
}

void test_small_plans_are_counted() {
  PlanStore store({kPlanBytes, kPlanBytes, 10, 100});
  for (uint64_t content = 1; content <= 300; ++content) {
    store.keep(&kKind, key(content), std::make_shared<uint64_t>(content), 0);
  }
  CHECK(store.plans() == 100 && store.bytes() > 0, std::to_string(store.plans()));
}

void test_a_plan_in_use_outlives_its_place() {
  PlanStore store({kPlanBytes, kPlanBytes, 10, 100});
  keep(&store, 1);
  const auto used = store.find(&kKind, key(1));
  keep(&store, 2);
  CHECK(!has(&store, 1) && *static_cast<const uint64_t*>(used.get()) == 1, "dropped in between");
}

}  // namespace
}  // namespace fbconv::test

int main() {
  fbconv::test::test_kinds_do_not_mix();
  fbconv::test::test_a_plan_is_kept_once();
  fbconv::test::test_idle_plans_go();
  fbconv::test::test_a_large_network_stays();
  fbconv::test::test_small_plans_are_counted();
  fbconv::test::test_a_plan_in_use_outlives_its_place();
  return fbconv::test::verdict();
}
