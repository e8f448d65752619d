// Walking a pattern's lists in a kernel: runs of entries clamped to [0, nnz), entries tested.
#pragma once

#include "device.cuh"

namespace fbconv {

struct Run {
  int32_t begin, end;
};

FBCONV_HD inline Run clamped_run(int32_t begin, int32_t end, int64_t nnz) {
  return {begin < 0 ? 0 : begin, end > nnz ? static_cast<int32_t>(nnz) : end};
}

FBCONV_HD inline Run row_run(const PatternView& p, int64_t row) {
  return clamped_run(p.row_ptr[row], p.row_ptr[row + 1], p.nnz);
}

// The first entry of a rising run that is not below `key`; somewhere in the run if it does not
// rise.
FBCONV_HD inline int32_t lower_bound(const int32_t* index, Run run, int64_t key) {
  while (run.begin < run.end) {
    const int32_t middle = run.begin + (run.end - run.begin) / 2;
    if (index[middle] < key) {
      run.begin = middle + 1;
    } else {
      run.end = middle;
    }
  }
  return run.begin;
}

// The entries of `run` whose index lies in [low, high).
FBCONV_HD inline Run between(const int32_t* index, Run run, int64_t low, int64_t high) {
  const int32_t begin = lower_bound(index, run, low);
  return {begin, lower_bound(index, {begin, run.end}, high)};
}

// Entry k of a row: which of the group's input channels and which tap or basis element.
struct RowEntry {
  int64_t channel;
  int32_t tap;
  bool valid;
};

FBCONV_HD inline RowEntry row_entry(const PatternView& p, int32_t k) {
  const int32_t index = p.index[k], taps = static_cast<int32_t>(p.taps);
  if (index < 0 || index >= p.channels * p.taps) return {0, 0, false};
  const int32_t channel = index / taps;
  return {channel, index - channel * taps, true};
}

// The first input channel of the group that output channel `row` belongs to.
FBCONV_HD inline int64_t group_base(const DeviceConv& c, int64_t row) {
  return row / c.group_outputs * c.group_inputs;
}

// The transposed entries of input channel `channel`: those of its group's rows.
FBCONV_HD inline Run channel_run(const DeviceConv& c, const PatternView& p, int64_t channel) {
  const int64_t group = channel / c.group_inputs, local = channel - group * c.group_inputs;
  const Run all = clamped_run(p.channel_ptr[local], p.channel_ptr[local + 1], p.nnz);
  if (c.group_outputs == c.out_channels) return all;
  const int64_t group_words = c.group_outputs * p.taps;
  return between(p.t_index, all, group * group_words, (group + 1) * group_words);
}

struct ChannelEntry {
  int64_t row;
  int32_t tap, value;
  bool valid;
};

FBCONV_HD inline ChannelEntry channel_entry(const PatternView& p, int32_t i) {
  const int32_t index = p.t_index[i], value = p.t_value[i], taps = static_cast<int32_t>(p.taps);
  if (index < 0 || index >= p.rows * p.taps || value < 0 || value >= p.nnz) return {0, 0, 0, false};
  const int32_t row = index / taps;
  return {row, index - row * taps, value, true};
}

// The row that entry k belongs to.
FBCONV_HD inline int64_t row_of(const PatternView& p, int32_t k) {
  int64_t low = 0, high = p.rows - 1;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (p.row_ptr[middle + 1] > k) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace fbconv
