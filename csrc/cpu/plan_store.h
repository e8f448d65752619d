// All plans of a process, of whatever kind, under one limit: who trains many models or changes
// masks all the time leaves plans behind that nobody asks for again.
#pragma once

#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

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

class PlanStore {
 public:
  // What plans take together before those that were not used for longest go; what those that are in
  // use may take, such as a large network's in every step of its training; how many lookups make a
  // plan unused (a step of the deepest usual networks makes 600); and how many there may be, since
  // the code of each is a mapping or two, of which a process has 65,530 at most.
  struct Limits {
    int64_t idle_bytes = int64_t{256} << 20, bytes = int64_t{1} << 30;
    int64_t lookups = 1024;
    size_t plans = 8192;
  };

  explicit PlanStore(const Limits& limits) : limits_(limits) {}

  // That of the process.
  static PlanStore& shared();

  // `kind` is any address that stands for a kind of plans.  Null if there is none.
  std::shared_ptr<const void> find(const void* kind, const PlanKey& key);
  // Another thread may have kept a plan meanwhile: that one is as good, and stays.
  void keep(const void* kind, const PlanKey& key, std::shared_ptr<const void> plan, int64_t bytes);

  int64_t bytes();
  size_t plans();

 private:
  struct Name {
    const void* kind;
    PlanKey key;
    bool operator==(const Name& other) const { return kind == other.kind && key == other.key; }
  };
  struct Hash {
    size_t operator()(const Name& name) const;
  };
  struct Kept {
    Name name;
    std::shared_ptr<const void> plan;
    int64_t bytes, used;  // at which lookup
  };

  static std::mutex& shared_mutex();
  bool is_too_much(const Kept& oldest) const;

  const Limits limits_;
  std::mutex mutex_;
  std::list<Kept> kept_;  // most recently used first
  std::unordered_map<Name, std::list<Kept>::iterator, Hash> places_;
  int64_t bytes_ = 0, lookups_ = 0;
};

}  // namespace fbconv
