"""Who is measured, and how each is put in front of a program.

Every contender is a Debian package; one that is missing is installed when we may, else said in a line
and left out.  Bartender comes from the build directory, with everything switched on that production
has: the misuse check, all sizes routed to the arena; `bartender` in process durability, and each level
by its name.
"""

import glob
import os
import shutil
import subprocess
import tempfile

LIBRARIES = '/usr/lib/x86_64-linux-gnu/'
MEMTIER_FILE = 'KIND:FS_DAX,PATH:{directory},PMEM_SIZE_LIMIT:4G,RATIO:1;POLICY:STATIC_RATIO'

POOL = ' --pool {directory}/pmemobj.pool'
DURABLE_PMEMOBJ = 'durable --level libpmemobj --directory {directory}'


class Contender:
    """One allocator.

    `programs`: which of its own stands for which of ours (or for one first word of it), with more
    options if need be; what has no `library` to preload, or `only_programs`, runs no others.
    `variants`: of the nvm_malloc benchmarks, those that it has."""

    def __init__(self, name, package=None, library=None, environment=None, programs=None,
                 only_programs=False, persistent=False, variants=('full',),
                 flush_counter=None):
        self.name = name
        self.package = package
        self.library = library  # a glob under LIBRARIES, or a path
        self.environment = environment or {}
        self.programs = programs or {}
        self.runs_all = not only_programs and (library is not None or not programs)
        self.persistent = persistent
        self.variants = variants
        self.flush_counter = flush_counter  # a library of bench/ that counts flushes and drains

    def command(self, arguments, directory, own=False):
        """The command for a workload's, or None: it has no such program (own: of its own)."""
        program = self.programs.get(arguments[0]) or self.programs.get(' '.join(arguments[:2]))
        if program is None:
            return arguments if self.runs_all and not own else None
        program, *options = words(program)
        return [program] + arguments[1:] + [o.format(directory=directory) for o in options]

    def built(self, directory):
        """Those of its programs that are there."""
        return {ours: command for ours, command in self.programs.items()
                if all(os.path.exists(os.path.join(directory, word))
                       for word in words(command)[:1] + [w for w in words(command) if os.path.isabs(w)])}

    def preload(self):
        """The path to preload, or None if it is not there."""
        if self.library is None:
            return None
        found = sorted(glob.glob(os.path.join(LIBRARIES, self.library)))
        return found[0] if found else None

    def settings(self, directory):
        """What is added to the environment; `directory` is for its files."""
        added = {k: v.format(directory=directory) for k, v in self.environment.items()}
        if self.library is not None:
            added['LD_PRELOAD'] = self.preload()
        return added


def far_deaths(library):
    """The command of tests/far that kills nodes; programs lie in the library's own build."""
    build = os.path.dirname(os.path.dirname(library))
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    return [os.path.join(root, 'tests', 'far', 'far_deaths.py'), library] + [
        os.path.join(build, p) for p in ('tests/far', 'tools/node/bartenderd', 'tools/bartender')]


def words(command):
    return command if isinstance(command, list) else command.split()


def bartender_level(library, durability, only_programs):
    """Bartender in one durability level, the nvm_malloc benchmarks on its own interface."""
    return Contender(
        f'bartender-{durability}', library=library, persistent=True,
        environment={'BARTENDER_THRESHOLD': '0', 'BARTENDER_DURABILITY': durability,
                     'BARTENDER_ARENA': '{directory}/%e.%p.arena'},
        programs={'nvm_malloc': f'nvm_bartender --durability {durability} --arena '
                                '{directory}/bench.arena',
                  'durable': f'durable --level {durability} --directory {{directory}}'},
        only_programs=only_programs,
        variants=('full', 'recovery'))


def all_contenders(bartender_library):
    """In the order of the table; the first is what the others are compared with."""
    library = os.path.abspath(bartender_library)
    return [
        Contender('glibc'),
        Contender('bartender', library=library, persistent=True,
                  environment={'BARTENDER_THRESHOLD': '0', 'BARTENDER_DURABILITY': 'process',
                               'BARTENDER_ARENA': '{directory}/%e.%p.arena'},
                  programs={'collector': 'collector --path {directory}/collector.arena',
                            'far': 'far --directory {directory}', 'far_deaths': far_deaths(library)}),
        # On malloc it is `bartender`, whose level is this one too.
        bartender_level(library, 'process', True),
        bartender_level(library, 'lazy', False),
        bartender_level(library, 'strict', False),
        Contender('mimalloc', 'libmimalloc2.0', 'libmimalloc.so.2.0'),
        Contender('jemalloc', 'libjemalloc2', 'libjemalloc.so.2'),
        Contender('tcmalloc', 'libtcmalloc-minimal4', 'libtcmalloc_minimal.so.4'),
        Contender('memtier', 'libmemkind0', 'libmemtier.so.0',
                  environment={'MEMKIND_MEM_TIERS': 'KIND:DRAM,RATIO:1;POLICY:STATIC_RATIO'}),
        Contender('memtier-file', 'libmemkind0', 'libmemtier.so.0',
                  environment={'MEMKIND_MEM_TIERS': MEMTIER_FILE}),
        Contender('gc', 'libgc-dev', programs={'small': 'gc', 'collector': 'gc_collector'}),
        Contender('pmemobj-atomic', 'libpmemobj-dev',
                  programs={'small': 'pmemobj --mode atomic' + POOL,
                            'process fill': 'pmemobj --mode atomic' + POOL,
                            'process open': 'pmemobj --mode atomic' + POOL,
                            'nvm_malloc': 'nvm_pmemobj' + POOL,
                            'durable pair': DURABLE_PMEMOBJ, 'durable batch': DURABLE_PMEMOBJ},
                  environment={'PMEM_IS_PMEM_FORCE': '1'}, persistent=True,
                  variants=('full', 'no-flush', 'recovery'), flush_counter='libcount_pmem.so'),
        Contender('pmemobj-tx', 'libpmemobj-dev',
                  programs={'small': 'pmemobj --mode tx' + POOL,
                            'durable transaction': DURABLE_PMEMOBJ},
                  environment={'PMEM_IS_PMEM_FORCE': '1'}, persistent=True,
                  flush_counter='libcount_pmem.so'),
    ]


def install(package):
    """Whether the package could be installed; only root tries."""
    if os.geteuid() != 0 or shutil.which('apt-get') is None:
        return False
    command = ['apt-get', 'install', '-y', '-qq', '--no-install-recommends', package]
    environment = dict(os.environ, DEBIAN_FRONTEND='noninteractive')
    try:
        return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=300, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def missing_reason(contender, programs):
    """None if the contender can run, else one line that says why not and what to do."""
    if contender.programs and not contender.runs_all and not contender.built(programs):
        return (f'{contender.name}: its programs were not built; type scripts/setup --bench && '
                'meson setup --reconfigure build && ninja -C build')
    if contender.library is None or contender.preload() is not None:
        return None
    if contender.package is None:
        return f'{contender.name}: {contender.library} is missing; build it first'
    if install(contender.package) and contender.preload() is not None:
        return None
    return f'{contender.name}: package {contender.package} is missing; apt-get install it'


def working_directory():
    """A private directory on tmpfs for arenas and pools; the caller removes it."""
    return tempfile.mkdtemp(prefix='bartender-bench-',
                            dir='/dev/shm' if os.path.isdir('/dev/shm') else None)


# Meson, for one, sets MALLOC_PERTURB_ for its tests, which makes glibc fill every block.
ALLOCATOR_SETTINGS = ('BARTENDER_', 'MEMKIND_', 'PMEM', 'MALLOC_', 'GLIBC_TUNABLES', 'MIMALLOC_',
                      'TCMALLOC_', 'GC_', 'LD_PRELOAD')


def clean_environment():
    """Ours without any allocator's settings."""
    return {k: v for k, v in os.environ.items() if not k.startswith(ALLOCATOR_SETTINGS)}
