"""A virtual machine that runs a script on this machine's files.

The guest sees the host's whole file system; what it changes there stays in its memory.  One directory, /run/share, is the host's too:
the script is run in it, by sh.  KVM is used where it works, and TCG otherwise.
"""

import ctypes
import fcntl
import math
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time

import kernel

KVM_CREATE_VM = 0xAE01
STATUS = re.compile(r'^VM-STATUS (\d+)\s*$', re.M)


def has_kvm():
    try:
        device = os.open('/dev/kvm', os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(fcntl.ioctl(device, KVM_CREATE_VM, 0))
        return True
    except OSError:
        return False
    finally:
        os.close(device)


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


# On a busy machine an emulated processor's counter is measured wrong at boot, and the guest's clock goes at up to eight times the
# speed: every deadline in it would be too short.  The timer's frequency is known.
TCG_WORDS = 'tsc=unstable clocksource=hpet'
KVM_WORDS = 'tsc=reliable'
TCG = ('-accel', 'tcg,thread=multi', '-cpu', 'max,la57=off')
# Without what some machines that are guests themselves refuse to set.
KVM = ('-accel', 'kvm', '-cpu', 'host,-arch-capabilities')
KVM_TRIAL_S = 15


def accelerator(version):
    """KVM where a guest comes up with it: a machine that is a guest itself may offer it in vain.  The verdict holds until the next
    boot.  BTD_VM_ACCEL=kvm or tcg decides without a trial."""
    asked = os.environ.get('BTD_VM_ACCEL')
    if asked:
        return {'kvm': KVM, 'tcg': TCG}[asked]
    if not has_kvm():
        return TCG
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    verdict = kernel.cache_directory() / 'kvm-verdict'
    try:
        told_boot, told = verdict.read_text().split()
        if told_boot == boot:
            return KVM if told == 'works' else TCG
    except (OSError, ValueError):
        pass
    trial = Guest(version, [], 'exit 3', limit_s=KVM_TRIAL_S, echo=False, way=KVM)
    works = trial.status() == 3
    trial.scratch.cleanup()
    verdict.write_text(f'{boot} {"works" if works else "fails"}')
    return KVM if works else TCG


# QEMU 7.2 emulating two processors sometimes lets a kernel see its own code half patched, and it panics at boot: one processor, and
# another try for a boot that gets nowhere.
BOOT_S = 60
BOOT_COUNT_MAX = 3


class Guest:
    """pmem: (path, bytes) of an NVDIMM's file.  wire: (path of a unix socket, 1 or 2), which joins two guests; 1 is started first.
    The script begins with the with-block, and ends with it, whatever happens in it."""

    def __init__(self, version, modules, script, memory_mib=1024, pmem=None, limit_s=120, echo=True, way=None,
                 wire=None, name='', cpus=1):
        vmlinux, initramfs = kernel.get(version)
        way = way or accelerator(version)
        self.scratch = tempfile.TemporaryDirectory(prefix='bartender-vm-')
        self.share = pathlib.Path(self.scratch.name)
        (self.share / 'script').write_text(script)
        self.echo, self.name = echo, name
        self.changed = threading.Condition()
        self.limit_s = limit_s
        machine, memory = 'q35', f'size={memory_mib}M'
        extra = []
        if pmem is not None:
            path, size_bytes = pmem
            machine += ',nvdimm=on,nvdimm-persistence=mem-ctrl'
            memory += f',slots=4,maxmem={memory_mib + 8192}M'
            extra = ['-object', f'memory-backend-file,id=pm0,share=on,mem-path={path},size={size_bytes}',
                     '-device', 'nvdimm,id=nv0,memdev=pm0,label-size=128K']
        if wire is not None:
            extra += ['-netdev', f'stream,id=n0,server={"on" if wire[1] == 1 else "off"},addr.type=unix,addr.path={wire[0]}',
                      '-device', f'virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:00:00:0{wire[1]}']
        words = ('console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check random.trust_cpu=on '
                 f'{KVM_WORDS if way == KVM else TCG_WORDS} '
                 f'vm.modules={",".join(modules)}')
        self.command = ['qemu-system-x86_64', '-machine', machine, *way, '-m', memory, '-smp', str(cpus), '-nodefaults', '-no-user-config',
                        '-display', 'none', '-no-reboot', '-serial', 'stdio', '-kernel', vmlinux, '-initrd', initramfs, '-append', words,
                        '-fsdev', 'local,id=fs0,path=/,security_model=none,readonly=on,multidevs=remap',
                        '-device', 'virtio-9p-pci,fsdev=fs0,mount_tag=root',
                        '-fsdev', f'local,id=fs1,path={self.share},security_model=none',
                        '-device', 'virtio-9p-pci,fsdev=fs1,mount_tag=share', *extra]
        self.start()

    def start(self):
        self.console = ''
        self.began = time.monotonic()
        self.ends_at = self.began + self.limit_s
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        preexec_fn=die_with_parent)
        self.collector = threading.Thread(target=self.collect, daemon=True)
        self.collector.start()

    def collect(self):
        for line in self.process.stdout:
            text = line.decode(errors='replace').replace('\r', '')
            if self.echo:
                print(f'{self.name}{time.monotonic() - self.began:6.1f} | {text}', end='', flush=True)
            with self.changed:
                self.console += text
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def __enter__(self):
        for _ in range(BOOT_COUNT_MAX - 1):
            if self.wait_for('^VM-START$', BOOT_S):
                break
            self.kill()
            print(f'{self.name}: the guest did not come up; once more', flush=True)
            self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        self.scratch.cleanup()

    def wait_for(self, pattern, limit_s=math.inf):
        """Until the console matches; the match, or None when the guest ended or its time was over."""
        expression = re.compile(pattern, re.M)
        ends_at = min(self.ends_at, time.monotonic() + limit_s)
        with self.changed:
            while True:
                found = expression.search(self.console)
                left_s = ends_at - time.monotonic()
                if found or left_s <= 0 or not self.collector.is_alive():
                    return found or expression.search(self.console)
                self.changed.wait(min(left_s, 0.5))

    def status(self):
        """The script's, once the guest is off; None: it ended without one, or its time was over."""
        self.collector.join(max(0, self.ends_at - time.monotonic()))
        self.kill()
        told = STATUS.findall(self.console)
        return int(told[-1]) if told else None

    def kill(self):
        """As a power cut: at once, and nothing is written any more."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.collector.join()
