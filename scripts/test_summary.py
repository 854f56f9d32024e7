#!/usr/bin/python3
"""Reads meson's testlog.json: shows the output of what failed, then ends with "N passed, N failed".

A test program counts as its own cases where it tells them: Boost.Test's short report, or a last
line "N passed, M failed", with or without "cases: " in front.  Any other program is one case.  A program that failed, was killed or
ran into its time limit has at least one failed case, whatever it printed before.

Usage: test_summary.py testlog.json STATUS_OF_MESON_TEST
       test_summary.py --self-test
"""

import json
import re
import sys

GOOD = {'OK', 'EXPECTEDFAIL'}
BOOST_PASSED = re.compile(r'^\s*(\d+) test cases? out of \d+ passed$', re.M)
BOOST_FAILED = re.compile(r'^\s*(\d+) test cases? out of \d+ failed$', re.M)
SKIPPED = re.compile(r'^skipped: (.*)$', re.M)
TOLD = re.compile(r'^(?:cases: )?(\d+) passed, (\d+) failed$', re.M)


def count(entry):
    """The passed and failed cases of one entry of the log."""
    output = (entry.get('stdout') or '') + '\n' + (entry.get('stderr') or '')
    passed = sum(int(n) for n in BOOST_PASSED.findall(output))
    failed = sum(int(n) for n in BOOST_FAILED.findall(output))
    for told_passed, told_failed in TOLD.findall(output)[-1:]:  # the last one is the total
        passed += int(told_passed)
        failed += int(told_failed)
    if entry['result'] in GOOD and failed == 0:
        return max(passed, 1), 0
    return passed, max(failed, 1)


def show(entry):
    print(f"\n==== {entry['result']}: {entry['name']} ({entry.get('duration', 0):.1f} s)")
    print('command: ' + ' '.join(entry.get('command') or []))
    for stream in ('stdout', 'stderr'):
        text = (entry.get(stream) or '').rstrip()
        if text:
            print(f'---- {stream}\n{text}')


# Entries as (result, stdout, stderr), with the cases that must be counted.
BOOST = 'Test module "m" has {}:\n  2 test cases out of {} passed\n'
SELF_TEST = [
    (('OK', '', ''), (1, 0)),
    (('EXPECTEDFAIL', '', ''), (1, 0)),
    (('OK', '', BOOST.format('passed', 2)), (2, 0)),
    (('OK', 'cases: 5 passed, 0 failed', ''), (5, 0)),
    (('OK', 'ok one\nskipped: two: no redis\n29 passed, 0 failed\n', ''), (29, 0)),
    (('FAIL', '7 passed, 0 failed\nsecond half\n9 passed, 1 failed\n', ''), (9, 1)),
    (('OK', 'the cases: 5 passed, 0 failed', ''), (1, 0)),
    (('FAIL', '', ''), (0, 1)),
    (('TIMEOUT', 'cases: 5 passed, 0 failed', ''), (5, 1)),
    (('ERROR', '', ''), (0, 1)),
    (('INTERRUPT', '', ''), (0, 1)),
    (('UNEXPECTEDPASS', '', ''), (0, 1)),
    (('FAIL', '', BOOST.format('failed', 5) + '  3 test cases out of 5 failed\n'
                  '  1 test case out of 5 aborted\n'), (2, 3)),
    (('FAIL', 'cases: 5 passed, 2 failed', ''), (5, 2)),
    # A program that says it failed is believed, whatever its exit status.
    (('OK', 'cases: 5 passed, 2 failed', ''), (5, 2)),
]


def self_test():
    wrong = 0
    for (result, stdout, stderr), counts in SELF_TEST:
        got = count({'result': result, 'stdout': stdout, 'stderr': stderr})
        if got != counts:
            print(f'{result} {stdout!r} {stderr!r}: counted {got}, not {counts}')
            wrong += 1
    print(f'cases: {len(SELF_TEST) - wrong} passed, {wrong} failed')
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ['--self-test']:
        return self_test()
    path, meson_status = sys.argv[1], int(sys.argv[2])
    passed = failed = 0
    skipped = []
    try:
        with open(path, encoding='utf-8', errors='replace') as log:
            entries = [json.loads(line) for line in log if line.strip()]
    except OSError as error:
        print(f'no test ran: {error}')
        entries = []
    for entry in entries:
        told = SKIPPED.findall(entry.get('stdout') or '')
        skipped += [f"{entry['name']}: {what}" for what in told]
        if entry['result'] == 'SKIP':
            if not told:
                skipped.append(entry['name'])
            continue
        entry_passed, entry_failed = count(entry)
        passed += entry_passed
        failed += entry_failed
        if entry_failed:
            show(entry)
    print()
    for name in skipped:
        print(f'skipped: {name}')
    # meson itself failed, or no test was there: nothing was shown to work.
    if failed == 0 and (meson_status != 0 or passed == 0):
        print(f'meson test ended with status {meson_status} after {len(entries)} programs')
        failed = 1
    print(f'{passed} passed, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
