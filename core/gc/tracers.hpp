// Precise marking: programs that tell the collector where an object's pointers are.
//
// A tracer is registered for the name of a root.  What the root points to is then shown to the
// tracer, which names each pointer in it together with the tracer of what that points to.  Objects
// that a tracer was shown are not scanned word by word: a number that looks like a pointer keeps
// nothing.  What a tracer cannot tell (tracer nullptr) is scanned as everything else.
//
// Thread safety: all functions may run concurrently.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/lock.hpp"
#include "core/base/result.hpp"
#include "core/persist/layout.hpp"

namespace btd {

class GcVisitor;

struct GcTracer {
  // Called once for each object, from any thread of the collector's, with no lock held.  It must
  // not allocate, free, or change the arena; it may be shown a block that is larger than the object
  // (size_bytes is the block's).
  void (*trace)(void* context, const void* object, size_t size_bytes, GcVisitor& visitor);
  void* context;
};

// What a tracer calls.
class GcVisitor {
 public:
  // `pointer`: to anywhere in a block; anything else is ignored.  `tracer`: shown what it points
  // to; nullptr: that is scanned word by word.  It must outlive the collection.
  virtual void visit(const void* pointer, const GcTracer* tracer) noexcept = 0;

 protected:
  ~GcVisitor() = default;
};

// The tracers of an arena, by root name.
class Tracers {
 public:
  static constexpr uint32_t kCapacity = 128;

  // Sets, or with trace nullptr removes, the tracer of a root, which need not exist yet.
  // REQUIRES: no collection runs that uses the tracer it replaces.
  // ERRORS: kTooLong; kInvalid: an empty name; kNoSpace: kCapacity names have one.
  Error set(const char* name, GcTracer tracer);
  // nullptr: none.
  const GcTracer* of(const char (&name)[kRootNameMax + 1]) const;

 private:
  struct Entry {
    char name[kRootNameMax + 1];
    GcTracer tracer;  // trace nullptr: not in use
  };

  mutable Lock lock_;
  Entry entries_[kCapacity] = {};
};

}  // namespace btd
