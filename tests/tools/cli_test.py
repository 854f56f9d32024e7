#!/usr/bin/python3
"""The bartender command, from outside: its output, its exit codes, and what it does to files.

cli_test.py BARTENDER LIBRARY MAKE_IMAGE [unittest arguments]

Arenas come from make_image, built byte by byte, and from real programs that are killed.  Checked throughout: JSON has schema 1, stdout
holds no colour when it is no terminal, and no subcommand but rm changes an arena.
"""

import ctypes
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import unittest

BARTENDER = LIBRARY = MAKE_IMAGE = None
TIME_LIMIT_S = 60
PYTHON = "/usr/bin/python3"


def die_with_parent():
    """In the child: killed when this test is."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def execute(arguments, **options):
    options.setdefault("timeout", TIME_LIMIT_S)
    return subprocess.run(arguments, capture_output=True, preexec_fn=die_with_parent, **options)


class Case(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="bartender-cli-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("BARTENDER_") and name != "LD_PRELOAD"
        }
        self.environment["HOME"] = self.directory
        self.environment["TZ"] = "UTC"

    def path(self, name):
        return os.path.join(self.directory, name)

    def image(self, name="a.arena", *changes):
        path = self.path(name)
        result = execute([MAKE_IMAGE, path, *map(str, changes)])
        self.assertEqual(result.returncode, 0, result.stderr)
        self.offsets = json.loads(result.stdout)
        return path

    def run_tool(self, *arguments, status=0, **options):
        options.setdefault("env", self.environment)
        result = execute([BARTENDER, *map(str, arguments)], **options)
        self.assertEqual(result.returncode, status, (arguments, result.stdout, result.stderr))
        self.assertNotIn(b"\033", result.stdout)
        self.assertNotIn(b"\033", result.stderr)
        if status not in (0, 1, 2) and arguments[0] != "run":
            self.assertTrue(result.stderr.startswith(b"bartender: "), result.stderr)
            self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)
        return result

    def tool(self, *arguments, **options):
        return self.run_tool(*arguments, **options).stdout.decode()

    def tool_json(self, *arguments, **options):
        document = json.loads(self.tool(*arguments, "--json", **options))
        self.assertEqual(document["schema"], 1)
        self.assertEqual(document["command"], arguments[0])
        return document


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def put(path, data):
    with open(path, "wb") as file:
        file.write(data)


def poke(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


class General(Case):
    def test_each_subcommand_has_help_that_names_its_exit_codes(self):
        listed = self.tool("--help")
        for command in ("run", "ls", "info", "salvage", "check", "gc", "rm", "config", "doctor", "node", "version"):
            self.assertIn(command, listed)
            text = self.tool(command, "--help")
            self.assertIn("--json", text)
            if command != "version":
                self.assertIn("Exit status", text)

    def test_man_page_and_completion_know_every_option(self):
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        with open(root + "/docs/man/bartender.1") as file:
            page = file.read().replace("\\-", "-")
        with open(root + "/docs/completions/bartender.bash") as file:
            completion = file.read()
        count = 0
        for command in ("run", "ls", "info", "salvage", "check", "gc", "rm", "config", "doctor", "node", "version"):
            for option in re.findall(r"(?m)^  (?:-h,)?(--[a-z-]+)", self.tool(command, "--help")):
                self.assertRegex(page, re.escape(option) + r"(?![a-z-])", command)
                self.assertRegex(completion, re.escape(option) + r"(?![a-z-])", command)
                count += 1
        self.assertGreater(count, 30)

    def test_wrong_usage_is_one_line_and_64(self):
        for arguments in ((), ("nonsense",), ("ls", "--nonsense"), ("info",), ("salvage",), ("check",), ("gc",), ("rm",), ("node",), ("node", "x"),
                          ("salvage", "x", "--output", "y"), ("check", "x", "--to", "y"),
                          ("salvage", "x", "--id", "many")):
            result = execute([BARTENDER, *arguments], env=self.environment)
            self.assertEqual(result.returncode, 64, arguments)
            self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)
            self.assertTrue(result.stderr.startswith(b"bartender: "), result.stderr)

    def test_version(self):
        self.assertRegex(self.tool("version"), r"^bartender \d+\.\d+\.\d+, arena format 1\n$")
        self.assertEqual(self.tool_json("version")["format_version"], 1)

    def test_full_disk_behind_stdout_is_a_failure(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run([BARTENDER, "version"], stdout=full, stderr=subprocess.PIPE, timeout=TIME_LIMIT_S)
        self.assertEqual(result.returncode, 4)
        self.assertIn(b"could not be written", result.stderr)

    def test_colour_on_a_terminal_only(self):
        arena = self.image()
        for no_colour in (False, True):
            environment = dict(self.environment, **({"NO_COLOR": "1"} if no_colour else {}))
            main, terminal = pty.openpty()
            try:
                subprocess.run([BARTENDER, "ls", arena], stdout=terminal, env=environment, timeout=TIME_LIMIT_S, check=True)
                self.assertTrue(select.select([main], [], [], TIME_LIMIT_S)[0])
                output = os.read(main, 65536)
            finally:
                os.close(main)
                os.close(terminal)
            self.assertEqual(b"\033[31mcrashed" in output, not no_colour, output)


class Config(Case):
    def test_sources_and_values(self):
        self.environment["BARTENDER_SIZE"] = "512m"
        self.environment["BARTENDER_LOG"] = ""
        settings = {entry["name"]: entry for entry in self.tool_json("config")["settings"]}
        self.assertEqual(len(settings), 18)
        self.assertEqual(settings["SIZE"]["source"], "environment")
        self.assertEqual(settings["SIZE"]["value"], "512M")
        self.assertEqual(settings["LOG"]["source"], "default")
        self.assertEqual(settings["THRESHOLD"]["value"], settings["THRESHOLD"]["default"])
        text = self.tool("config")
        self.assertIn("BARTENDER_SIZE", text)
        markdown = self.tool("config", "--markdown")
        self.assertEqual(len(markdown.splitlines()), 20)
        for name in settings:
            self.assertIn("`BARTENDER_%s`" % name, markdown)

    def test_wrong_setting_is_named(self):
        for name, value in (("BARTENDER_SIZE", "12Q"), ("BARTENDER_DURABILITY", "eager"), ("BARTENDER_SIZ", "1G")):
            environment = dict(self.environment, **{name: value})
            result = self.run_tool("config", status=64, env=environment)
            self.assertIn(name.encode(), result.stderr)


class Doctor(Case):
    LEVELS = ("process", "lazy", "strict")

    def power_loss(self, document):
        self.assertEqual([entry["level"] for entry in document["levels"]], list(self.LEVELS))
        for entry in document["levels"]:
            self.assertEqual(entry["process_death"], "exact")
        return [entry["power_loss"] for entry in document["levels"]]

    def test_tmpfs_survives_the_process_alone(self):
        if not os.path.isdir("/dev/shm"):
            self.skipTest("no /dev/shm")
        document = self.tool_json("doctor", "/dev/shm")
        self.assertEqual(document["backend"], "tmpfs")
        self.assertFalse(document["map_sync"])
        self.assertEqual(self.power_loss(document), ["nothing"] * 3)

    def test_file_on_a_disk_goes_by_msync(self):
        document = self.tool_json("doctor", self.directory)
        if document["backend"] != "file":
            self.skipTest("the directory for temporary files is on %s" % document["backend"])
        self.assertEqual(document["way"], "msync")
        self.assertEqual(self.power_loss(document), ["undefined", "reachable", "exact"])
        for place in (self.path("not-there.arena"), self.image()):
            self.assertEqual(self.tool_json("doctor", place)["backend"], "file")
        self.assertEqual(os.listdir(self.directory), ["a.arena"], "nothing is left behind")

    def test_instructions_are_those_of_the_processor_and_one_is_taken(self):
        document = self.tool_json("doctor", self.directory)
        with open("/proc/cpuinfo") as file:
            flags = re.search(r"(?m)^flags\s*:(.*)$", file.read())
        known = [name for name in ("clwb", "clflushopt", "clflush") if flags and name in flags[1].split()]
        self.assertEqual([entry["name"] for entry in document["instructions"]], known)
        if known:
            self.assertIn(document["fastest"], known)
            for entry in document["instructions"]:
                self.assertGreater(entry["fresh_ns"], 0)
            text = self.tool("doctor", self.directory)
            self.assertEqual(text.count("taken"), 1, text)
            self.assertRegex(text, document["fastest"] + r" .* taken")

    def test_level_of_an_arena_is_told(self):
        arena = self.path("level.arena")
        program = "import os; x = bytearray(100000); os._exit(1)"
        for level in self.LEVELS:
            environment = dict(self.environment, LD_PRELOAD=LIBRARY, BARTENDER_ARENA=arena, BARTENDER_DURABILITY=level)
            self.assertEqual(execute([PYTHON, "-c", program], env=environment).returncode, 1)
            self.assertEqual(self.tool_json("doctor", arena)["arena_durability"], level)
            self.assertIn("durability " + level, self.tool("doctor", arena))

    def test_other_places_are_refused(self):
        os.mkfifo(self.path("fifo"))
        os.symlink("/dev/shm", self.path("link"))
        for place in (self.path("fifo"), self.path("link"), "/dev/null", self.path("no/such/place"), "/proc/self/mem/x"):
            self.run_tool("doctor", place, status=4)


class List(Case):
    def test_states_and_foreign_files(self):
        self.image("crashed.arena")
        self.image("clean.arena", "clean")
        self.image("newer.arena", "seal:format_version:9")
        self.image("bad.arena", "set:100:9", "set:4300:9")
        put(self.path("notes.txt"), b"not an arena")
        os.mkfifo(self.path("fifo"))
        os.symlink(self.path("crashed.arena"), self.path("link"))
        os.mkdir(self.path("folder"))
        arenas = {os.path.basename(a["path"]): a for a in self.tool_json("ls", self.directory)["arenas"]}
        self.assertEqual({name: a["state"] for name, a in arenas.items()},
                         {"crashed.arena": "crashed", "clean.arena": "clean", "newer.arena": "refused", "bad.arena": "damaged"})
        crashed = arenas["crashed.arena"]
        self.assertEqual(crashed["live_blocks"], 6)
        self.assertEqual(crashed["live_bytes"], 64 * 2 + 32768 + 48 + 8 * 16384 - 3 * 4096 + 2 * 16384)
        self.assertEqual(crashed["program"], "image")
        table = self.tool("ls", self.directory)
        self.assertEqual(len(table.splitlines()), 5)
        self.assertEqual(len(self.tool_json("ls", self.path("c*.arena"))["arenas"]), 2)

    def test_named_file_that_is_none_fails(self):
        put(self.path("notes.txt"), b"not an arena")
        self.assertIn("no arena", execute([BARTENDER, "ls", self.path("notes.txt")]).stdout.decode())
        for name, status in (("notes.txt", 3), ("missing", 4)):
            self.assertEqual(execute([BARTENDER, "ls", self.path(name)]).returncode, status)

    def test_default_places(self):
        state = self.path(".local/state/bartender")
        os.makedirs(state)
        shutil.copy(self.image(), state)
        paths = [a["path"] for a in self.tool_json("ls")["arenas"]]
        self.assertIn(state + "/a.arena", paths)
        self.assertNotIn(self.path("a.arena"), paths)
        self.environment["BARTENDER_ARENA"] = self.directory + "/%e%n.arena"
        paths = [a["path"] for a in self.tool_json("ls")["arenas"]]
        self.assertIn(self.path("a.arena"), paths)

    def test_nothing(self):
        self.assertEqual(self.tool("ls", self.directory), "no arenas\n")


class Info(Case):
    def test_everything_is_there_and_adds_up(self):
        info = self.tool_json("info", self.image())
        self.assertEqual(info["state"], "crashed")
        self.assertEqual(info["uuid"], "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf")
        self.assertEqual((info["epoch"], info["oldest_epoch"]), (5, 2))
        self.assertEqual(info["live_blocks"], sum(e["blocks"] for e in info["epochs"]))
        self.assertEqual(info["live_bytes"], sum(e["bytes"] for e in info["epochs"]))
        self.assertEqual([e["epoch"] for e in info["epochs"]], ["kept", 3, 5])
        classes = {c["slot_bytes"]: c for c in info["size_classes"]}
        self.assertEqual(sorted(classes), [48, 64, 32768])
        self.assertEqual(classes[64]["live"], 2)
        self.assertAlmostEqual(classes[64]["fill"], 2 / classes[64]["slots"])
        self.assertEqual(info["free_bytes"] + info["used_bytes"], info["capacity_bytes"])
        # Between the large block that ends at frame 122 and the end of the zone at 256.
        self.assertEqual(info["largest_free_extent_bytes"], (256 - 122) * 16384)
        self.assertTrue(0 < info["metadata_share"] < 0.2)
        self.assertTrue(0 < info["external_fragmentation"] < 1)
        text = self.tool("info", self.path("a.arena"))
        for word in ("uuid", "epoch", "capacity", "fragmentation", "largest free extent", "metadata", "32 KiB"):
            self.assertIn(word, text)

    def test_each_unusable_file_is_one_line(self):
        put(self.path("empty"), b"")
        put(self.path("foreign"), b"x" * 10000)
        os.mkfifo(self.path("fifo"))
        cut = self.image("cut")
        os.truncate(cut, 100000)
        self.image("newer", "seal:format_version:2")
        self.image("pages", "seal:page_bytes:65536")
        self.image("bad", "set:100:9", "set:4300:9")
        expected = {"empty": 3, "foreign": 3, "fifo": 3, "cut": 2, "newer": 3, "pages": 3, "bad": 2, "missing": 4, ".": 3}
        lines = set()
        for command in ("info", "salvage", "check"):
            for name, status in expected.items():
                result = execute([BARTENDER, command, self.path(name)])
                self.assertEqual(result.returncode, status, (command, name, result.stderr))
                self.assertEqual(result.stdout, b"")
                self.assertEqual(result.stderr.count(b"\n"), 1)
                lines.add(result.stderr.replace(self.path(name).encode(), b""))
        self.assertEqual(len(lines), len(expected), "each has a line of its own")

    def test_read_only_arena(self):
        arena = self.image()
        os.chmod(arena, 0o400)
        self.tool("info", arena)
        self.tool("check", arena)


class Salvage(Case):
    def test_blocks_come_biggest_first(self):
        arena = self.image()
        before = digest(arena)
        blocks = self.tool_json("salvage", arena)["blocks"]
        sizes = [block["size_bytes"] for block in blocks]
        self.assertEqual(sizes, [8 * 16384 - 3 * 4096, 32768, 32768, 64, 64, 48])
        self.assertEqual(blocks[0]["id"], 100 * 1024)
        self.assertEqual(int(blocks[0]["address"], 16), 0x300000000000 + self.offsets["data"] + 100 * 16384)
        self.assertEqual({b["epoch"] for b in blocks}, {3, 5, "kept"})
        self.assertEqual(len(self.tool("salvage", arena).splitlines()), 7)
        self.assertEqual(len(self.tool_json("salvage", arena, "--min-size", "32K")["blocks"]), 3)
        self.assertEqual(len(self.tool_json("salvage", arena, "--limit", "2")["blocks"]), 2)
        self.assertEqual(self.tool_json("salvage", arena, "--min-size", "1G")["blocks"], [])
        self.run_tool("salvage", arena, "--min-size", "huge", status=64)
        self.assertEqual(digest(arena), before)

    def test_export_is_exact_and_replaces_nothing(self):
        arena = self.image()
        with open(arena, "rb") as file:
            file.seek(self.offsets["data"] + 100 * 16384)
            expected = file.read(8 * 16384 - 3 * 4096)
        output = self.path("out")
        self.tool("salvage", arena, "--id", 102400, "--output", output)
        with open(output, "rb") as file:
            self.assertEqual(file.read(), expected)
        put(output, b"precious")
        self.run_tool("salvage", arena, "--id", 102400, "--output", output, status=4)
        with open(output, "rb") as file:
            self.assertEqual(file.read(), b"precious")
        document = self.tool_json("salvage", arena, "--id", 102400, "--output", output, "--force")
        self.assertEqual(document["block"]["size_bytes"], len(expected))
        with open(output, "rb") as file:
            self.assertEqual(file.read(), expected)
        self.assertEqual(execute([BARTENDER, "salvage", arena, "--id", "102400", "--output", "-"]).stdout, expected)
        self.run_tool("salvage", arena, "--id", 102401, "--output", self.path("none"), status=4)
        self.run_tool("salvage", arena, "--id", 102400, "--output", self.path("no/such/folder"), status=4)
        self.run_tool("salvage", arena, "--id", 102400, "--output", self.directory, "--force", status=4)
        self.assertEqual(sorted(os.listdir(self.directory)), ["a.arena", "out"], "no temporary file stays")

    def test_strings(self):
        arena = self.image()
        lines = self.tool("salvage", arena, "--strings").splitlines()
        self.assertEqual(lines, ["102400 10 first line", "102400 21 second line", "102400 39 last words",
                                 "102400 65530 over the border", "28 0 seventh slot"])
        self.assertIn("102400 33 abc", self.tool("salvage", arena, "--strings", "--length", 3).splitlines())
        strings = self.tool_json("salvage", arena, "--strings", "--id", 28)["strings"]
        self.assertEqual(strings, [{"id": 28, "offset": 0, "text": "seventh slot"}])

    def test_live_arena_can_be_read(self):
        with LockedImage(self) as arena:
            document = self.tool_json("salvage", arena)
            self.assertEqual(document["state"], "live")
            self.assertEqual(len(document["blocks"]), 6)


class LockedImage:
    """An image whose lock a child holds."""

    def __init__(self, case):
        self.path = case.path("live.arena")

    def __enter__(self):
        self.child = subprocess.Popen([MAKE_IMAGE, self.path, "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      preexec_fn=die_with_parent)
        assert self.child.stdout.readline() == b"locked\n"
        return self.path

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.wait(TIME_LIMIT_S)


class Check(Case):
    def test_clean(self):
        arena = self.image()
        self.assertEqual(self.tool_json("check", arena), {"schema": 1, "command": "check", "path": arena, "result": "clean", "findings": [], "far": None})
        self.assertIn("clean", self.tool("check", arena))
        self.tool("check", arena, "--repair", "--to", self.path("copy"))
        self.assertFalse(os.path.exists(self.path("copy")))

    def test_live_is_refused(self):
        with LockedImage(self) as arena:
            self.run_tool("check", arena, status=3)

    def repaired(self, *changes):
        """Damages an image; checks that it is found, that the copy is repaired, and that the damaged file stays as it is."""
        arena = self.image("damaged.arena", *changes)
        before = digest(arena)
        copy = self.path("copy.arena")
        found = self.tool_json("check", arena, status=2)
        self.assertEqual(found["result"], "damaged")
        self.assertIn("damaged", self.tool("check", arena, status=2))
        document = self.tool_json("check", arena, "--repair", "--to", copy, status=1)
        self.assertEqual((document["result"], document["left"]), ("repaired", []))
        self.assertEqual(digest(arena), before)
        self.assertEqual(self.tool_json("check", copy)["result"], "clean")
        self.assertEqual(os.stat(copy).st_size, os.stat(arena).st_size)
        self.assertLess(os.stat(copy).st_blocks, os.stat(arena).st_blocks + 64, "holes stay holes")
        document["copy_blocks"] = self.tool_json("salvage", copy)["blocks"]
        self.run_tool("check", arena, "--repair", "--to", copy, status=4)  # never over a file
        os.unlink(copy)
        return document

    def test_header_copies(self):
        for offset in (0, 100, 4095, 4096, 8000):
            document = self.repaired("set:%d:0xEE" % offset)
            self.assertEqual([f["fault"] for f in document["findings"]], ["header-copy"])
            self.assertEqual((len(document["copy_blocks"]), document["lost"]), (6, []))

    def test_reserved_region(self):
        self.image()
        document = self.repaired("set:%d:1" % (self.offsets["root"] + 77))
        self.assertEqual(document["findings"][0]["file_offset"], self.offsets["root"] + 77)
        self.assertEqual(len(document["copy_blocks"]), 6)

    def test_damaged_descriptor_loses_its_extent_alone(self):
        self.image()
        headers = self.offsets["frame_headers"]
        document = self.repaired("set:%d:0xEE" % (headers + 100 * 64 + 2))
        self.assertEqual(len(document["copy_blocks"]), 5)
        self.assertEqual((document["lost"][0]["offset"], document["lost"][0]["size_bytes"]), (100 * 16384, 20 * 16384))
        document = self.repaired("set:%d:0xEE" % headers)  # a superblock's: its states are cleared too
        self.assertEqual(len(document["copy_blocks"]), 4)
        self.assertIn("stray-state", [f["fault"] for f in document["findings"]])

    def test_damaged_body_loses_nothing(self):
        self.image()
        document = self.repaired("set:%d:0xEE" % (self.offsets["frame_headers"] + 100 * 64 + 40))
        self.assertEqual(document["findings"][0]["fault"], "frame-header")
        self.assertEqual((len(document["copy_blocks"]), document["lost"]), (6, []))

    def test_without_a_copy_to_write_nothing_is_repaired(self):
        path = self.image("a.arena")
        poke(path, self.offsets["frame_headers"] + 100 * 64 + 1, b"\xff")
        before = digest(path)
        self.assertIn("--to COPY", self.tool("check", path, "--repair", status=2))
        self.assertEqual(digest(path), before)

    def test_states(self):
        self.image()
        states = self.offsets["coarse_states"]
        document = self.repaired("set:%d:5" % (states + 150 * 256 + 9), "set:%d:253" % (states + 3))
        self.assertEqual(sorted(f["fault"] for f in document["findings"]), ["state-value", "stray-state"])
        self.assertEqual(len(document["copy_blocks"]), 6)
        self.assertEqual([(r["offset"], r["size_bytes"]) for r in document["lost"]], [(3 * 64, 64)])
        document = self.repaired("set:%d:0xEE" % (self.offsets["frame_headers"] + 100 * 64 + 8))
        self.assertEqual(document["findings"][0]["fault"], "large-state")
        self.assertEqual(len(document["copy_blocks"]), 5)

    def test_interior_frame(self):
        self.image()
        document = self.repaired("set:%d:2" % (self.offsets["frame_headers"] + 101 * 64))
        self.assertEqual(document["findings"][0]["fault"], "interior-frame")
        self.assertEqual(len(document["copy_blocks"]), 6)

    def test_many_faults_at_once(self):
        self.image()
        headers = self.offsets["frame_headers"]
        document = self.repaired("set:0:1", *["set:%d:0x5A" % (headers + at) for at in range(0, 200 * 64, 37)])
        self.assertGreater(len(document["findings"]), 50)


class Remove(Case):
    def test_removes_dead_arenas_only(self):
        dead, clean = self.image("dead.arena"), self.image("clean.arena", "clean")
        self.tool("rm", dead, clean)
        self.assertEqual(os.listdir(self.directory), [])
        with LockedImage(self) as arena:
            self.run_tool("rm", arena, status=3)
            self.run_tool("rm", "--force", arena, status=3)
            self.assertTrue(os.path.exists(arena))

    def test_refuses_what_is_no_arena(self):
        put(self.path("notes"), b"precious")
        put(self.path("empty"), b"")
        os.mkfifo(self.path("fifo"))
        os.symlink(self.image(), self.path("link"))
        for name in ("notes", "empty", "fifo", "link", "."):
            self.run_tool("rm", "--force", self.path(name), status=3)
        self.run_tool("rm", self.path("missing"), status=4)
        self.assertEqual(sorted(os.listdir(self.directory)), ["a.arena", "empty", "fifo", "link", "notes"])

    def test_damaged_and_newer_need_force(self):
        for path, status in ((self.image("bad", "set:100:9", "set:4300:9"), 2), (self.image("new", "seal:format_version:2"), 3)):
            self.run_tool("rm", path, status=status)
            self.assertTrue(os.path.exists(path))
            document = self.tool_json("rm", "--force", path)
            self.assertTrue(document["arenas"][0]["removed"])
            self.assertFalse(os.path.exists(path))


class Run(Case):
    """With the real library."""

    def run_program(self, *arguments, status=0, **options):
        return self.run_tool("run", "--library", LIBRARY, "--arena", self.path("%e%n.arena"), "--size", "64M", *arguments,
                             status=status, **options)

    def test_status_output_and_arguments_pass_through(self):
        self.assertEqual(self.run_program("--", "/bin/sh", "-c", "exit 7", status=7).stderr, b"")
        result = self.run_program("/bin/echo", "--json", "-n", "--", "a b")
        self.assertEqual(result.stdout, b"--json -n -- a b\n")
        self.assertEqual(self.run_program("--", "cat", input=b"through").stdout, b"through")
        result = self.run_program("--", PYTHON, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
                                  status=-signal.SIGTERM)

    def test_library_is_in_and_settings_arrive(self):
        script = ("import os; print([l for l in open('/proc/self/maps') if 'libbartender' in l] != [], "
                  "os.environ['BARTENDER_THRESHOLD'], os.environ['BARTENDER_ON_EXIT'])")
        result = self.run_program("--threshold", "1M", "--on-exit=keep", "--", PYTHON, "-c", script)
        self.assertEqual(result.stdout, b"True 1M keep\n")

    def test_other_preloads_stay(self):
        self.environment["LD_PRELOAD"] = "libutil.so.1"
        result = self.run_program("--dry-run", "--", "/bin/true")
        self.assertIn(("LD_PRELOAD=%s:libutil.so.1" % os.path.realpath(LIBRARY)).encode(), result.stdout)

    def test_killed_program_leaves_an_arena(self):
        script = ("import os, signal\n"
                  "text = bytearray(b'a line that survives %07d\\n' * 40000 % tuple(range(40000)))\n"
                  "os.kill(os.getpid(), signal.SIGKILL)\n")
        self.run_program("--", PYTHON, "-c", script, status=-signal.SIGKILL)
        [arena] = self.tool_json("ls", self.directory)["arenas"]
        self.assertEqual(arena["state"], "crashed")
        blocks = self.tool_json("salvage", arena["path"], "--min-size", "1M")["blocks"]
        found = 0
        expected = b"".join(b"a line that survives %07d\n" % i for i in range(40000))
        for block in blocks:
            data = execute([BARTENDER, "salvage", arena["path"], "--id", str(block["id"]), "--output", "-"]).stdout
            found += data.startswith(expected) or expected in data
        self.assertGreaterEqual(found, 1)
        self.assertIn("a line that survives 0039999", self.tool("salvage", arena["path"], "--strings"))
        self.assertEqual(self.tool_json("check", arena["path"])["result"], "clean")
        self.tool("rm", arena["path"])

    def test_live_program(self):
        script = "import sys\nkeep = bytearray(b'alive' * 100000)\nprint('ready', flush=True)\nsys.stdin.read()\n"
        program = subprocess.Popen([BARTENDER, "run", "--library", LIBRARY, "--arena", self.path("%e%n.arena"), "--", PYTHON, "-c", script],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment, preexec_fn=die_with_parent)
        try:
            self.assertEqual(program.stdout.readline(), b"ready\n")
            [arena] = self.tool_json("ls", self.directory)["arenas"]
            self.assertEqual((arena["state"], arena["pid"]), ("live", program.pid))
            self.assertIn("alivealive", self.tool("salvage", arena["path"], "--strings", "--min-size", "400K"))
            self.run_tool("check", arena["path"], status=3)
            self.run_tool("rm", arena["path"], status=3)
        finally:
            program.stdin.close()
            program.stdout.close()
            self.assertEqual(program.wait(TIME_LIMIT_S), 0)
        self.assertEqual(self.tool_json("ls", self.directory)["arenas"], [], "a program that ends well leaves nothing")

    def test_what_cannot_be_started(self):
        self.run_program("--", self.path("missing"), status=127)
        self.run_program("--", "no-such-program-at-all", status=127)
        put(self.path("plain"), b"#!/bin/sh\n")
        self.run_program("--", self.path("plain"), status=126)
        self.run_program("--", self.directory, status=126)
        self.run_program(status=125)
        self.assertIn(b"SIZE", self.run_program("--size", "12Q", "--", "/bin/true", status=125).stderr)
        self.environment["BARTENDER_NONSENSE"] = "1"
        self.assertIn(b"BARTENDER_NONSENSE", self.run_program("--", "/bin/true", status=125).stderr)
        del self.environment["BARTENDER_NONSENSE"]
        result = self.run_tool("run", "--library", self.path("missing.so"), "--", "/bin/true", status=125)
        self.assertIn(b"missing.so", result.stderr)

    def test_scripts_are_followed_to_their_interpreter(self):
        script = self.path("script")
        for first in ("#!/bin/sh\necho $1", "#! /usr/bin/env sh\necho $1", "#!/usr/bin/env -S sh -e\necho $1", "echo $1"):
            put(script, first.encode() + b"\n")
            os.chmod(script, 0o700)
            if first.startswith("#"):
                self.assertEqual(self.run_program("--", script, "word").stdout, b"word\n", first)
        put(script, b"#!" + self.static_program().encode() + b"\n")
        self.assertIn(b"static", self.run_program("--", script, status=125).stderr)

    def static_program(self):
        """An ELF file without PT_INTERP: the head of a real one, its segment renamed."""
        path = self.path("static")
        with open("/bin/true", "rb") as file:
            data = bytearray(file.read())
        offset = int.from_bytes(data[32:40], "little")
        for i in range(int.from_bytes(data[56:58], "little")):
            at = offset + 56 * i
            if data[at:at + 4] == b"\x03\0\0\0":
                data[at] = 0
        put(path, bytes(data))
        os.chmod(path, 0o700)
        return path

    def test_programs_that_ignore_preloads_are_refused(self):
        self.assertIn(b"statically", self.run_program("--", self.static_program(), status=125).stderr)
        with open("/bin/true", "rb") as file:
            data = bytearray(file.read())
        data[4] = 1  # ELFCLASS32
        put(self.path("narrow"), bytes(data))
        os.chmod(self.path("narrow"), 0o700)
        self.assertIn(b"another machine", self.run_program("--", self.path("narrow"), status=125).stderr)

    @unittest.skipUnless(os.getuid() == 0, "only root can give a file away")
    def test_privileged_programs_are_refused(self):
        program = self.path("privileged")
        shutil.copy("/bin/true", program)
        os.chown(program, 65534, 65534)
        for mode in (0o4755, 0o2755):
            os.chmod(program, mode)
            self.assertEqual(stat.S_IMODE(os.stat(program).st_mode), mode)
            self.assertIn(b"rights of another user", self.run_program("--", program, status=125).stderr)
        os.chmod(program, 0o755)
        self.run_program("--", program)

    def test_library_that_the_loader_refuses(self):
        with open(LIBRARY, "rb") as file:
            put(self.path("libbroken.so"), file.read()[:5000])
        result = self.run_tool("run", "--library", self.path("libbroken.so"), "--", "/bin/true", status=125)
        self.assertIn(b"would not load", result.stderr)

    def test_path_that_preload_cannot_hold(self):
        os.mkdir(self.path("a b"))
        library = shutil.copy(LIBRARY, self.path("a b"))
        self.assertIn(b"space", self.run_tool("run", "--library", library, "--", "/bin/true", status=125).stderr)

    def test_dry_run_as_json(self):
        document = json.loads(self.run_program("--dry-run", "--json", "--", "true", "x").stdout)
        self.assertEqual((document["schema"], document["arguments"]), (1, ["true", "x"]))
        self.assertTrue(os.path.isabs(document["program"]))


class Roots(Case):
    """What roots lead to.  In an image: slot 7 at 448 and slot 0 at 0 of 64 B, a large block at 100 frames, another at 120, a slot of
    32 KiB and one of 48 B: six live blocks."""

    LARGE, SECOND = 100 * 16384, 120 * 16384

    def rooted(self, *more):
        return self.image("a.arena", f"root:table:{self.LARGE}", f"link:{self.LARGE + 64}:{7 * 64 + 5}", f"link:{7 * 64 + 56}:{self.LARGE}",
                          *more)

    def test_info_lists_roots_and_transactions(self):
        path = self.rooted(f"root:other:{7 * 64}")
        document = self.tool_json("info", path)
        self.assertEqual([root["name"] for root in document["roots"]], ["table", "other"])
        self.assertEqual(document["transactions"], {"committed": 0, "open": 0, "records": 0})
        self.assertIn("table", self.tool("info", path))

    def test_check_names_a_root_that_leads_nowhere(self):
        path = self.rooted("clean")
        self.assertEqual(self.tool_json("check", path)["result"], "clean")
        path = self.rooted(f"root:free:{8 * 64}", "clean")
        document = self.tool_json("check", path, status=2)
        self.assertEqual([finding["fault"] for finding in document["findings"]], ["root"])
        self.assertEqual(document["findings"][0]["file_offset"], self.offsets["root"] + 128)
        copy = self.path("copy")
        self.tool("check", path, "--repair", "--to", copy, status=1)
        self.assertEqual([root["name"] for root in self.tool_json("info", copy)["roots"]], ["table"])

    def test_gc_dry_run_tells_and_changes_nothing(self):
        path = self.rooted()
        before = digest(path)
        document = self.tool_json("gc", path, "--dry-run")
        self.assertEqual(digest(path), before)
        self.assertEqual((document["roots"], document["reachable_blocks"], document["freed_blocks"]), (1, 2, 4))
        self.assertIn("4 blocks", self.tool("gc", path, "--dry-run"))

    def test_gc_after_power_loss_tells_beforehand_what_recovery_will_do(self):
        # The states say that slots 0 and 7 are live and 8 and 9 are not, and a root leads to 7 and 8, and from there to 9.
        changes = (f"link:{7 * 64 + 8}:{8 * 64}", f"link:{8 * 64}:{9 * 64}")
        for life, reached, freed in ((("lazy",), 2, 4), (("rebooted", "clean"), 2, 4), (("rebooted",), 4, 4), (("rebooted", "clean", "lazy"), 4, 4)):
            path = self.rooted(*life, *changes)
            before = digest(path)
            told = self.tool_json("gc", path, "--dry-run")
            self.assertEqual(digest(path), before)
            self.assertEqual((told["reachable_blocks"], told["freed_blocks"], told["after_power_loss"]), (reached, freed, reached == 4))
            done = self.tool_json("gc", path)
            for name in ("reachable_blocks", "reachable_bytes", "freed_blocks", "freed_bytes"):
                self.assertEqual(done[name], told[name], (life, name))
            self.assertEqual(self.tool_json("info", path)["live_blocks"], reached)
            os.unlink(path)
        self.assertIn("machine has died", self.tool("gc", self.rooted("rebooted"), "--dry-run"))

    def test_gc_frees_what_no_root_leads_to(self):
        path = self.rooted()
        document = self.tool_json("gc", path)
        self.assertEqual((document["reachable_blocks"], document["freed_blocks"]), (2, 4))
        self.assertEqual(self.tool_json("check", path)["result"], "clean")
        info = self.tool_json("info", path)
        self.assertEqual((info["live_blocks"], info["state"]), (2, "clean"))
        self.assertEqual(info["epochs"], [{"epoch": "kept", "blocks": 2, "bytes": info["live_bytes"]}])
        self.assertEqual(self.tool_json("gc", path)["freed_blocks"], 0)

    def test_gc_refuses_live_arenas_and_those_without_roots(self):
        path = self.image()
        before = digest(path)
        result = self.run_tool("gc", path, status=3)
        self.assertIn(b"no root is set", result.stderr)
        self.assertEqual(digest(path), before)
        path = self.path("live")
        owner = subprocess.Popen([MAKE_IMAGE, path, f"root:a:{self.LARGE}", "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 preexec_fn=die_with_parent)
        self.addCleanup(lambda: (owner.stdin.close(), owner.stdout.close(), owner.wait()))
        self.assertEqual(owner.stdout.readline(), b"locked\n")
        for arguments in ((), ("--dry-run",)):
            self.assertIn(b"is using it", self.run_tool("gc", path, *arguments, status=3).stderr)
        self.run_tool("gc", self.path("none"), status=4)

    def test_check_pointers_lists_words_into_volatile_memory(self):
        path = self.rooted(f"word:{self.LARGE + 800}:{0x7f1234567890}", f"word:{7 * 64 + 8}:{0x555555554010}",
                           f"word:{self.LARGE + 808}:{0x7f1234567890 << 8}", f"word:{self.SECOND}:{0x7f1234567890}")
        document = self.tool_json("check", path, "--pointers")
        self.assertEqual(document["reachable_blocks"], 2)
        found = [(pointer["id"] * 16, pointer["offset"], int(pointer["value"], 16)) for pointer in document["volatile_pointers"]]
        self.assertEqual(found, [(7 * 64, 8, 0x555555554010), (self.LARGE, 800, 0x7f1234567890)])
        self.assertEqual(document["volatile_pointer_count"], 2)
        self.assertIn("2 words", self.tool("check", path, "--pointers"))
        self.assertNotIn("volatile_pointers", self.tool_json("check", path))


def main():
    global BARTENDER, LIBRARY, MAKE_IMAGE
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    BARTENDER, LIBRARY, MAKE_IMAGE = map(os.path.abspath, sys.argv[1:4])
    # Ended from outside, too, the test cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]])


if __name__ == "__main__":
    main()
