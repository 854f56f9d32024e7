"""Debian's kernels for guests: fetched with apt-get, unpacked, never installed.

What is made is kept in the user's cache directory, by the package's full name, and made only once; several runs at a time are safe.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile

META = {'6.1': 'linux-image-amd64', '6.12': 'linux-image-6.12-amd64'}
INIT = pathlib.Path(__file__).resolve().with_name('init')

# Names without their dependencies, in the order of loading.
SETS = {
    'base': ['virtio_pci', '9p', '9pnet_virtio', 'overlay'],
    'rdma': ['dummy', 'crc32_generic', 'crc32c_generic', 'ib_uverbs', 'rdma_ucm', 'rdma_rxe'],
    'wire': ['virtio_net'],
    'pmem': ['nfit', 'nd_pmem', 'crc32c_generic', 'ext4', 'dax_pmem', 'device_dax'],
}
UNPACK = {b'\xfd7zXZ': ['xz', '-dc', '--single-stream'], b'\x28\xb5\x2f\xfd': ['zstd', '-qdc'], b'\x1f\x8b': ['gzip', '-dc']}


class CannotBeHad(Exception):
    """Why there is no guest to run; the tests are skipped."""


def cache_directory():
    base = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    path = pathlib.Path(base) / 'bartender' / 'vm'
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotBeHad(f'no cache directory: {error}') from error
    return path


@contextlib.contextmanager
def locked():
    """The cache directory, for one process at a time."""
    cache = cache_directory()
    with open(cache / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def run(*command, **options):
    try:
        return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300,
                              **options).stdout
    except (OSError, subprocess.SubprocessError) as error:
        told = (getattr(error, 'stderr', None) or b'').decode(errors='replace').strip()
        raise CannotBeHad(f'{error} {told}'.strip()) from error


def package_of(version):
    for line in run('apt-cache', 'depends', META[version]).decode().splitlines():
        kind, _, name = line.strip().partition(': ')
        if kind == 'Depends' and name.startswith('linux-image-'):
            return name
    raise CannotBeHad(f'apt knows no {META[version]}')


def unwrapped(image):
    """The ELF inside a bzImage: QEMU starts it by PVH without the kernel's own slow unpacking."""
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from('<II', image, 0x248)
    packed = image[(sectors + 1) * 512 + offset:][:length]
    for magic, command in UNPACK.items():
        if packed.startswith(magic):
            # The payload is followed by its size, which the unpacker takes for garbage.
            unpacked = subprocess.run(command, input=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
            if unpacked.startswith(b'\x7fELF'):
                return unpacked
    raise CannotBeHad('the kernel image is packed in a way that is not known here')


def copy_module(source, target):
    """Returns the name that it has unpacked."""
    name, suffix = os.path.splitext(os.path.basename(source))
    unpack = {'.xz': ['xz', '-dc'], '.zst': ['zstd', '-qdc']}.get(suffix)
    if unpack is None:
        name += suffix
    if not (target / name).exists():
        content = run(*unpack, source) if unpack else pathlib.Path(source).read_bytes()
        (target / name).write_bytes(content)
    return name


def make_initramfs(root, release, out):
    with tempfile.TemporaryDirectory(prefix='initramfs-', dir=out.parent) as scratch:
        tree = pathlib.Path(scratch)
        for directory in ('bin', 'dev', 'proc', 'sys', 'lib/modules'):
            (tree / directory).mkdir(parents=True)
        busybox = shutil.which('busybox')
        if busybox is None:
            raise CannotBeHad('busybox is not installed; install busybox-static')
        shutil.copy(busybox, tree / 'bin/busybox')
        (tree / 'bin/sh').symlink_to('busybox')
        shutil.copy(INIT, tree / 'init')
        os.chmod(tree / 'init', 0o755)
        for name, modules in SETS.items():
            loads = []
            for module in modules:
                # -C: not this machine's modprobe.d, where the ndctl package changes libnvdimm.
                needs = subprocess.run(['modprobe', '-C', '/dev/null', '-d', root, '-S', release, '--show-depends', module],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
                for line in needs.stdout.decode().splitlines():
                    if line.startswith('insmod '):
                        loads.append(copy_module(line.split()[1], tree / 'lib/modules'))
            (tree / f'lib/modules/{name}.list').write_text('\n'.join(dict.fromkeys(loads)) + '\n')
        listed = subprocess.run(['find', '.', '-print0'], cwd=tree, stdout=subprocess.PIPE, check=True).stdout
        out.write_bytes(run('cpio', '--null', '-o', '-H', 'newc', '--quiet', '--owner', '0:0', cwd=tree, input=listed))


def make(package, into):
    run('apt-get', '-qq', 'download', package, cwd=into)
    archive, = into.glob('*.deb')
    tree = into / 'tree'
    tree.mkdir()
    packed = into / 'tree.tar'
    with open(packed, 'wb') as file:
        subprocess.run(['dpkg-deb', '--fsys-tarfile', archive], stdout=file, check=True)
    run('tar', '-x', '-C', tree, '-f', packed, '--exclude=./usr/share')
    packed.unlink()
    archive.unlink()
    if not (tree / 'lib/modules').is_dir():  # of releases after Debian 12
        (tree / 'lib').mkdir(exist_ok=True)
        (tree / 'usr/lib/modules').rename(tree / 'lib/modules')
    release = os.listdir(tree / 'lib/modules')[0]
    run('depmod', '-b', tree, release)
    (into / 'vmlinux').write_bytes(unwrapped((tree / f'boot/vmlinuz-{release}').read_bytes()))
    (into / 'release').write_text(release)


def fetched(version, cache):
    """The directory of the newest kernel that apt knows, made if need be."""
    kernel = cache / package_of(version)
    if not kernel.is_dir():
        for old in cache.glob('making-*'):  # of a run that was killed
            shutil.rmtree(old)
        making = pathlib.Path(tempfile.mkdtemp(prefix='making-', dir=cache))
        os.chmod(making, 0o755)
        try:
            make(kernel.name, making)
            making.rename(kernel)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return kernel


def fetched_or_kept(version, cache):
    """apt's lists may be missing or old: once more after an update; and without a network one that was fetched before will do."""
    try:
        return fetched(version, cache)
    except CannotBeHad as error:
        why = error
    try:
        run('apt-get', '-qq', 'update')
        return fetched(version, cache)
    except CannotBeHad as error:
        kept = sorted(path for path in cache.glob(f'linux-image-{version}.*') if (path / 'vmlinux').exists())
        if not kept:
            raise CannotBeHad(f'no kernel {version}: {why}; after apt-get update: {error}') from error
        return kept[-1]


def get(version):
    """(vmlinux, initramfs) of 6.1 or 6.12.  Raises CannotBeHad."""
    for program in ('apt-get', 'dpkg-deb', 'depmod', 'modprobe', 'cpio', 'xz', 'qemu-system-x86_64'):
        if shutil.which(program) is None:
            raise CannotBeHad(f'{program} is not installed; scripts/setup --vm installs what is needed')
    with locked() as cache:
        kernel = fetched_or_kept(version, cache)
        initramfs = kernel / 'initramfs'
        # This file says which modules are in it.
        newest = max(os.path.getmtime(INIT), os.path.getmtime(__file__))
        if not initramfs.exists() or os.path.getmtime(initramfs) < newest:
            make_initramfs(kernel / 'tree', (kernel / 'release').read_text(), kernel / 'initramfs.new')
            os.rename(kernel / 'initramfs.new', initramfs)
    return kernel / 'vmlinux', initramfs
