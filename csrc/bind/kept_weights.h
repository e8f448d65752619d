// Dense weights that outlive a call: what they were made of, and the tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "checks.h"

namespace fbconv {

struct KeptWeight {
  Ints state;                  // all that the weight depends on, as numbers
  Tensor weight;               // shared by calls: nobody may write to it
  std::vector<Tensor> sources; // known by their address, which is theirs while they are held here
};

// One weight for each owner, the address of the values that it was made of.  How many there are,
// and when an owner is gone, is for Python to say (_dense_weights.py).
class KeptWeights {
 public:
  std::optional<Tensor> find(uintptr_t owner, const Ints& state) const;
  void keep(uintptr_t owner, KeptWeight kept);
  void forget(uintptr_t owner);
  std::mutex& mutex() { return mutex_; }

 private:
  // Tensors die after the lock was given back: that can take Python's, which waits for this one.
  using Entry = std::shared_ptr<const KeptWeight>;
  Entry exchange(uintptr_t owner, Entry entry);

  mutable std::mutex mutex_;
  std::unordered_map<uintptr_t, Entry> kept_;
};

KeptWeights& kept_weights();

}  // namespace fbconv
