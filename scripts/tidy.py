#!/usr/bin/python3
"""Checks the rules of the house that a compiler does not.  Prints "file:line: what is wrong".

Rules: the direction of includes between folders; banned headers below malloc; no conditional
compilation outside core/base; a test for each core source; every source listed in a meson.build;
banned words; no path of somebody's machine.

Usage: tidy.py [ROOT]       exit status 1 when something is wrong
       tidy.py --self-test  breaks each rule in a scratch tree and checks that it is noticed
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

CODE = {'.cpp', '.hpp', '.h'}
TEXT = CODE | {'.py', '.md', '.build', '.txt', '.sh', '.map', '.yml', ''}
LAYERED = ('core', 'preload', 'rdma', 'tools', 'tests', 'bench')

# Inside core a folder sees itself and those below it; siblings do not see each other.
CORE_BELOW = {
    'base': set(),
    'persist': {'base'},
    'heap': {'base', 'persist'},
    'tx': {'base', 'persist', 'heap'},
    'gc': {'base', 'persist', 'heap', 'tx'},
    'recovery': {'base', 'persist', 'heap', 'tx', 'gc', 'spill'},
    'api': {'base', 'persist', 'heap', 'tx', 'gc', 'spill', 'recovery'},
    'defrag': {'base', 'persist', 'heap', 'tx'},
    'spill': {'base', 'persist', 'heap', 'tx'},
}

# They allocate, or bring in what does.
BANNED_HEADERS = {'string', 'vector', 'map', 'functional', 'iostream', 'memory', 'unordered_map'}
BELOW_MALLOC = ('core', 'preload', 'rdma')

# What programs include: compiled with their settings, found by their include path.
PUBLIC = {'bartender.h', 'bartender.hpp', 'bartender_volatile.h'}

# Words that the project says otherwise.  Those with an honest second meaning (region, span, swap,
# page, server) are left to the reviewer.
BANNED_WORDS = {
    'pool': 'arena', 'chunk': 'frame or extent', 'slab': 'superblock', 'magazine': 'thread cache',
    'inbox': 'remote free list', 'journal': 'undo log or redo log', 'fsck': 'recovery',
}
WORDED = ('core', 'preload', 'rdma', 'tools')

# Spelled in two pieces, so that this file does not contain what it looks for.
MACHINE_PATHS = re.compile('/wor' 'k/|/tmp/' 'btd|' r'(?<![\w}])/roo' 't/|/hom' r'e/\w|\.py' 'env')

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
CONDITIONAL = re.compile(r'^\s*#\s*(if|ifdef|ifndef|elif)\b(.*)')
IDENTIFIER_PART = re.compile(r'[A-Z]?[a-z]+|[A-Z]+(?![a-z])')


class Tidy:
    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.findings = []

    def report(self, path, line, what):
        self.findings.append(f'{path}:{line}: {what}')

    def files(self):
        """The files that git would commit; without git, all but hidden and built ones."""
        listed = subprocess.run(
            ['git', '-C', self.root, 'ls-files', '-z', '--cached', '--others',
             '--exclude-standard'],
            capture_output=True, check=False)
        if listed.returncode == 0:
            names = set(listed.stdout.decode().split('\0')) - {''}
        else:
            names = {str(path.relative_to(self.root)) for path in self.root.rglob('*')
                     if not str(path.relative_to(self.root)).startswith(('build', '.'))
                     and '__pycache__' not in path.parts}
        return sorted(pathlib.PurePath(name) for name in names if (self.root / name).is_file())

    def run(self):
        for path in self.files():
            if path.suffix not in TEXT:
                continue
            lines = (self.root / path).read_text(errors='replace').splitlines()
            for number, line in enumerate(lines, 1):
                if MACHINE_PATHS.search(line):
                    self.report(path, number, 'a path of one machine')
            if path.parts[0] in LAYERED and path.suffix in CODE:
                self.check_code(path, lines)
        return self.findings

    def check_code(self, path, lines):
        is_public = path.parent == pathlib.PurePath('core/api') and path.name in PUBLIC
        for number, line in enumerate(lines, 1):
            include = INCLUDE.match(line)
            if include and not is_public:
                self.check_include(path, number, include[1] == '"', include[2])
            if not is_public:
                self.check_conditional(path, number, line)
            if path.parts[0] in WORDED and not include:
                self.check_words(path, number, line)
        if path.suffix == '.cpp':
            # Programs that tests compile by themselves need no line in a meson.build.
            if path.parts[0] not in ('tests', 'bench') or path.stem.endswith('_test'):
                self.check_listed(path)
            if path.parts[0] == 'core':
                test = pathlib.PurePath('tests') / path.with_name(path.stem + '_test.cpp')
                if not (self.root / test).exists():
                    self.report(path, 1, f'no test: {test}')

    def check_include(self, path, number, quoted, header):
        if not quoted:
            if path.parts[0] in BELOW_MALLOC and header in BANNED_HEADERS:
                self.report(path, number, f'<{header}> is banned below malloc')
            if header.startswith(('infiniband/', 'rdma/')) and path.parts[0] != 'rdma':
                self.report(path, number, f'<{header}> belongs into rdma/ alone')
            if header.startswith('libpmem') and path.parts[:2] != ('core', 'persist'):
                if path.parts[0] in BELOW_MALLOC:
                    self.report(path, number, f'<{header}> belongs into core/persist alone')
            return
        beside = path.parts[0] in ('tests', 'bench') and (self.root / path.parent / header).exists()
        if beside:  # small programs with a header of their own
            return
        if not (self.root / header).exists():
            self.report(path, number, f'"{header}" is not written from the root')
        elif not may_include(path, pathlib.PurePath(header)):
            self.report(path, number, f'"{header}" is not below {path.parent}')

    def check_conditional(self, path, number, line):
        conditional = CONDITIONAL.match(line)
        if not conditional or path.parts[:2] == ('core', 'base'):
            return
        # A header for C programs needs the one question that C++ cannot ask otherwise.
        if path.suffix == '.h' and '__cplusplus' in conditional[2]:
            return
        self.report(path, number, f'#{conditional[1]} outside core/base')

    def check_words(self, path, number, line):
        for part in IDENTIFIER_PART.findall(line):
            word = part.lower()
            singular = word[:-1] if word.endswith('s') else word
            for candidate in {word, singular} & BANNED_WORDS.keys():
                self.report(path, number, f'say {BANNED_WORDS[candidate]}, not {candidate}')

    def check_listed(self, path):
        """A meson.build in the file's folder or above must name it, or nobody compiles it."""
        stem = re.sub('_test$', '', path.stem) if path.parts[0] == 'tests' else path.stem
        for folder in path.parents:
            build = self.root / folder / 'meson.build'
            if build.exists() and re.search(rf'\b{re.escape(stem)}\b', build.read_text()):
                return
        self.report(path, 1, 'no meson.build names it')


def may_include(path, header):
    """Whether the layers allow `path` to include `header`, both relative to the root."""
    top, other = path.parts[0], header.parts[0]
    if top in ('tools', 'tests', 'bench'):
        return True
    if top == 'preload':
        return other in ('preload', 'core', 'rdma')
    if top == 'rdma':
        return other == 'rdma' or header.parts[:2] == ('core', 'base') or (
            str(header) == 'core/spill/node.hpp')
    if other != 'core':
        return False
    if len(path.parts) < 3:
        return True  # the interface on top of core's folders
    folder = path.parts[1]
    return header.parts[1] == folder or header.parts[1] in CORE_BELOW.get(folder, set())


# For the self-test: a tree without a fault, and faults with the finding that each must cause.
SOUND = {
    'core/meson.build': "files('base/a.cpp', 'heap/b.cpp')",
    'core/base/a.hpp': '#pragma once\n#ifdef NDEBUG\n#endif\n',
    'core/base/a.cpp': '#include "core/base/a.hpp"\n#include <cstring>\n',
    'core/heap/b.hpp': '#pragma once\n#include "core/base/a.hpp"\n// spooling is allowed\n',
    'core/heap/b.cpp': '#include "core/heap/b.hpp"\n',
    'core/api/bartender.h': '#ifndef X\n#include "bartender_volatile.h"\n#endif\n',
    'core/api/bartender.hpp': '#include <map>\n',
    'core/gc/g.hpp': '#include "core/heap/b.hpp"\n',
    'core/recovery/r.hpp': '#include "core/heap/b.hpp"\n',
    'core/spill/node.hpp': '#include "core/base/a.hpp"\n',
    'rdma/n.hpp': '#include "core/spill/node.hpp"\n#include <infiniband/verbs.h>\n',
    'preload/meson.build': "files('p.cpp')",
    'preload/p.cpp': '#include "core/heap/b.hpp"\n#include "rdma/n.hpp"\n',
    'preload/p.h': '#ifdef __cplusplus\n#endif\n',
    'tools/meson.build': "files('t.cpp')",
    'tools/t.cpp': '#include <vector>\n#include "core/heap/b.hpp"\n',
    'tests/meson.build': "['core/base/a', 'core/heap/b']",
    'tests/core/base/a_test.cpp': '#include <string>\n',
    'tests/core/heap/b_test.cpp': '',
    'tests/programs/check.hpp': '// /proc/1/root/dev is not a path of one machine\n',
    'tests/programs/one.cpp': '#include "check.hpp"\n',
}
FAULTS = [
    ('core/base/a.hpp', '#include "core/heap/b.hpp"', 'not below'),
    ('core/gc/g.hpp', '#include "core/recovery/r.hpp"', 'not below'),
    ('core/heap/b.hpp', '#include "preload/p.h"', 'not below'),
    ('core/heap/b.hpp', '#include "rdma/n.hpp"', 'not below'),
    ('core/spill/node.hpp', '#include "rdma/n.hpp"', 'not below'),
    ('rdma/n.hpp', '#include "core/heap/b.hpp"', 'not below'),
    ('rdma/n.hpp', '#include "preload/p.h"', 'not below'),
    ('preload/p.cpp', '#include "tools/t.cpp"', 'not below'),
    ('core/heap/b.hpp', '#include "a.hpp"', 'not written from the root'),
    *[(path, f'#include <{header}>', 'banned below malloc')
      for path in ('core/heap/b.hpp', 'preload/p.cpp', 'rdma/n.hpp')
      for header in sorted(BANNED_HEADERS)],
    ('core/heap/b.cpp', '#include <infiniband/verbs.h>', 'rdma/ alone'),
    ('preload/p.cpp', '#include <libpmem.h>', 'core/persist alone'),
    ('core/heap/b.cpp', '#if 1', 'outside core/base'),
    ('core/api/bartender.h', 'int memory_pool;', 'say arena, not pool'),
    ('core/heap/bartender.h', '#if 1', 'outside core/base'),
    ('core/heap/b.hpp', '#ifndef GUARD', 'outside core/base'),
    ('preload/p.h', '# ifdef OTHER', 'outside core/base'),
    ('tools/t.cpp', '  #elif 1', 'outside core/base'),
    ('core/heap/b.cpp', 'int memory_pool;', 'say arena, not pool'),
    ('core/heap/b.cpp', '// Slabs are', 'say superblock'),
    ('core/heap/b.cpp', 'class FrameChunk;', 'say frame or extent'),
    ('core/heap/c.cpp', '', 'no test: tests/core/heap/c_test.cpp'),
    ('core/heap/c.cpp', '', 'no meson.build names it'),
    ('tests/core/base/z_test.cpp', '', 'no meson.build names it'),
    ('scripts/x.py', 'open("/wor' + 'k/y")', 'one machine'),
    ('scripts/x.py', 'open("/roo' + 't/y")', 'one machine'),
]


def self_test():
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        for name, text in SOUND.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        for finding in Tidy(root).run():
            print(f'the sound tree is accused: {finding}')
            wrong += 1
        for name, fault, finding in FAULTS:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(SOUND.get(name, '') + fault + '\n')
            expected = [found for found in Tidy(root).run()
                        if found.startswith(name + ':') and finding in found]
            if not expected:
                print(f'not noticed in {name}: {fault}')
                wrong += 1
            if name in SOUND:
                path.write_text(SOUND[name])
            else:
                os.unlink(path)
    print(f'cases: {len(FAULTS) + 1 - wrong} passed, {wrong} failed')
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ['--self-test']:
        return self_test()
    root = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent
    findings = Tidy(root).run()
    print('\n'.join(findings) if findings else 'tidy')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
