# SPDX-License-Identifier: GPL-2.0-only
"""A guest with a stock kernel of Debian, whose CPUs QEMU emulates in software. It has
the machine's tree through virtiofs. What the kernel needs for that and has as modules lies
in an initramfs (scripts/make-initramfs). What it takes on the machine, scripts/setup
emulator installs.
"""

import os
import re
import resource
import socket
import subprocess
import sys

from guest_common import SCRIPTS, SYSTEM_PATH, GuestError, last_line_of

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"

# cx16: with QEMU 7.2 a kernel was seen to have parts of a pointer in its flags after
# a CMPXCHG16B of its allocator, and to die from the traps that this caused. The others
# are slow to emulate: copies byte by byte, and a fifth level of page tables.
CPU = "max,cx16=off,erms=off,la57=off"


def kernels():
    """Those of scripts/versions, and the one that finds races."""
    return ["kcsan", *subprocess.run([os.path.join(SCRIPTS, "kernel"), "stock"], check=True,
                                     text=True, stdout=subprocess.PIPE).stdout.split()]


def install_emulator():
    done = subprocess.run([os.path.join(SCRIPTS, "setup"), "emulator"], stdout=sys.stderr,
                          check=False)
    if done.returncode != 0:
        raise GuestError("QEMU could not be installed")


class Machine:
    """Known to the guest: the devices that its command's output goes to."""

    # Ports of the only virtio-serial device.
    lines = {"stdout": "/dev/vport0p1", "stderr": "/dev/vport0p2"}
    parent_directory = None
    # A kernel changes its code by way of a breakpoint, which another CPU may meet. With
    # QEMU 7.2 one of some boots of 7.3 with several CPUs has a CPU that meets it when
    # the kernel has forgotten it already.
    emulation_fault = re.compile(rb"Oops: int3:")

    def __init__(self, options):
        if os.getuid() != 0:
            raise GuestError(f"a guest with kernel {options.kernel} needs root: "
                             "virtiofsd has to make files for everybody")
        self.options = options
        install_emulator()
        self.image = last_line_of(os.path.join(SCRIPTS, "kernel"), "image", options.kernel)
        releases = os.path.join(self.image, "modules", "lib", "modules")
        self.modules = os.path.join(releases, os.listdir(releases)[0])

    def kernel_command_line(self, directory):
        return " ".join([
            "console=ttyS0", "root=host", "rootfstype=virtiofs", "rw",
            # A panic resets the machine at once, which ends QEMU (-no-reboot).
            "loglevel=8", "oops=panic", "panic=-1",
            # All CPUs have the machine's counter: no need to watch it, which fails
            # when the machine is busy, and then takes a slow clock.
            "tsc=reliable",
            # Emulated code is translated once for each address that it runs at, and
            # jumps that are made safe from speculation are slow.
            "norandmaps", "mitigations=off",
            f"init={directory}/guest-init", f"guest_dir={directory}",
            *self.options.kernel_args])

    def command(self, directory, files, console, out, err):
        """What is given is descriptors; files is virtiofsd's socket."""
        memory = f"size={self.options.mem},share=on"
        return [
            # Should this script be killed, the guest goes with it.
            "setpriv", "--pdeathsig", "KILL",
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-machine", "q35,memory-backend=memory",
            "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", str(self.options.cpus),
            "-m", f"{self.options.mem}B",
            "-object", f"memory-backend-memfd,id=memory,{memory}",
            "-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console",
            # The first of the virtio devices, for the ports' names.
            "-device", "virtio-serial-pci,max_ports=3",
            "-chardev", f"socket,id=out,fd={out}",
            "-device", "virtserialport,chardev=out,nr=1",
            "-chardev", f"socket,id=err,fd={err}",
            "-device", "virtserialport,chardev=err,nr=2",
            "-chardev", f"socket,id=files,path={files}",
            "-device", "vhost-user-fs-pci,chardev=files,tag=host",
            "-kernel", os.path.join(self.image, "vmlinuz"),
            *self.initramfs(),
            "-append", self.kernel_command_line(directory),
        ]

    def initramfs(self):
        path = os.path.join(self.image, "initramfs")
        return ["-initrd", path] if os.path.exists(path) else []

    def start_virtiofsd(self, path, log):
        """It ends when QEMU does."""
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(1)
        with listening:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", VIRTIOFSD, f"--fd={listening.fileno()}",
                 "-f", "-o", "source=/,sandbox=chroot,cache=auto,log_level=err"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(listening.fileno(),), start_new_session=True,
                env={"PATH": SYSTEM_PATH})

    def start(self, directory, console, out, err):
        """The processes, the guest's own last. What is given is sockets."""
        files = os.path.join(directory, "virtiofs")
        descriptors = tuple(stream.fileno() for stream in (console, out, err))
        virtiofsd = self.start_virtiofsd(files, console)
        return [virtiofsd, subprocess.Popen(
            self.command(directory, files, *descriptors),
            stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            pass_fds=descriptors, start_new_session=True, env={"PATH": SYSTEM_PATH})]
