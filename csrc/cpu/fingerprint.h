// What plans, and weights made of values, are found by.
#pragma once

#include "../core/pattern.h"

namespace fbconv {

// Of the shape, the header and the words of one half: equal ones have equal fingerprints, different
// ones differ for all practical purposes.  Reads as fast as the caches deliver, so that what was
// derived from a pattern can be looked up by its content in every call.
Fingerprint fingerprint(const PatternView& pattern, PatternHalf half);

// Of the bytes of an array.
Fingerprint fingerprint(const void* data, int64_t bytes);

}  // namespace fbconv
