// A grid is walked in steps of R lines by C vectors, few enough for their sums to stay in
// registers.

template <int R, int C>
struct Step {
  static constexpr int kLines = R, kVectors = C;
};

// A number of rows that are computed together.
template <int G>
struct Group {
  static constexpr int value = G;
};

// Calls f(Step<R, C>{}, line, vector) for steps of up to kMost vectors that cover all lines of C
// vectors from `vector` on.
template <int kMost, int R, int C, typename F>
inline int64_t for_steps_of(int64_t line, int64_t lines, int64_t vector, const F& f) {
  if constexpr (R * C <= kMost) {
    for (; line + R <= lines; line += R) f(Step<R, C>{}, line, vector);
  }
  return line;
}

template <int kMost, int C, typename F>
inline void for_lines(int64_t lines, int64_t vector, const F& f) {
  if constexpr (C <= kMost) {
    int64_t line = for_steps_of<kMost, 8, C>(0, lines, vector, f);
    line = for_steps_of<kMost, 4, C>(line, lines, vector, f);
    line = for_steps_of<kMost, 2, C>(line, lines, vector, f);
    for_steps_of<kMost, 1, C>(line, lines, vector, f);
  }
}

template <int kMost, typename F>
inline void for_steps(int64_t lines, int64_t count, const F& f) {
  // Of almost equal width: a last one of a single vector would wait for its own additions.
  const int64_t chunks = (count + kMost - 1) / kMost;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = count * chunk / chunks, end = count * (chunk + 1) / chunks;
    switch (end - begin) {
      case 1:
        for_lines<kMost, 1>(lines, begin, f);
        break;
      case 2:
        for_lines<kMost, 2>(lines, begin, f);
        break;
      case 3:
        for_lines<kMost, 3>(lines, begin, f);
        break;
      case 4:
        for_lines<kMost, 4>(lines, begin, f);
        break;
      case 5:
        for_lines<kMost, 5>(lines, begin, f);
        break;
      case 6:
        for_lines<kMost, 6>(lines, begin, f);
        break;
      case 7:
        for_lines<kMost, 7>(lines, begin, f);
        break;
      default:
        for_lines<kMost, 8>(lines, begin, f);
        break;
    }
  }
}
