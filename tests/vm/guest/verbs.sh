#!/bin/sh
# In the guest: soft RoCE on a device that only this machine sees, then the tests over it.
# usage: verbs.sh test | spill
set -eu
address=10.9.0.1
ip addr add $address/24 dev dummy0
ip link set dummy0 mtu 9000 up
rdma link add rxe0 type rxe netdev dummy0
# The address becomes a GID a moment later; without it rdma_cm finds no device.
tries=0
until grep -q ffff /sys/class/infiniband/rxe0/ports/1/gids/* 2> /dev/null; do
  tries=$((tries + 1))
  [ $tries -lt 100 ] || { echo "no GID for $address"; exit 1; }
  sleep 0.1
done
export BTD_VERBS_ADDRESS=$address
case $1 in
  test) exec "$BTD_VERBS_TEST" --log_level=test_suite --color_output=no ;;
  spill)
    # Large blocks only, then all of the program's.
    for threshold in 16384 0; do python3 "$BTD_GUEST/spill.py" $threshold; done
    ;;
esac
