// A grid is walked in steps of R lines by C vectors, up to kStepVectors of them: as many sums as
// fit the registers of every instruction set beside what they are computed from.

constexpr int64_t kStepVectors = 8;

template <int R, int C>
struct Step {
  static constexpr int kLines = R, kVectors = C;
};

// Calls f(Step<R, C>{}, line, vector) for steps that cover lines x count vectors.
template <int C, typename F>
inline void for_lines(int64_t lines, int64_t vector, const F& f) {
  int64_t line = 0;
  if constexpr (C == 1) {
    for (; line + 8 <= lines; line += 8) f(Step<8, C>{}, line, vector);
  }
  if constexpr (C <= 2) {
    for (; line + 4 <= lines; line += 4) f(Step<4, C>{}, line, vector);
  }
  if constexpr (C <= 4) {
    for (; line + 2 <= lines; line += 2) f(Step<2, C>{}, line, vector);
  }
  for (; line < lines; ++line) f(Step<1, C>{}, line, vector);
}

template <typename F>
inline void for_steps(int64_t lines, int64_t count, const F& f) {
  // Of almost equal width: a last one of a single vector would wait for its own additions.
  const int64_t chunks = (count + kStepVectors - 1) / kStepVectors;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = count * chunk / chunks, end = count * (chunk + 1) / chunks;
    switch (end - begin) {
      case 1:
        for_lines<1>(lines, begin, f);
        break;
      case 2:
        for_lines<2>(lines, begin, f);
        break;
      case 3:
        for_lines<3>(lines, begin, f);
        break;
      case 4:
        for_lines<4>(lines, begin, f);
        break;
      case 5:
        for_lines<5>(lines, begin, f);
        break;
      case 6:
        for_lines<6>(lines, begin, f);
        break;
      case 7:
        for_lines<7>(lines, begin, f);
        break;
      default:
        for_lines<8>(lines, begin, f);
        break;
    }
  }
}
