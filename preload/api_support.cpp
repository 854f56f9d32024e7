#include "preload/api_support.hpp"

namespace btd::preload {

BTD_COLD int fail(int error_number) {
  errno = error_number;
  return -1;
}
BTD_COLD void* fail_null(int error_number) {
  errno = error_number;
  return nullptr;
}

int error_number_of(Error error) {
  switch (error) {
    case Error::kNone:
      return 0;
    case Error::kNoSpace:
      return ENOSPC;
    case Error::kNoMemory:
      return ENOMEM;
    case Error::kInUse:
    case Error::kBusy:
      return EBUSY;
    case Error::kNotFound:
      return ENOENT;
    case Error::kForeign:
    case Error::kMismatch:
      return EMEDIUMTYPE;
    case Error::kNewer:
      return EPROTONOSUPPORT;
    case Error::kCorrupt:
      return EUCLEAN;
    case Error::kAddressTaken:
      return EADDRINUSE;
    case Error::kPermission:
      return EACCES;
    case Error::kUnsupported:
      return ENOTSUP;
    case Error::kSandboxed:
      return EPERM;
    case Error::kInvalid:
      return EINVAL;
    case Error::kTooLong:
      return ENAMETOOLONG;
    case Error::kCanceled:
      return ECANCELED;
    case Error::kIo:
      break;
  }
  return EIO;
}

int result_of(Error error) { return error == Error::kNone ? 0 : fail(error_number_of(error)); }

int allocation_error(Error error) {
  return error == Error::kNoSpace ? ENOMEM : error_number_of(error);
}

Cluster* usable(btd_cluster* handle) {
  Cluster* cluster = cluster_from(handle);
  if (is_cluster_open(cluster)) [[likely]]
    return cluster;
  errno = is_inherited(cluster) ? ENOTSUP : EINVAL;
  return nullptr;
}

Cluster* usable_of(const void* address) {
  Cluster* cluster = cluster_of(address);
  if (cluster == nullptr) errno = arena_of(address) != nullptr ? ENOTSUP : EINVAL;
  return cluster;
}

}  // namespace btd::preload
