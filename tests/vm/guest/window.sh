#!/bin/sh
# In the guest: the far window's tests.  Linux before 6.7 has no asynchronous write protection, so there they take the other way.
set -u
uname -r
export BTD_TEST_PATIENCE=8 BTD_TEST_INCREMENTS=300000
failed=0
run() {  # program, filter
  program=$BTD_BUILD/tests/core-spill-$1
  [ -x "$program" ] || { echo "not built: $program"; failed=$((failed + 1)); return; }
  "$program" --run_test="$2" --report_level=short --log_level=error --color_output=no
  status=$?
  read -r now _ < /proc/uptime
  echo "core-spill-$1: status $status, until $now s"
  [ $status = 0 ] || failed=$((failed + 1))
}
run userfault '*'
run far_window '*'
# Increments under eviction with other trackers' counts take minutes under emulation.
run evictor 'no_increment_is_lost_under_forced_eviction:every_live*:a_clean*:an_eviction*'
# Whether fetching ahead pays is not asked where a processor is emulated.
run fault_handler '!nodes_that_die*:!a_sequential*'
run fork_child '*'
run reattach '*'
exit $failed
