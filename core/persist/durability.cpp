#include "core/persist/durability.hpp"

#include "core/base/log.hpp"
#include "core/persist/flush_speed.hpp"
#include "core/persist/msync.hpp"
#include "core/persist/pmem.hpp"

namespace btd {
namespace {

Persist& persist_of(PersistKind kind) {
  switch (kind) {
    case PersistKind::kFlush:
      return *pmem_persist();
    case PersistKind::kEadr:
      return eadr_persist();
    case PersistKind::kMsync:
      return msync_persist();
    default:
      return process_persist();
  }
}

void tell(Backend backend, PersistKind kind) {
  Line line;
  if (kind == PersistKind::kMsync) line.text("durable by msync");
  if (kind == PersistKind::kEadr) line.text("durable by eADR, without flushes");
  if (kind == PersistKind::kFlush)
    line.text("durable by ").text(cpu::name_of(flush_speeds().fastest));
  if (backend == Backend::kTmpfs) line.text("; but tmpfs does not survive power loss");
  line.write(LogLevel::kInfo);
}

}  // namespace

PersistKind persist_kind(Backend backend) noexcept {
  if (backend == Backend::kFile) return PersistKind::kMsync;
  bool is_real = backend != Backend::kTmpfs;
  if (is_real && has_eadr()) return PersistKind::kEadr;
  // The kernel knows how to flush on any processor.
  return pmem_persist() != nullptr ? PersistKind::kFlush : PersistKind::kMsync;
}

Persistence choose_persist(Backend backend, Durability durability) noexcept {
  if (durability == Durability::kProcess) return {process_persist(), process_persist()};
  PersistKind kind = persist_kind(backend);
  tell(backend, kind);
  Persist& real = persist_of(kind);
  return {real, durability == Durability::kStrict ? real : process_persist()};
}

void prepare_persist(Durability durability) noexcept {
  if (durability != Durability::kProcess) load_libpmem();
}

Survival after_process_death(Backend, Durability) noexcept { return Survival::kExact; }

Survival after_power_loss(Backend backend, Durability durability) noexcept {
  if (backend == Backend::kTmpfs) return Survival::kNothing;
  switch (durability) {
    case Durability::kProcess:
      return Survival::kNotTold;
    case Durability::kLazy:
      return Survival::kReachable;
    default:
      return Survival::kExact;
  }
}

}  // namespace btd
