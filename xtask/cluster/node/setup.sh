# Runs inside the node's root (chroot), once its files are in place: what kind's own Dockerfile does with Debian.
# REPOSITORY is where the control plane's images are, PAUSE the tag of the image that holds a pod's namespaces.
set -eu

# kind starts these by their paths.
for program in containerd ctr containerd-shim-runc-v2; do ln -sfn /usr/bin/$program /usr/local/bin/$program; done
mkdir -p /opt/cni/bin
for plugin in ptp host-local portmap loopback bridge; do cp /usr/lib/cni/$plugin /opt/cni/bin/; done

# Without CAP_SYS_RESOURCE, out-of-memory scores can't be lowered.
sed -i -e "s#sandbox_image = .*#sandbox_image = \"$REPOSITORY/pause:$PAUSE\"#" \
    -e 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' /etc/containerd/config.toml

# A node boots nothing but containerd and kubelet.
rm -f /lib/systemd/system/multi-user.target.wants/* /lib/systemd/system/local-fs.target.wants/* \
    /lib/systemd/system/basic.target.wants/* /etc/systemd/system/*.wants/* \
    /lib/systemd/system/sockets.target.wants/*udev* /lib/systemd/system/sockets.target.wants/*initctl* \
    /lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service
echo ReadKMsg=no >>/etc/systemd/journald.conf
ln -sfn /usr/lib/systemd/systemd /sbin/init
systemctl -q enable kubelet.service containerd.service undo-mount-hacks.service
systemctl -q mask systemd-binfmt.service

# Containers see the node's product files as kind wants them, and keep the limits that the node has.
ctr oci spec | jq '.hooks.createContainer += [{path: "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' \
    >/etc/containerd/cri-base.json
rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /usr/share/doc /usr/share/man /usr/share/locale
