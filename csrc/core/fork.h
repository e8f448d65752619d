// Locks that outlive a fork: a child would else wait for ever for one that a thread held which is
// not there any more.
#pragma once

#include <mutex>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define FBCONV_HAS_FORK
#endif

namespace fbconv {

// To be called once for a lock; `mutex_of` finds it as long as the process lives.
template <std::mutex& (*mutex_of)()>
bool hold_over_forks() {
#ifdef FBCONV_HAS_FORK
  const auto unlock = [] { mutex_of().unlock(); };
  return pthread_atfork([] { mutex_of().lock(); }, unlock, unlock) == 0;
#else
  return true;
#endif
}

}  // namespace fbconv
