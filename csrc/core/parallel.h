// Threads without torch: the binding passes torch's pool, native tests a serial loop.
#pragma once

#include <cstdint>

namespace fbconv {

struct Parallel {
  int64_t threads;
  // Calls body(context, task) once for each task in [0, tasks), from any threads, and waits.
  void (*run)(int64_t tasks, void (*body)(void* context, int64_t task), void* context);

  template <typename F>
  void for_each(int64_t tasks, const F& body) const {
    run(
        tasks, [](void* context, int64_t task) { (*static_cast<const F*>(context))(task); },
        const_cast<F*>(&body));
  }
};

}  // namespace fbconv
