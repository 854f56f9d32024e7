// The far window over the real transport on loopback, bartenderd as a child, and beside zram.
#include "far_real.hpp"

#include "far_tcp.hpp"
#include "far_window.hpp"
#include "far_zram.hpp"

namespace bench {
namespace {

// The same bytes over the raw link.
double take_all(RawLink& raw, char* to, uint64_t extents) {
  const uint64_t start = now_ns();
  uint64_t asked = 0;
  for (; asked < btd::kNodeDepth; asked++) raw.ask(kFarExtentBytes);
  for (uint64_t taken = 0; taken < extents; taken++) {
    raw.take(to + taken % btd::kNodeDepth * kFarExtentBytes, kFarExtentBytes);
    if (asked++ < extents) raw.ask(kFarExtentBytes);
  }
  return 1000.0 * static_cast<double>(extents * kFarExtentBytes) /
         static_cast<double>(now_ns() - start);
}

// Bare demand over the raw link, in units; MB/s.
double demand(RawLink& raw, uint64_t unit, uint64_t count) {
  Bare bare((count + 1) * unit, unit, [&raw](char* to, uint64_t bytes) {
    raw.ask(static_cast<uint32_t>(bytes));
    raw.take(to, bytes);
  });
  const uint64_t start = now_ns();
  for (uint64_t i = 0; i < count; i++) *static_cast<volatile char*>(bare.base + i * unit);
  return 1000.0 * static_cast<double>(count * unit) / static_cast<double>(now_ns() - start);
}

}  // namespace

void far_tcp(const FarPlan& plan, const char* program) {
  const uint64_t extents = plan.extents;
  auto* times = own_table<uint64_t>(extents);
  auto* buffers = own_table<char>(btd::kNodeDepth * kFarExtentBytes);
  TcpNode node(program, plan.directory, 2 * extents, plan.handler_count);
  RawLink raw;
  Window window(node, plan.directory, extents, true);
  for (uint64_t round = 0; round < plan.rounds; round++) {
    window.spill_all();
    const double raw_rate = take_all(raw, buffers, extents);
    const double transport_rate = read_all(node.ours(), extents, nullptr);
    double bare_rate;
    {
      Bare bare(extents * kFarExtentBytes, kFarExtentBytes);
      bare_rate = read_all(node.ours(), extents, &bare);
    }
    const double demand_rate = demand(raw, 4096, 4 * extents);
    window.far.pager().may_prefetch = true;
    window.set_near(2 * extents);
    const double far_rate = read_in_order(window.far.base(), extents * kFarExtentBytes);
    window.far.pager().may_prefetch = false;

    const Touches touches(window, node.ours(), times, round);
    std::printf(
        "{\"test\":\"far tcp\",\"round\":%lu,\"raw_mb_s\":%.0f,\"transport_mb_s\":%.0f,"
        "\"bare_mb_s\":%.0f,\"far_mb_s\":%.0f,\"demand_4k_mb_s\":%.0f,\"of_raw\":%.3f,"
        "\"of_transport\":%.3f,\"of_bare\":%.3f,\"over_demand\":%.1f,",
        round, raw_rate, transport_rate, bare_rate, far_rate, demand_rate, far_rate / raw_rate,
        far_rate / transport_rate, far_rate / bare_rate, far_rate / demand_rate);
    touches.print();
    std::puts("}");
    std::fflush(stdout);
  }
  munmap(times, extents * sizeof(uint64_t));
  munmap(buffers, btd::kNodeDepth * kFarExtentBytes);
}

// What a program feels of either: one page of every 64 KiB in random order, and all in order.
void far_zram(const FarPlan& plan, const char* program) {
  const uint64_t extents = plan.extents;
  const uint64_t bytes = extents * kFarExtentBytes;
  auto* times = own_table<uint64_t>(extents);
  ZramSwap swap(2 * bytes);
  TcpNode node(program, plan.directory, 2 * extents, plan.handler_count);
  Window window(node, plan.directory, extents, true);
  window.spill_all();
  for (uint64_t round = 0; round < plan.rounds; round++) {
    const uint64_t far_p50 = touch_far(window, times, round);
    window.drain();
    window.set_near(2 * extents);
    window.far.pager().may_prefetch = true;
    const double far_rate = read_in_order(window.far.base(), bytes);
    window.far.pager().may_prefetch = false;

    Swappable memory(bytes);
    const uint64_t start = now_ns();
    memory.push_out();
    const uint64_t out_ns = now_ns() - start;
    touch_all(memory.base, kFarExtentBytes, extents, times, round);
    const uint64_t zram_p50 = percentile(times, extents, 50);
    memory.push_out();
    const double zram_rate = read_in_order(memory.base, bytes);
    std::printf(
        "{\"test\":\"far zram\",\"round\":%lu,\"far_touch_ns\":%lu,\"zram_touch_ns\":%lu,"
        "\"far_mb_s\":%.0f,\"zram_mb_s\":%.0f,\"zram_out_us\":%.2f,\"touch_ratio\":%.3f,"
        "\"in_order_ratio\":%.3f}\n",
        round, far_p50, zram_p50, far_rate, zram_rate,
        static_cast<double>(out_ns) / 1000.0 / static_cast<double>(extents),
        static_cast<double>(far_p50) / static_cast<double>(zram_p50), far_rate / zram_rate);
    std::fflush(stdout);
  }
  munmap(times, extents * sizeof(uint64_t));
}

}  // namespace bench
