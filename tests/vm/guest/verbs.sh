#!/bin/sh
# In the guest: soft RoCE on a device that only this machine sees, then what is to be run over it, one after the other.
# usage: verbs.sh WORD...    node and client: with a wire between two guests; the others stand below
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
verbs_test() { "$BTD_VERBS_TEST" --log_level=test_suite --color_output=no "$@"; }
for what; do
  case $what in
    test) verbs_test ;;
    quick-test) BTD_FOREIGN_TRIES=60 verbs_test --run_test='!killed_clients_make_room' ;;
    node)
      (umask 077 && python3 -c 'print(bytes(range(32)).hex())' > /tmp/key)
      exec "$BTD_BARTENDERD" --listen $address:7070 --transport verbs --capacity 16M --store /dev/shm/store --key-file /tmp/key
      ;;
    client)
      export BTD_NODE=10.9.0.1:7070
      verbs_test --run_test=a_machine_that_dies_is_noticed
      ;;
    # Large blocks only; all of the program's.
    large-blocks) python3 "$BTD_GUEST/spill.py" 16384 ;;
    all-blocks) python3 "$BTD_GUEST/spill.py" 0 ;;
    dax-until-cut) python3 "$BTD_GUEST/dax.py" until-cut ;;
    dax-after-cut) python3 "$BTD_GUEST/dax.py" after-cut ;;
    *) echo "what is $what?"; exit 1 ;;
  esac
done
