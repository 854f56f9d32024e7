#include "core/gc/tracers.hpp"

#include <cstring>

namespace btd {

Error Tracers::set(const char* name, GcTracer tracer) {
  size_t length = ::strnlen(name, kRootNameMax + 1);
  if (length == 0) return Error::kInvalid;
  if (length > kRootNameMax) return Error::kTooLong;
  char padded[kRootNameMax + 1] = {};
  std::memcpy(padded, name, length);
  LockGuard guard(lock_);
  Entry* place = nullptr;
  for (Entry& entry : entries_) {
    bool is_used = entry.tracer.trace != nullptr;
    if (is_used && std::memcmp(entry.name, padded, sizeof(padded)) == 0) {
      entry.tracer = tracer;
      return Error::kNone;
    }
    if (!is_used && place == nullptr) place = &entry;
  }
  if (tracer.trace == nullptr) return Error::kNone;
  if (place == nullptr) return Error::kNoSpace;
  std::memcpy(place->name, padded, sizeof(padded));
  place->tracer = tracer;
  return Error::kNone;
}

const GcTracer* Tracers::of(const char (&name)[kRootNameMax + 1]) const {
  LockGuard guard(lock_);
  for (const Entry& entry : entries_) {
    if (entry.tracer.trace != nullptr && std::memcmp(entry.name, name, sizeof(name)) == 0)
      return &entry.tracer;
  }
  return nullptr;
}

}  // namespace btd
