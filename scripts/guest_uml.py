# SPDX-License-Identifier: GPL-2.0-only
"""A guest in User-Mode Linux: a process that has the machine's tree through hostfs."""

import os
import resource
import subprocess

from guest_common import SCRIPTS, SYSTEM_PATH, GuestError, last_line_of, say


def memory_directory(size):
    """A host directory for the guest's memory, which is a mapped file: one in
    memory, that has room and may be executed from."""
    best, most = None, -1
    for directory in ("/dev/shm", "/tmp", "/var/tmp", os.environ.get("TMPDIR")):
        if not directory or not os.access(directory, os.W_OK | os.X_OK):
            continue
        stat = os.statvfs(directory)
        if stat.f_flag & os.ST_NOEXEC:
            continue
        room = stat.f_bavail * stat.f_frsize
        if room >= size:
            return directory
        if room > most:
            best, most = directory, room
    if best is None:
        raise GuestError("no directory for the guest's memory: "
                         "/dev/shm, /tmp and /var/tmp cannot be used")
    return best


def most_cpus(kdir):
    """What the kernel was built for: it leaves out the others, and says nothing."""
    with open(os.path.join(kdir, ".config"), encoding="utf-8") as file:
        return next(int(line.split("=")[1]) for line in file
                    if line.startswith("CONFIG_NR_CPUS="))


class Machine:
    """Known to the guest: the devices that its command's output goes to."""

    lines = {"stdout": "/dev/ttyS1", "stderr": "/dev/ttyS2"}
    # No emulator kills it.
    emulation_fault = None

    def __init__(self, options):
        self.options = options
        self.kdir = last_line_of(os.path.join(SCRIPTS, "kernel"), options.kernel)
        most = most_cpus(self.kdir)
        if options.cpus > most:
            say(f"this kernel has at most {most} CPUs, not {options.cpus}: there are {most}")
        releases = os.path.join(os.path.dirname(self.kdir), "modules", "lib", "modules")
        self.modules = os.path.join(releases, os.listdir(releases)[0])
        self.parent_directory = memory_directory(options.mem)

    def command(self, directory, out, err):
        return [
            # Should this script be killed, the guest goes with it.
            "setpriv", "--pdeathsig", "KILL",
            os.path.join(self.kdir, "linux"),
            f"mem={self.options.mem}", f"ncpus={self.options.cpus}", "seccomp=on",
            f"uml_dir={directory}/uml/", "umid=guest",
            "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw",
            "con=null", "con0=fd:1", f"ssl1=fd:{out}", f"ssl2=fd:{err}",
            "loglevel=8", "oops=panic",
            f"init={directory}/guest-init", f"guest_dir={directory}",
            *self.options.kernel_args,
        ]

    def start(self, directory, console, out, err):
        """The processes, the guest's own last. What is given is sockets."""
        os.mkdir(os.path.join(directory, "uml"))
        # A file of the machine that the guest has open, or in its cache, is open here.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return [subprocess.Popen(
            self.command(directory, out.fileno(), err.fileno()),
            stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            pass_fds=(out.fileno(), err.fileno()), start_new_session=True,
            env={"TMPDIR": directory, "PATH": SYSTEM_PATH})]
