"""A bartenderd for a test: started, listened to, and ended with whoever started it."""

import ctypes
import json
import select
import signal
import subprocess
import threading

TIME_LIMIT_S = 30


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Daemon:
    """One bartenderd; what it says is in `lines`."""

    def __init__(self, program, *arguments):
        self.process = subprocess.Popen([program, "--json", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        preexec_fn=die_with_parent)
        ready, _, _ = select.select([self.process.stdout], [], [], TIME_LIMIT_S)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.process.kill()
            raise AssertionError((self.process.communicate(), self.process.returncode))
        self.state = json.loads(line)
        self.port = int(self.state["address"].rsplit(":", 1)[1])
        self.lines = []
        self.collector = threading.Thread(target=self.collect, daemon=True)
        self.collector.start()

    def collect(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIME_LIMIT_S)
        self.collector.join(TIME_LIMIT_S)
        self.process.stdout.close()
        self.process.stderr.close()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIME_LIMIT_S)
