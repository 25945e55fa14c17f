"""Takes away from a process whatever decoding or encoding one image does not need.

Three independent locks: resource limits; Landlock, which denies opening files and reaching TCP
ports; seccomp, which allows only listed system calls. None needs privileges, and none can be
undone.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
from dataclasses import asdict, dataclass
from pathlib import Path

# From linux/prctl.h. Landlock's system calls have the same numbers on every architecture.
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_VERSION = 1
# What each version of Landlock's ABI can deny (linux/landlock.h): number of file access rights, of
# network access rights, and of scopes (reaching other processes).
LANDLOCK_RIGHTS = {1: (13, 0, 0), 2: (14, 0, 0), 3: (15, 0, 0), 4: (15, 2, 0), 5: (16, 2, 0)}
LANDLOCK_NEWEST = (16, 2, 2)
LIBSECCOMP = "libseccomp.so.2"
SECCOMP_ALLOW = 0x7FFF0000
SECCOMP_REFUSE = 0x00050000 | 1  # the call fails with EPERM
SECCOMP_UNKNOWN = 0x00050000 | 38  # the call fails with ENOSYS, and glibc uses the older one
# AVIF's encoder has two threads: `clone` is allowed for threads only. A filter cannot see the flags
# of `clone3`.
CLONE_THREAD = 0x10000
COMPARE_MASKED = 7
# Memory, file descriptors that are already open, the clock.
ALLOWED_CALLS = (
    *("brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "mincore"),
    *("read", "readv", "pread64", "write", "writev", "pwrite64", "lseek", "ftruncate"),
    *("fstat", "newfstatat"),  # libtiff asks for a file's size
    *("close", "dup", "sendmsg", "sendto", "recvmsg", "poll", "ppoll"),
    *("futex", "set_robust_list", "rseq", "exit", "exit_group", "sched_yield"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("getpid", "gettid", "getrusage", "getrandom", "sysinfo", "sched_getaffinity", "getcpu"),
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "times"),
)
# For fcntl: without F_SETOWN, which could send signals to other processes.
ALLOWED_FCNTL = (fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC)
# The OOM killer takes these processes first (proc(5)).
KILLED_FIRST = 1000


@dataclass(frozen=True)
class Limits:
    """What a process may use on top of what it has.

    Attributes
    ----------
    memory_bytes : address space
    cpu_seconds : CPU time
    file_bytes : size of a file, also one in memory
    files : total number of open file descriptors
    """

    memory_bytes: int
    cpu_seconds: int
    file_bytes: int
    files: int = 32

    def as_dict(self) -> dict[str, int]:
        """Return the limits as sent to a child."""
        return asdict(self)


class LandlockRuleset(ctypes.Structure):
    """`struct landlock_ruleset_attr`."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class ArgumentTest(ctypes.Structure):
    """`struct scmp_arg_cmp`: which argument to compare, how, and with what."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> None:
    """Have the kernel kill the calling process when the thread that forked it exits."""
    libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)


def be_killed_first() -> None:
    """Make the calling process the OOM killer's first choice."""
    with contextlib.suppress(OSError):  # without this file, the kernel goes by size
        Path("/proc/self/oom_score_adj").write_bytes(b"%d" % KILLED_FIRST)


def landlock_version() -> int:
    """Return the version of the kernel's Landlock; 0 if missing or disabled."""
    version: int = libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION)
    return max(version, 0)


def apply_landlock() -> bool:
    """Deny the calling process all files, ports and other processes; False if unavailable."""
    version = landlock_version()
    if version == 0:
        return False
    files, network, scopes = LANDLOCK_RIGHTS.get(version, LANDLOCK_NEWEST)
    rules = LandlockRuleset(2**files - 1, 2**network - 1, 2**scopes - 1)
    # Older kernels know a shorter structure, and reject one whose unknown part is not zero.
    descriptor = libc.syscall(LANDLOCK_CREATE_RULESET, ctypes.byref(rules), ctypes.sizeof(rules), 0)
    if descriptor < 0:
        return False
    refused = libc.syscall(LANDLOCK_RESTRICT_SELF, descriptor, 0)
    os.close(descriptor)
    return bool(refused == 0)


class SystemCallFilter:
    """A seccomp filter that allows only `ALLOWED_CALLS`.

    Built once, before the processes that use it are forked. `is_available` is False if the machine
    has no libseccomp.
    """

    def __init__(self) -> None:
        self._context = None
        try:
            self._library = ctypes.CDLL(LIBSECCOMP)
        except OSError:
            return
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._library.seccomp_rule_add_array.argtypes = (
            *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p),
        )
        self._library.seccomp_load.argtypes = (ctypes.c_void_p,)
        self._context = self._library.seccomp_init(SECCOMP_REFUSE)
        for name in ALLOWED_CALLS:
            self._add(name, SECCOMP_ALLOW)
        self._add("clone3", SECCOMP_UNKNOWN)
        is_thread = ArgumentTest(0, COMPARE_MASKED, CLONE_THREAD, CLONE_THREAD)
        self._add("clone", SECCOMP_ALLOW, is_thread)
        for command in ALLOWED_FCNTL:
            self._add("fcntl", SECCOMP_ALLOW, ArgumentTest(1, COMPARE_MASKED, 2**32 - 1, command))

    def _add(self, name: str, action: int, *tests: ArgumentTest) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # another architecture may not have it
            array = (ArgumentTest * len(tests))(*tests)
            self._library.seccomp_rule_add_array(self._context, action, number, len(tests), array)

    @property
    def is_available(self) -> bool:
        """Whether there is a filter to apply."""
        return self._context is not None

    def apply(self) -> bool:
        """Filter the calling process's system calls from now on; False if unavailable."""
        return self.is_available and self._library.seccomp_load(self._context) == 0


class Confinement:
    """Sandboxes the calling process permanently; limits and system calls follow in `finish`.

    Parameters
    ----------
    system_calls : the filter that `finish` applies

    Attributes
    ----------
    locks : those that are active
    """

    def __init__(self, system_calls: SystemCallFilter) -> None:
        self._system_calls = system_calls
        # Bytes: for text, each process would first load a codec, taking three times as long.
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
        self._memory_bytes = pages * resource.getpagesize()
        be_killed_first()
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        self.locks = ["landlock"] if apply_landlock() else []

    def finish(self, limits: Limits) -> None:
        """Set the limits, on top of the memory already in use, and filter system calls."""
        memory = self._memory_bytes + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        # At the soft limit a signal tells what ran out, at the hard limit the process is killed.
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits.files, limits.files))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.locks.append("rlimit")
        if self._system_calls.apply():
            self.locks.append("seccomp")
