#!/bin/sh
# In the guest: soft RoCE on a device that only this machine sees, then the tests over it.
# usage: verbs.sh test | spill | node | client    (the last two: with a wire between two guests)
set -eu
address=10.9.0.1
device=dummy0 mtu=9000
case $1 in
  node) device=eth0 mtu=1500 ;;
  client) device=eth0 mtu=1500 address=10.9.0.2 ;;
esac
ip addr add $address/24 dev $device
ip link set $device mtu $mtu up
rdma link add rxe0 type rxe netdev $device
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
  node)
    (umask 077 && python3 -c 'print(bytes(range(32)).hex())' > /tmp/key)
    exec "$BTD_BARTENDERD" --listen $address:7070 --transport verbs --capacity 16M --store /dev/shm/store --key-file /tmp/key
    ;;
  client)
    export BTD_NODE=10.9.0.1:7070
    exec "$BTD_VERBS_TEST" --run_test=a_machine_that_dies_is_noticed --log_level=test_suite --color_output=no
    ;;
  spill)
    # Large blocks only, then all of the program's.
    for threshold in 16384 0; do python3 "$BTD_GUEST/spill.py" $threshold; done
    ;;
esac
