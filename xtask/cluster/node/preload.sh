# Runs in a container of the node's image: puts the control plane's images into containerd's store.
set -eu
containerd >/tmp/log 2>&1 &
pid=$!
tries=0
until ctr version >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ $tries -gt 120 ]; then cat /tmp/log >&2; exit 1; fi
    sleep 0.5
done
ctr -n k8s.io images import --no-unpack --digests /images.tar >/dev/null
kill $pid
wait $pid || true
rm -rf /images.tar /tmp/log /run/containerd
