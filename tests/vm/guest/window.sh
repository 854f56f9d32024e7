#!/bin/sh
# In the guest: the far window's tests.  Linux before 6.7 has no asynchronous write protection, so there they take the other way.
set -u
uname -r
failed=0
for test in userfault far_file far_window far_tier evictor fault_handler fork_child reattach; do
  program=$BTD_BUILD/tests/core-spill-$test
  [ -x "$program" ] || { echo "not built: $program"; failed=$((failed + 1)); continue; }
  read -r began _ < /proc/uptime
  timeout 250 "$program" --log_level=error --color_output=no
  status=$?
  read -r ended _ < /proc/uptime
  echo "core-spill-$test: status $status, from $began to $ended s"
  [ $status = 0 ] || failed=$((failed + 1))
done
exit $failed
