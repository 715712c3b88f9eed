#!/bin/busybox sh
# The guest's first process: it mounts what programs expect, lifts the limits that many sessions meet, runs
# /bench/run in /results, and sends that folder to the second serial port.
/bin/busybox mkdir -p /proc /sys /dev /tmp /etc /results
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp TERM=dumb # plain lines: they go through a serial port
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
ip link set lo up
echo 'PRETTY_NAME="initramfs"' >/etc/os-release

cd /proc/sys
echo 16777216 >fs/nr_open
echo 33554432 >fs/file-max
echo 67108864 >fs/epoll/max_user_watches
echo 65535 >net/core/somaxconn
echo 65535 >net/ipv4/tcp_max_syn_backlog
echo 65536 >net/core/netdev_max_backlog # what is over it is dropped, on loopback too
echo '1024 65535' >net/ipv4/ip_local_port_range
echo 1 >net/ipv4/tcp_tw_reuse
pages=$(awk '/^MemTotal/ {print int($2/4)}' /proc/meminfo)
echo "$((pages/8)) $((pages/4)) $((pages/2))" >net/ipv4/tcp_mem # all sockets' buffers, in pages
ulimit -n 8388608

cd /results
sh /bench/run
echo $? >status
cat /proc/slabinfo >slabinfo.txt
cat /proc/meminfo >meminfo.txt
cat /proc/net/sockstat >sockstat.txt
stty -F /dev/ttyS1 raw
tar -c . | gzip -1 >/tmp/results && cat /tmp/results >/dev/ttyS1
poweroff -f
